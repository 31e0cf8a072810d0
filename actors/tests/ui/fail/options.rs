use slimerpc_actors::service;

struct Calc;

#[service(version = 1, prefix = "not an identifier", name = "", retries(3))]
impl Calc {
    #[method(concurrent)]
    fn one(&self) {}

    #[method = "two"]
    fn two(&self) {}

    #[method]
    #[method]
    fn three(&self) {}
}

struct Twice;

#[service(name = "a", name = "b")]
impl Twice {
    #[method]
    fn one(&self) {}
}

struct Untold;

#[service(name, prefix = 3)]
impl Untold {
    #[method]
    fn one(&self) {}
}

struct Elsewhere;

#[service(crate = 3)]
impl Elsewhere {
    #[method]
    fn one(&self) {}
}

#[service(crate, prefix = "r#type")]
trait Nowhere {
    #[method]
    fn one(&self);
}

struct Garbage;

#[service("calc")]
impl Garbage {
    #[method]
    fn one(&self) {}
}

fn main() {}

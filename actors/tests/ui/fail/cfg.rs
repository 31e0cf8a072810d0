use slimerpc_actors::service;

struct Calc;

#[service]
impl Calc {
    #[cfg(unix)]
    #[method]
    fn add(&self) {}

    #[cfg(not(unix))]
    #[method]
    fn add(&self) {}
}

fn main() {}

use slimerpc_actors::service;

struct Calc;

#[service]
impl Calc {
    fn add(&self) {}
}

#[service]
trait Calculator {
    fn add(&self);
}

fn main() {}

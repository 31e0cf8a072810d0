use slimerpc_actors::service;

struct Calc;

#[service]
impl Calc {
    // The message would be public, but names the service, which is not.
    #[method]
    pub fn add(&self) {}
}

fn main() {}

use slimerpc_actors::method;

struct Calc;

impl Calc {
    #[method]
    fn add(&self) {}
}

trait Calculator {
    #[method(raw)]
    fn bytes(&self, request: &[u8]) -> Vec<u8>;
}

#[method]
fn free() {}

mod facade {
    pub use slimerpc_actors::{method as remote, service as served};
}

struct Renamed;

#[facade::served]
impl Renamed {
    #[method]
    fn add(&self) {}

    #[facade::remote]
    fn sub(&self) {}
}

fn main() {
    Calc.add();
}

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

fn main() {
    Calc.add();
}

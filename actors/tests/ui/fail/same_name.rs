use slimerpc_actors::service;

struct Calc;

#[service]
impl Calc {
    #[method]
    fn add(&self, a: i64) -> i64 {
        a
    }

    #[method(raw)]
    fn add(&self, a: &[u8]) -> Vec<u8> {
        a.to_vec()
    }
}

#[service]
trait Calculator {
    #[method]
    fn add(&self, a: i64) -> i64;

    #[method]
    fn add(&self, a: i64, b: i64) -> i64;
}

fn main() {}

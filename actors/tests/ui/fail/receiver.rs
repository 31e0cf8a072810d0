use slimerpc_actors::service;

struct Calc;

#[service]
impl Calc {
    #[method]
    fn free(a: i64) -> i64 {
        a
    }

    #[method]
    fn consume(self) {}

    #[method]
    fn boxed(self: Box<Self>) {}

    #[method]
    fn nothing() {}
}

fn main() {}

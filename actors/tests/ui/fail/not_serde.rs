use slimerpc_actors::service;

struct Calc;
struct Point;

#[service]
impl Calc {
    #[method]
    fn length(&self, point: Point) -> f64 {
        0.0
    }

    #[method]
    fn origin(&self) -> Point {
        Point
    }
}

fn main() {}

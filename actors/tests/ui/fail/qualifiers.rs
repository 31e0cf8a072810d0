use slimerpc_actors::service;

struct Calc;

#[service]
impl Calc {
    #[method]
    const fn constant(&self) {}

    #[method]
    unsafe fn dangerous(&self) {}

    #[method]
    extern "C" fn foreign(&self) {}
}

fn main() {}

//! What two services of one module do to each other, and to what else stands there.
#![allow(unused_variables)]

use slimerpc_actors::service;

struct Calc;

#[service]
impl Calc {
    #[method]
    fn add(&self, a: i64, b: i64) -> i64 {
        a + b
    }
}

#[service]
impl Calc {
    #[method]
    fn sub(&self, a: i64, b: i64) -> i64 {
        a - b
    }
}

#[service]
trait Adder {
    #[method]
    fn add(&self, a: i64) -> i64;

    #[method]
    fn total(&self) -> i64;
}

struct Total;

struct Log;

#[service]
impl Log {
    #[method]
    fn line(&self, text: String) {}
}

struct LogClient;

mod apart {
    // Has nothing to do with those.
    struct Calc;

    #[slimerpc_actors::service]
    impl Calc {
        #[method]
        fn add(&self, a: i64, b: i64) -> i64 {
            a + b
        }
    }

    fn inside() {
        struct Calc;

        #[slimerpc_actors::service]
        impl Calc {
            #[method]
            fn add(&self) {}
        }
    }
}

fn main() {}

//! A parallel method sees what the service shares, and nothing else.

use std::cell::Cell;
use std::sync::Arc;

use slimerpc_actors::{Share, service};

struct Calc;

#[service]
impl Calc {
    #[method(parallel)]
    fn with_self(&mut self, n: u8) -> u8 {
        n
    }

    #[method(parallel)]
    fn by_value(n: u8) -> u8 {
        n
    }

    #[method(parallel)]
    fn exclusive(shared: &mut u8) -> u8 {
        *shared
    }

    #[method(parallel)]
    fn nothing() {}
}

struct Stray;

#[service]
impl Stray {
    #[method(parallel)]
    fn health(shared: &u8) -> u8 {
        *shared
    }
}

struct Mixed;

impl Share for Mixed {
    type Shared = Cell<u8>;
    fn share(&self) -> Arc<Cell<u8>> {
        Arc::new(Cell::new(0))
    }
}

struct Other;

impl Share for Other {
    type Shared = u8;
    fn share(&self) -> Arc<u8> {
        Arc::new(0)
    }
}

#[service]
impl Other {
    #[method(parallel)]
    fn number(shared: &u16) -> u16 {
        *shared
    }
}

fn main() {}

use std::future::Future;

use slimerpc_actors::service;

struct Calc;

type Result = std::result::Result<u64, String>;

#[service]
impl Calc {
    #[method]
    fn text(&self) -> &str {
        "text"
    }

    #[method]
    fn nested(&self) -> Option<&[u64]> {
        None
    }

    #[method]
    fn any(&self) -> impl Iterator<Item = u64> {
        0..3
    }

    #[method]
    fn future(&self) -> impl Future<Output = u64> {
        async { 1 }
    }

    #[method]
    fn alias(&self) -> Result {
        Ok(1)
    }
}

fn main() {}

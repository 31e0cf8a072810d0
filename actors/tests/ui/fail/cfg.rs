#![allow(unused_variables)]

use slimerpc_actors::service;

struct Calc;

#[service]
impl Calc {
    #[cfg(unix)]
    #[method]
    fn add(&self) {}

    #[cfg(not(unix))]
    #[method]
    fn add(&self) {}
}

struct Other;

#[service]
impl Other {
    #[cfg_attr(all(), cfg(any()))]
    #[method]
    fn add(&self) {}

    #[cfg_attr(unix, doc = "x", cfg_attr(all(), cfg(any())))]
    #[method]
    fn sub(&self) {}

    #[cfg_attr(unix, method)]
    fn mul(&self) {}

    #[cfg_attr(unix, slimerpc_actors::method(raw))]
    fn bytes(&self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method]
    fn div(&self, a: i64, #[cfg(any())] b: i64) {}

    #[method]
    fn rem(&self, a: i64, #[cfg_attr(all(), cfg(any()))] b: i64) {}
}

fn main() {}

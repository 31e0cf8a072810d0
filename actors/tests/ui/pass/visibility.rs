//! Messages are as visible as their methods, clients as visible as can be.
#![allow(clippy::all)]
#![deny(warnings, missing_docs, unreachable_pub, private_interfaces)]

pub mod services {
    //! A library.

    use slimerpc_actors::service;

    /// Public, with a private method and private types in it.
    pub struct Calc;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Secret;

    #[service(name = "calc.v1", prefix = "Calc")]
    impl Calc {
        /// Sums.
        #[method]
        pub fn add(&mut self, a: i64, b: i64) -> i64 {
            a + b
        }

        #[method]
        fn hidden(&mut self, secret: Secret) -> Secret {
            secret
        }

        #[method]
        pub(crate) fn nearby(&mut self, other: Vec<u8>) -> Vec<u8> {
            other
        }
    }

    /// A second `add` in this module.
    #[service]
    pub(crate) trait Adder {
        #[method]
        fn add(&mut self, a: i64) -> i64;
    }
}

use services::{Adder, Calc, CalcAdd, CalcClient, CalcNearby};
use slimerpc_actors::{Message, Service};

fn client(client: &CalcClient, adder: &services::AdderClient) {
    let _ = client.add(1, 2);
    let _ = client.nearby(vec![]);
    let _ = adder.add(1);
}

fn main() {
    let _ = client;
    let _ = (CalcAdd { a: 1, b: 2 }, CalcNearby { other: vec![] });
    let _ = services::Add { a: 1 };
    assert_eq!(Calc::NAME, "calc.v1");
    assert_eq!(Calc::METHODS, ["add", "hidden", "nearby"]);
    assert_eq!(CalcAdd::METHOD, 0);
    assert_eq!(<dyn Adder>::METHODS, ["add"]);
}

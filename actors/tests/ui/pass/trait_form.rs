//! The trait form: callers know the trait, not what implements it.
#![allow(clippy::all)]
#![deny(warnings, missing_docs, unreachable_pub, private_interfaces)]

pub mod interface {
    //! What both sides know.

    use slimerpc_actors::{Stream, service};

    /// Calculates.
    #[service]
    pub trait Calculator {
        /// The sum of `a` and `b`.
        #[method]
        fn add(&mut self, a: i64, b: i64) -> i64;

        /// Slowly.
        #[method]
        async fn slow(&mut self, ms: u64) -> Result<u64, String>;

        /// With a body, that uses `?`.
        #[method]
        async fn twice(&mut self, mut ms: u64) -> Result<u64, String> {
            ms *= 2;
            if ms > 1000 {
                return Err("too slow".into());
            }
            Ok(self.slow(ms).await?)
        }

        /// Items.
        #[method(stream)]
        fn items(&mut self, to: u8) -> impl Stream<Item = u8>;

        /// With a body, of items that may be errors.
        #[method(stream)]
        fn risky(&mut self, to: u8) -> impl Stream<Item = Result<u8, String>> {
            futures_util::StreamExt::map(self.items(to), Ok)
        }

        /// Bytes.
        #[method(raw)]
        fn bytes(&self, request: &[u8]) -> Vec<u8> {
            request.to_vec()
        }

        /// Its message is called as the type parameter of the dispatch table might be.
        #[method]
        fn a(&mut self) {
            self.helper()
        }

        /// Not a method.
        fn helper(&self) {}
    }
}

use interface::{Add, Calculator, CalculatorClient, Risky, Slow};
use slimerpc_actors::{Call, Items, Reply, ServedBy, Service, Stream, StreamCall};

struct Mine;

impl Calculator for Mine {
    fn add(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }

    async fn slow(&mut self, ms: u64) -> Result<u64, String> {
        Ok(ms)
    }

    fn items(&mut self, to: u8) -> impl Stream<Item = u8> {
        futures_util::stream::iter(0..to)
    }
}

fn client(client: &CalculatorClient) {
    let _: Reply<i64> = client.add(1, 2);
    let _: Reply<u64> = client.slow(1);
    let _: Reply<Vec<u8>> = client.bytes(b"raw");
    let _: Items<u8> = client.items(1);
    let _: Items<u8> = client.risky(1);
}

fn messages<M: Call<Service = dyn Calculator>>(_: &M, method: &str) {
    assert_eq!(<dyn Calculator>::METHODS[M::METHOD], method);
}

fn streams<M: StreamCall<Service = dyn Calculator, Item = u8>>(_: &M, method: &str) {
    assert_eq!(<dyn Calculator>::METHODS[M::METHOD], method);
    assert!(<dyn Calculator>::STREAMS[M::METHOD]);
}

fn served<S: ServedBy<A> + ?Sized, A: 'static>() {}

fn main() {
    let _ = client;
    served::<dyn Calculator, Mine>();
    assert_eq!(<dyn Calculator>::NAME, "Calculator");
    messages(&Add { a: 1, b: 2 }, "add");
    messages(&Slow { ms: 1 }, "slow");
    streams(&Risky { to: 1 }, "risky");
    assert_eq!(Mine.add(1, 2), 3);
}

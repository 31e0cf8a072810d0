//! The inherent form: everything a method may be, in a private type.
#![allow(clippy::all)]
#![deny(warnings, missing_docs, unreachable_pub, private_interfaces)]

use std::io;

use slimerpc_actors::{Call, Reply, ServedBy, Service, service};

#[derive(Default)]
struct Calc {
    calls: u64,
}

#[service]
impl Calc {
    /// The sum of `a` and `b`.
    #[method]
    fn add(&mut self, a: i64, mut b: i64) -> i64 {
        self.calls += 1;
        b += a;
        b
    }

    #[method]
    async fn slow(&mut self, ms: u64) -> Result<u64, io::Error> {
        self.helper();
        Ok(ms)
    }

    #[method]
    async fn wait(&self) {}

    #[method]
    fn io(&self, path: String) -> io::Result<String> {
        Ok(path)
    }

    #[method]
    fn boxed(&self) -> Result<(), Box<dyn std::error::Error>> {
        Err("no".into())
    }

    #[method]
    fn reset(&mut self) {
        self.calls = 0;
    }

    #[method(raw)]
    fn bytes(&mut self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method(raw)]
    fn checked(&self, _: &[u8]) -> Result<[u8; 4], String> {
        Ok([0; 4])
    }

    #[method(raw)]
    fn fixed(&self, _request: &[u8]) -> &'static [u8] {
        b"fixed"
    }

    /// Names that generated code uses must not get in the way.
    #[method]
    fn odd(&mut self, state: u8, message: u8, request: u8, caller: u8, r#type: u8) -> u8 {
        state + message + request + caller + r#type
    }

    #[method]
    fn r#move(&mut self) {}

    fn helper(&self) {}
}

fn client(client: &CalcClient) {
    let _: Reply<i64> = client.add(1, 2);
    let _: Reply<u64> = client.slow(1);
    let _: Reply<()> = client.wait();
    let _: Reply<String> = client.io(String::new());
    let _: Reply<()> = client.boxed();
    let _: Reply<()> = client.reset();
    let _: Reply<Vec<u8>> = client.bytes(b"raw");
    let _: Reply<u8> = client.odd(1, 2, 3, 4, 5);
    let _: Reply<()> = client.r#move();
}

fn messages<M: Call<Service = Calc, Output = O>, O>(_: &M, method: &str) {
    assert_eq!(Calc::METHODS[M::METHOD], method);
}

fn served<S: ServedBy<A>, A: 'static>() {}

fn main() {
    let _ = client;
    served::<Calc, Calc>();
    assert_eq!(Calc::NAME, "Calc");
    assert!(Calc::METHODS.is_sorted());
    assert_eq!(Calc::METHODS.len(), 11);
    messages::<_, i64>(&Add { a: 1, b: 2 }, "add");
    messages::<_, u64>(&Slow { ms: 1 }, "slow");
    messages::<_, ()>(&Reset, "reset");
    messages::<_, ()>(&Move, "move");
    assert_eq!(Calc::default().add(1, 2), 3);
}

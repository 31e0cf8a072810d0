use slimerpc_actors::service;

struct Calc;

#[service]
impl Calc {
    #[method]
    fn send(&self) {}

    #[method]
    fn ok(&self) {}

    #[method]
    fn none(&self) -> Option<u8> {
        None
    }

    #[method]
    fn some(&self, _of: u8) {}

    #[method]
    fn err(&self) {}

    #[method]
    fn add_one(&self) {}

    #[method]
    fn add__one(&self) {}

    #[method]
    fn calc(&self) {}

    #[method]
    fn calc_client(&self) {}

    #[method]
    fn string(&self) {}

    #[method]
    fn __(&self) {}
}

struct Other;

#[service(prefix = "Other")]
impl Other {
    // With a prefix the message hides nothing, and the bytes of a raw method have none.
    #[method]
    fn string(&self) {}

    #[method(raw)]
    fn vec(&self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method]
    fn clone(&self) {}
}

struct Bytes;

#[service]
impl Bytes {
    #[method(raw)]
    fn sum(&self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method]
    fn sum_with(&self) {}
}

fn main() {}

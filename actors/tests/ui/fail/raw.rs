use slimerpc_actors::service;

struct Calc;

#[service]
impl Calc {
    #[method(raw)]
    fn owned(&self, request: Vec<u8>) -> Vec<u8> {
        request
    }

    #[method(raw)]
    fn exclusive(&self, request: &mut [u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method(raw)]
    fn none(&self) -> Vec<u8> {
        vec![]
    }

    #[method(raw)]
    fn two(&self, request: &[u8], more: &[u8]) -> Vec<u8> {
        vec![]
    }

    #[method(raw)]
    fn silent(&self, request: &[u8]) {}

    #[method(raw)]
    fn borrowed(&self, request: &[u8]) -> &[u8] {
        &[]
    }
}

fn main() {}

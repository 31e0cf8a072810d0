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

    #[method(inplace)]
    fn typed(&self, a: u32) -> u32 {
        a
    }

    #[method(raw, inplace)]
    fn unwritten(&self, request: &[u8]) -> usize {
        0
    }

    #[method(raw, inplace)]
    fn uncounted(&self, request: &[u8], reply: &mut [u8]) -> u32 {
        0
    }

    #[method(raw)]
    fn silent(&self, request: &[u8]) {}

    #[method(raw)]
    fn borrowed(&self, request: &[u8]) -> &[u8] {
        &[]
    }
}

fn main() {}

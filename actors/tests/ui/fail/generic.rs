use slimerpc_actors::service;

struct Calc;
struct Store<T>(T);
struct Cell<T>(T);

#[service]
impl Calc {
    #[method]
    fn any<T: ToString>(&self, value: T) -> String {
        value.to_string()
    }

    #[method(raw)]
    fn borrowed<'a>(&'a self, bytes: &'a [u8]) -> Vec<u8> {
        bytes.to_vec()
    }
}

#[service]
impl<T> Store<T> {
    #[method]
    fn get(&self) {}
}

#[service]
impl Cell<u8> {
    #[method]
    fn get(&self) {}
}

#[service]
trait Reader<T> {
    #[method]
    fn read(&self) -> u8;
}

fn main() {}

//! A stream method gives back `impl Stream` of values that can be sent.

use slimerpc_actors::{Stream, service};

struct Model;

#[service]
impl Model {
    #[method(stream)]
    fn nothing(&mut self) {}

    #[method(stream)]
    fn vector(&mut self) -> Vec<u8> {
        Vec::new()
    }

    #[method(stream)]
    async fn later(&mut self) -> impl Stream<Item = u8> {
        futures_util::stream::empty()
    }

    #[method(stream)]
    fn borrowed(&mut self) -> impl Stream<Item = &'static str> {
        futures_util::stream::empty()
    }

    #[method(stream, raw)]
    fn raw(&mut self, _request: &[u8]) -> impl Stream<Item = Vec<u8>> {
        futures_util::stream::empty()
    }

    #[method(stream, oneway)]
    fn oneway(&mut self) -> impl Stream<Item = ()> {
        futures_util::stream::empty()
    }

    #[method]
    fn plain(&mut self) -> impl Stream<Item = u8> {
        futures_util::stream::empty()
    }
}

fn main() {}

use std::borrow::Cow;

use slimerpc_actors::service;

struct Calc;

#[service]
impl Calc {
    #[method]
    fn text(&self, text: &str) {}

    #[method]
    fn bytes(&self, bytes: &[u8]) {}

    #[method]
    fn words(&self, words: &[std::string::String], number: &mut i64) {}

    #[method]
    fn nested(&self, text: Option<&'static str>, cow: Cow<'_, str>) {}

    #[method]
    fn pattern(&self, (a, b): (i64, i64), _: u8) {}

    #[method]
    fn any(&self, text: impl Into<String>) {}
}

fn main() {}

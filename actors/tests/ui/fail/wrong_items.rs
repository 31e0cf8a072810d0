use slimerpc_actors::service;

#[service]
struct Calc;

#[service]
fn add() {}

trait Calculator {
    fn add(&self);
}

#[service]
impl Calculator for Calc {
    #[method]
    fn add(&self) {}
}

#[service]
impl [u8; 4] {
    #[method]
    fn add(&self) {}
}

#[service]
unsafe trait Dangerous {
    #[method]
    fn add(&self);
}

#[service]
trait Associated {
    type Item;
    const LIMIT: usize;

    #[method]
    fn add(&self, other: Self) -> Self::Item;
}

struct Constants;

#[service]
impl Constants {
    #[method]
    const ONE: u8 = 1;

    #[method]
    fn one(&self) {}
}

fn main() {}

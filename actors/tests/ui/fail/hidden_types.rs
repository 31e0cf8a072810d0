//! A message hides whatever else has its name.
#![allow(unused_variables)]

use slimerpc_actors::service;

mod geometry {
    #[derive(serde::Serialize, serde::Deserialize)]
    pub struct Point;

    #[derive(serde::Serialize, serde::Deserialize)]
    pub struct DrawingClient;
}

use geometry::{DrawingClient, Point};

struct Drawing;

#[service]
impl Drawing {
    #[method]
    fn point(&self, at: Option<Point>) {}

    #[method]
    fn other(&self) -> Result<u8, Vec<Other>> {
        Ok(1)
    }

    #[method]
    fn client(&self, of: DrawingClient) {}
}

struct Arguments;

#[service(prefix = "Of")]
impl Arguments {
    #[method]
    fn reset(&self) {}

    #[method]
    fn set(&self, OfReset: u8) {}

    #[method]
    fn twice(&self, a: u8, a: u8) {}
}

fn main() {}

//! What the tests of NanoCtrl share. Each uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod fixture;
pub mod http;
pub mod table;

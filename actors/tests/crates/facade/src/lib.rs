//! Re-exports the actors, as the one crate of a company would.

pub use slimerpc_actors::{self as rpc, method, service};

//! RPC over RDMA for actors: everything below the actors.

pub mod channel;
pub mod control;
pub mod fabric;
pub mod nanoctrl;
pub mod wire;

//! SlimeRPC for actix: services are actors whose mailbox is an RDMA receive ring.

mod agent;
mod answer;
mod arbiter;
mod builder;
mod error;
mod handshake;
mod instance;
mod proxy;
mod reply;
mod ring_context;
mod serve;
mod service;
mod supervisor;

pub use agent::{Connect, PeerAgent};
pub use builder::Builder;
pub use error::{AgentError, RpcError};
pub use proxy::{Caller, Proxy};
pub use reply::{Reply, wait_all};
pub use serve::ServiceHandle;
pub use service::{Call, Dispatch, Finished, ServedBy, Service};
pub use slimerpc;
pub use slimerpc::channel::Inbound as Request;
pub use slimerpc_macros::{method, service};

/// What the code that `#[service]` writes refers to. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::answer::{Failure, answer, answer_async, answer_raw, unknown_method};
    pub use serde;
}

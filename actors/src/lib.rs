//! SlimeRPC for actix: services are actors whose mailbox is an RDMA receive ring.
//!
//! ```
//! use slimerpc_actors::{PeerAgent, service};
//!
//! #[derive(Default)]
//! struct Counter {
//!     total: i64,
//! }
//!
//! #[service]
//! impl Counter {
//!     #[method]
//!     fn add(&mut self, n: i64) -> i64 {
//!         self.total += n;
//!         self.total
//!     }
//! }
//!
//! #[actix::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let worker = PeerAgent::builder().alias("worker:0").start().await?;
//!     worker.serve(Counter::default()).await?;
//!
//!     // In another process the same, with `.nanoctrl("http://127.0.0.1:3000")` on both builders.
//!     let driver = PeerAgent::builder().alias("driver:0").start().await?;
//!     let counter = driver.proxy::<Counter>("worker:0").await?;
//!     let (first, second) = (counter.add(40), counter.add(2)); // both are under way now
//!     assert_eq!((first.await?, second.await?), (40, 42));
//!     Ok(())
//! }
//! ```
//!
//! # What is what
//!
//! - [`PeerAgent`] is the handle of a supervisor actor: it registers, finds peers and connects to
//!   them, serves and calls. [`Builder`] has its settings, in one table.
//! - [`macro@service`] and [`macro@method`] make an `impl` or a trait a [`Service`]: its messages,
//!   a dispatch table, and the methods of its proxy.
//! - A service instance is an actor on an arbiter of its own. Its context polls the receive rings
//!   of all its callers there, so no thread hop lies between the wire and the handler, and runs one
//!   handler at a time, also across `.await` (SERIAL-1): what a lock is elsewhere, the actor is
//!   here.
//! - The factory that a service was served with replaces an instance that panics or asks for it;
//!   [`Restart`], [`Strategy`] and [`Lifecycle`] control this.
//! - [`Proxy`] is a service's address: `Clone`, `Send`, and used like an actix `Addr`. A call is
//!   sent when the method is called, not when its [`Reply`] is polled.
//! - [`Reply`] is a future; [`Reply::timeout`] gives it a deadline, [`Reply::wait`] blocks a thread
//!   that runs no async code, [`wait_all`] awaits many. Dropping a reply cancels its call.
//! - [`Items`] is the stream that a `#[method(stream)]` returns; each item takes a credit. Dropping
//!   it ends the stream.
//! - [`PeerAgent::discover`] finds services by their type, [`PeerAgent::watch_services`] follows
//!   them, and [`PeerAgent::proxy_any`] and [`PeerAgent::group_of`] return proxies for them.
//! - [`RpcError`] is the error of a call, [`AgentError`] that of everything else.
//!
//! Folders, from the lowest: `error`, `supervision`, `observe`, `client`, `service`, `memory`,
//! `dlslime`, `agent`, `discovery`, `any_error`. A folder uses those before it only; a test checks
//! this.
//!
//! Agents live inside an actix system or any tokio runtime; without a system they start one of
//! their own, on a thread beside. The layers below, their words and the invariants that the names
//! in capitals stand for are described in [`slimerpc`].

mod agent;
mod any_error;
mod client;
mod discovery;
mod dlslime;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod memory;
mod observe;
pub mod semantics;
mod service;
mod supervision;

pub use agent::builder::Builder;
pub use agent::handle::{Connect, PeerAgent};
pub use agent::serve::{Serve, ServeOnce, ServiceHandle};
pub use agent::settings::{Limits, Polling, Timeouts};
pub use any_error::Error;
pub use client::channel_view::ChannelView;
pub use client::group::{Gather, Group, GroupError, MemberError};
pub use client::items::Items;
pub use client::peer_status::PeerStatus;
pub use client::proxy::{Caller, Proxy, Recipient, SendError};
pub use client::reply::{Reply, wait_all, wait_all_settled};
pub use client::service::{Call, Message, Service, StreamCall};
pub use client::tell::{AgentEvent, Events, Tell};
pub use client::watch::{PeerEvent, Terminated, Watch};
pub use discovery::find::DiscoveryError;
pub use discovery::service_changes::{ServiceChange, ServiceChanges};
pub use discovery::service_instance::{Compatibility, ServiceInstance};
pub use error::{AgentError, Ran, ReturnedValue, RpcError};
pub use futures_util::Stream;
pub use memory::buffer::{BufferError, OwnBuffer, RdmaBuffer};
pub use memory::remote_buffer::{BufferBytes, RemoteBuffer};
pub use observe::figures::{Figures, OneSidedBytes, RingOccupancy, ServiceFigures};
pub use observe::trace::trace_one_in;
pub use service::served_by::{Dispatch, Finished, Parallel, ServedBy, Share};
pub use slimerpc::backoff::Backoff;
pub use slimerpc::channel::{
    ConnectError, ConnectionReading, Credits, Distribution, Geometry, LossCause, MemoryAccount,
    MemoryError, MethodMismatch, MethodReading, Mismatch, NotReopened, Outcome, PayloadBytes,
    Profile, Violation, Violations,
};
pub use slimerpc::channel::{Inbound as Request, ReplyBytes, Rights};
pub use slimerpc::control::{ClientTls, ControlError, Secret, ServiceRecord};
pub use slimerpc::fabric::{FabricError, LinkType, OutOfRange, RetryPolicy};
pub use slimerpc::wire::{CodecLimits, PayloadCodec, Signature};
pub use slimerpc::wire::{DecodeError, EncodeError, pickle};
pub use slimerpc_macros::{method, service};
pub use supervision::factory::Start;
pub use supervision::lifecycle::{EndCause, Lifecycle, restart, retire};
pub use supervision::restart::{Restart, Strategy};

/// Devices that fail on a plan, to test how a program handles failures: see
/// [`Builder::wrap_device`].
#[cfg(feature = "faults")]
pub mod faults {
    pub use slimerpc::fabric::faults::*;
    pub use slimerpc::fabric::{CompletionStatus, Device};
}

/// Items that the code of `#[service]` refers to. Not for direct use.
#[doc(hidden)]
pub mod __private {
    pub use crate::service::answer::{
        Failure, Returned, TextOnly, WithValue, answer, answer_async, answer_in_turn,
        answer_inplace, answer_inplace_async, answer_raw, answer_raw_async, answer_rewritten,
        answer_rewritten_async, lend, lend_mut,
    };
    pub use crate::service::answer_stream::answer_stream;
    pub use crate::service::macro_support::{CloneField, DebugField, ShapeOf, Shaped, Shapeless};
    pub use crate::service::served_by::unknown_method;
    pub use futures_util::StreamExt;
}

/// Compiles and runs the programs in the README and in the book.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/getting-started.md")]
    struct GettingStarted;
    #[doc = include_str!("../../docs/services.md")]
    struct Services;
    #[doc = include_str!("../../docs/calling.md")]
    struct Calling;
    #[doc = include_str!("../../docs/supervision.md")]
    struct Supervision;
    #[doc = include_str!("../../docs/recipes.md")]
    struct Recipes;
    #[doc = include_str!("../../docs/testing.md")]
    struct Testing;
    #[doc = include_str!("../../docs/migration.md")]
    struct Migration;
}

//! One connection to one peer: rings, credits and pending calls.
//!
//! A channel is a connected queue pair with a receive ring at each end. The calling side writes
//! requests into the other's ring, one to a slot, and holds the slot until the answer stands in the
//! slot of the same number of its own ring.
//!
//! ```text
//!   caller                                                     responder
//!   ┌───────────────┐  WRITE_WITH_IMM, imm = slot              ┌───────────────┐
//!   │ send memory k │ ───────────────────────────────────────▶ │ request ring k│ ─▶ handler
//!   └───────────────┘                                          └───────────────┘
//!   ┌───────────────┐              WRITE_WITH_IMM, imm = slot  ┌───────────────┐
//!   │ reply ring k  │ ◀─────────────────────────────────────── │ send memory k │ ◀─ handler
//!   └───────────────┘                                          └───────────────┘
//! ```
//!
//! Over shared memory, send memory *k* of a native peer is slot *k* of the ring that it is written
//! into, once that is mapped: the message is made where it is read, and the WRITE copies nothing.
//!
//! Two state machines without I/O or clock, `core::caller` and `core::responder`, decide what may
//! happen when; they are told the time and the completions, and say what to post, what to answer
//! and whom to wake. Around them are shells:
//! [`ClientChannel`] for callers on any thread, and [`Mailbox`] for a service on its own thread,
//! which joins the request rings of all its peers.
//!
//! A payload beyond a slot does not travel through the rings (*rendezvous*, native peers only). Its
//! sender keeps it in a registered [`PooledBuffer`] and sends its location. The receiver RDMA-READs
//! it over a queue pair that carries nothing else, and acknowledges it. The answer releases the
//! payload of a request.
//!
//! A stream of items uses credits as calls do: each item is the answer to a request of its own, the
//! first to the one that opens the stream, the others to requests for the next item
//! ([`StreamPart`](crate::wire::StreamPart)).
//!
//! A third state machine, [`peer_connection`], decides which end connects with which, and which
//! incarnation of a peer to believe in.
//!
//! There are two [profiles](Profile). *Native*: both ends are this crate and have exchanged
//! [`Descriptor`]s. *Compatible*: the other end is a DLSlime peer. They share the state machines
//! and differ in the handshake, and in what the bytes mean.
//!
//! Of the [invariants](crate#invariants) of this crate, SLOT-1, SLOT-2, RING-1, CALL-1, CALL-2 and
//! ORDER-1 are kept here.

mod answer;
mod buffer;
mod buffer_pool;
mod bulk;
mod call_figures;
mod call_span;
mod callers;
mod client;
mod completion_watcher;
mod core;
mod descriptor;
mod dialer;
mod dlslime;
mod endpoint;
mod error;
mod geometry;
mod growth;
mod heartbeat;
mod heartbeat_queue;
mod in_order;
mod inbound;
mod lend;
mod liveness;
#[cfg(test)]
mod loopback;
mod mailbox;
mod one_sided;
mod parker;
mod peer_channel;
#[doc(hidden)]
pub mod peer_connection;
mod pending;
mod profile;
mod queue_pair_group;
mod registered;
mod send_queue;
#[cfg(test)]
mod simulation;
mod stream;
mod violation;
mod work_id;

pub use self::core::caller::Credits;
pub use answer::ReplyBytes;
pub use buffer::Rights;
pub use buffer_pool::{MemoryAccount, MemoryError};
pub use call_figures::{
    CallFigures, ConnectionReading, Distribution, MethodReading, Outcome, PayloadBytes, WokenAt,
};
pub use call_span::CallSpan;
pub use descriptor::{MethodMismatch, Mismatch};
pub use error::{ConnectError, LossCause, NotReopened};
pub use geometry::{BadGeometry, Geometry};
pub use inbound::{Inbound, RequestId};
pub use profile::Profile;
pub use violation::{Violation, Violations};

// What agents are made of, for `slimerpc-actors` alone.
#[doc(hidden)]
pub use self::{
    answer::{Answer, AnswerView},
    buffer::{Buffer, BufferLocation},
    buffer_pool::{BufferPool, MemoryLimits, PooledBuffer},
    client::{ClientChannel, StreamName, TellError, TellFailure, WaitPolicy},
    core::caller::CallId,
    descriptor::{Descriptor, HostId, Route, ServiceTable},
    dialer::Dialer,
    endpoint::{Endpoint, GidHalves, QueuePairInfo, RingAddress},
    error::CallError,
    geometry::Geometries,
    heartbeat::{Heartbeat, HeartbeatEvent},
    heartbeat_queue::HeartbeatQueues,
    inbound::ServiceInfo,
    liveness::{Change, HeartbeatTiming, Liveness},
    mailbox::{Delivery, Mailbox},
    one_sided::{Exposed, OneSided, OneSidedDialer, PendingTransfer, TransferError},
    parker::Parker,
    pending::{OneWayCall, PendingCall},
    registered::RegisteredMemory,
    stream::ItemSink,
};

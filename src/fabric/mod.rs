//! The interface between a [channel](crate::channel) and the transport that moves its bytes, in the
//! shape of RDMA verbs.
//!
//! The traits here follow the verbs nouns of the InfiniBand Architecture (volume 1, chapters 10 and
//! 11): a [`Device`] registers [`MemoryRegion`]s and creates [`CompletionQueue`]s and
//! [`QueuePair`]s; work requests go in at a queue pair, [`Completion`]s come out at the [`Poller`]
//! of a completion queue.
//!
//! Implementations:
//! - [`shm`]: two processes of one user on one host, or one process with itself.
//! - [`tcp`]: any two hosts.
//! - `verbs` (cargo feature of that name): libibverbs devices, soft-RoCE among them.
//! - `faults` (cargo feature of that name): any of them, with failures on a plan, for tests.
//!
//! [`open()`] opens either by name.
//!
//! What an implementation must do beyond its types is written down once, as the executable suite in
//! [`conformance`]; each implementation runs it.

mod completion;
mod completion_queue;
pub mod conformance;
mod device;
#[cfg(test)]
pub(crate) mod drop_order;
mod error;
pub(crate) mod eventfd;
mod fabrics;
#[cfg(feature = "faults")]
pub mod faults;
#[cfg(test)]
pub(crate) mod heap;
mod limits;
mod memory_region;
mod queue_pair;
mod retry_timing;
mod shared_bytes;
pub mod shm;
mod soft_rnr_monitor;
mod software;
pub mod tcp;
#[cfg(feature = "verbs")]
pub mod verbs;
mod work_request;

pub use completion::{Completion, CompletionStatus, Opcode};
pub use completion_queue::{CompletionEvents, CompletionQueue, Poller, QueueHalves};
pub use device::{Device, DeviceLimits, LinkType, PortAttributes, SHM, TCP, open};
pub use error::FabricError;
#[doc(hidden)]
pub use fabrics::{FabricKind, Fabrics, MalformedFabrics};
pub use limits::{SystemLimit, raise_open_files};
pub use memory_region::{Access, MemoryRegion, OutOfRange};
pub use queue_pair::{
    Gid, QueuePair, QueuePairAddress, QueuePairInit, QueuePairState, RetryPolicy,
};
pub use soft_rnr_monitor::{RnrError, SoftRnrMonitor};
pub use tcp::{TcpAddress, TcpKey};
pub use work_request::{Operation, Payload, RecvRequest, RemoteSlice, SendRequest, Sge};

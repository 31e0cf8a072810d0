//! Devices that fail on a plan, for tests of message passing.
//!
//! [`Faults::wrap`] puts a device behind the same traits, and a [`Plan`] decides what goes wrong:
//! by script ("the third send fails"), or by chance from a seed. An empty plan changes nothing, and
//! the wrapped device then passes the whole [conformance suite](super::conformance). A plan does to
//! a connection only what a fabric may do: completions of one queue pair stay in order, a failed
//! one puts its queue pair in error and flushes the rest, and memory is never touched after it was
//! dropped (DROP-1).
//!
//! | kind | faults |
//! | --- | --- |
//! | refusals | [`RegistrationRefused`](Fault::RegistrationRefused), [`QueuePairRefused`](Fault::QueuePairRefused), [`SendQueueFull`](Fault::SendQueueFull), [`ReceiveQueueFull`](Fault::ReceiveQueueFull), [`PostRefused`](Fault::PostRefused) |
//! | the end of a connection | [`SendFails`](Fault::SendFails), [`CompletionFails`](Fault::CompletionFails), [`PeerLost`](Fault::PeerLost), [`QueueFails`](Fault::QueueFails) |
//! | what a correct program only sees as time | [`Delayed`](Fault::Delayed), [`Overtaken`](Fault::Overtaken), [`NotReady`](Fault::NotReady), [`Frozen`](Fault::Frozen) |
//!
//! Whether a rule strikes depends on the seed, the queue pair (numbered in the order of creation)
//! and how often the rule was asked there; one queue pair's faults do not depend on what others do
//! meanwhile. The [`FaultStats`] count what did happen: a test that does not check them may have
//! tested nothing.
//!
//! ```
//! use slimerpc::fabric::faults::{Fault, Faults, Plan};
//! use slimerpc::fabric::{Access, FabricError, shm::ShmDevice};
//!
//! let faults = Faults::new(Plan::new().with(Fault::RegistrationRefused.nth(1)));
//! let device = faults.wrap(ShmDevice::open()?);
//! device.register(4096, Access::ALL)?;
//! let refused = device.register(4096, Access::ALL).unwrap_err();
//! assert!(matches!(refused, FabricError::MemoryLock { needed: 4096, .. }));
//! assert_eq!(faults.stats().refused_registrations, 1);
//! # Ok::<(), FabricError>(())
//! ```

mod completion_queue;
mod controller;
mod device;
mod fault_rng;
mod pair;
mod plan;
mod queue_pair;
mod staging;
mod stats;
#[cfg(test)]
mod tests;
mod timer;

pub use controller::Faults;
pub use plan::{Fault, Plan, Rule};
pub use stats::FaultStats;

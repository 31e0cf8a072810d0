//! The state machines of a channel, without I/O, clock and locks.
//!
//! A machine is told what arrives and what time it is, and returns what is to be posted and which
//! tasks to wake. The shells around it, [`ClientChannel`](super::ClientChannel) and
//! [`Mailbox`](super::Mailbox), hold the queues and the lock. The simulation and the property tests
//! drive the same machines.

pub(super) mod caller;
pub(super) mod responder;
pub(super) mod slot;
mod stream;

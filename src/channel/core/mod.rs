//! The state machines of a channel, without I/O, clock and locks.
//!
//! A machine is told what arrives and what time it is, and says what is to be posted and who is to
//! be woken. The shells around it, [`ClientChannel`](super::ClientChannel) and
//! [`Mailbox`](super::Mailbox), hold the queues and the lock. The simulation and the property tests
//! drive the same machines.

pub(super) mod caller;
pub(super) mod responder;
pub(super) mod slot;

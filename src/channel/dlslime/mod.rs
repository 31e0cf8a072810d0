//! Channels whose other end is a DLSlime peer.
//!
//! They are the channels of native peers, in the [profile](super::Profile) *compatible*, but they
//! are connected in another order: both sides exchange and connect any number of queue pairs, and
//! only then say where their rings are. What DLSlime's messages look like stands in
//! [`wire`](crate::wire).

mod dialer;
mod mailbox;

pub(super) use mailbox::Arriving;

//! RPC over RDMA for actors: everything below the actors.
//!
//! Users import [`slimerpc-actors`](https://docs.rs/slimerpc-actors), whose services, proxies and
//! agents use this crate. It has the parts that do not depend on actors. What only
//! `slimerpc-actors` needs of them is public, but hidden from these pages:
//!
//! | module | what it is | knows |
//! | --- | --- | --- |
//! | [`wire`] | the 16-byte header, the immediate, codecs | bytes |
//! | [`fabric`] | the verbs: devices, queue pairs, completion queues; shared memory as one of them | |
//! | [`channel`] | one link to one peer: rings, credits, pending calls; a mailbox over many of them | wire, fabric |
//! | [`control`] | what an agent says to NanoCtrl (HTTP) and Redis; in one process without either | |
//! | [`nanoctrl`] | the NanoCtrl server | the keys of control |
//! | [`backoff`] | pauses between attempts | |
//!
//! Folders, from the lowest: `clock`, `panics`, `backoff`, `unique`, `tls`, `wire`, `fabric`,
//! `channel`, `control`, `settings`, `nanoctrl`. A folder uses those before it only.
//!
//! # The way of a call
//!
//! 1. The caller takes a **credit**, a free slot of the service's ring, and encodes the arguments
//!    straight into the send memory of that slot ([`channel::ClientChannel::call`]). One
//!    WRITE_WITH_IMM carries them over; the immediate is the slot's number.
//! 2. The service's completion queue yields the immediate ([`channel::Mailbox::poll`]), on the
//!    thread of the service. The request is lent from the ring ([`channel::Inbound`]); nothing is
//!    copied.
//! 3. The answer is encoded into send memory and written into the slot of the same number of the
//!    caller's ring.
//! 4. The waiter polls the caller's completion queue, busily for a bounded time and then asleep on
//!    its file descriptor, and returns the credit when the answer is read or,
//!    if it is small, copied.
//!
//! # Words
//!
//! The field's: queue pair, completion queue, memory region, work request, completion, immediate,
//! rkey, GID, RNR. This crate's:
//!
//! - A **ring** is a registered region of `slots` x `slot_size` bytes that one peer writes into.
//! - A **credit** is the sender's right to one slot.
//! - A **channel** is a connected pair of rings and its pending calls.
//! - An **incarnation** is one run of an agent under its alias.
//!
//! # Invariants
//!
//! Tests name the one that they prove.
//!
#![doc = include_str!("invariants.md")]
//!
//! # Features
//!
//! - `server`: the NanoCtrl server ([`nanoctrl`]) and its program. On by default; `slimerpc-actors`
//!   does without it.
//! - `verbs`: RDMA devices (InfiniBand, RoCE, soft-RoCE) through libibverbs. Off by default, as it
//!   needs `libibverbs-dev libclang-dev cmake make g++ python3 pkg-config` to build; without it
//!   there is shared memory.
//! - `faults`: devices that fail on a plan (`fabric::faults`), for tests of how a program handles
//!   failures.
//! - `tls`: TLS for Redis (`rediss://`), for NanoCtrl (`https://`) and for peers over TCP. Needs a
//!   C compiler to build.

pub mod backoff;
pub mod channel;
#[doc(hidden)]
pub mod clock;
mod complaints;
pub mod control;
pub mod fabric;
#[cfg(feature = "server")]
pub mod nanoctrl;
#[doc(hidden)]
pub mod panics;
#[doc(hidden)]
pub mod settings;
pub mod tls;
#[doc(hidden)]
pub mod unique;
pub mod wire;

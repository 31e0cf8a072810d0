//! The state machines of channels under schedules that no test would think of, without I/O or
//! clock.
//!
//! [`pair`] has one caller face one responder through steps that proptest chooses, and shrinks;
//! [`shells`] does so with the channel and the mailbox around them, on a fabric. Here, two to eight
//! agents live in a [`World`](world::World) of their own: a fabric whose queue pairs keep their
//! order and nothing else, a control plane whose records are stale and whose messages are late,
//! lost lives and new ones, freezes and outages, under one virtual clock and one seed. Each agent
//! has for each of its peers a [`PeerConnection`](super::peer_connection::PeerConnection), and for
//! each session a `Caller`, a `Responder` and the account of a send queue, as the shells have them;
//! completions find their way by [`WorkId`](super::work_id::WorkId). Programs sleep until a machine
//! has them woken. They keep answers beyond the end of a channel, and handlers requests.
//! After each step the world, which knows what is true, checks what was promised:
//!
//! | invariant | what is checked |
//! | --- | --- |
//! | SLOT-1 | nothing is written into a slot that a call, or its late answer, does not hold; no correct peer causes a violation |
//! | SLOT-2 | credits are conserved after each step, and all free when the world has come to rest |
//! | RING-1 | a handler finds the bytes that arrived when it answers, a caller those of its answer when it reads |
//! | CALL-1 | no call outlives its deadline or its channel; at rest all have ended, none was run twice, and none that was run is said not to have been sent; each request for an item is answered |
//! | CALL-2 | late answers are counted, and only those |
//! | ORDER-1 | requests of a session arrive in the order in which they were made; items go to the requests for them in order |
//! | DROP-1 | a closed channel gives its memory back once nothing reads or writes it, and not earlier |
//! | FENCE-1 | the life of a peer that is believed in never goes back; what arrives is of the session that is up |
//! | one connection | at rest, both ends of each wanted link are connected, with one another |
//!
//! A seed that fails says so: `SLIME_SIM_SEED=seed cargo test -p slimerpc --lib simulation` runs it
//! alone and tells what happened. `SLIME_SIM_SEEDS=100000` runs so many.

mod agent;
mod calls;
mod control;
mod fabric;
mod linking;
mod pair;
mod rest;
mod schedule;
mod seeds;
mod service;
mod shells;
mod trouble;
mod trouble_queue;
mod world;

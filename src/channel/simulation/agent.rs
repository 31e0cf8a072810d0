//! An agent, and its state for each of its peers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::fabric::{Completed, MessageContent, Port};
use super::schedule::Micros;
use crate::channel::core::caller::{CallId, Caller};
use crate::channel::core::responder::{Responder, SlotRequest};
use crate::channel::peer_connection::{PeerConnection, RetryTiming, Session};
use crate::channel::send_queue::SendQueue;

/// One incarnation of an agent: its index among the agents, and how many incarnations it had
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) agent: usize,
    pub(super) life: usize,
}

/// One incarnation.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) incarnation: u64,
    pub(super) frozen_until: Micros,
    /// By place in the list of its alias's peers.
    pub(super) peers: Vec<Peer>,
    pub(super) completions: VecDeque<Completed>,
    pub(super) is_polling: bool,
}

/// The state of an agent for one peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) link: PeerConnection<Port>,
    /// The earliest timer that is planned for the link.
    pub(super) timer: Option<Micros>,
    /// What is being made.
    pub(super) making: Option<Session>,
    /// What was made for the session that the link has.
    pub(super) made: Option<(Session, Port)>,
    pub(super) up: Option<Up>,
    /// How many sessions there were: the owner of work requests.
    pub(super) generation: u64,
    /// The last incarnation of the peer that a session was up with.
    pub(super) believed: Option<usize>,
    pub(super) caller: Caller,
    pub(super) replies: Box<[Option<MessageContent>]>,
    pub(super) live: BTreeMap<CallId, Live>,
    /// Calls that were given up, and whose answers have yet to come.
    pub(super) forgotten: usize,
    pub(super) late: u64,
}

/// A session that can be used.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) port: Port,
    pub(super) responder: Responder,
    pub(super) sends: SendQueue,
    /// Signals that wait for a place in the send queue.
    pub(super) unsent: VecDeque<(u32, Option<MessageContent>)>,
    /// The request that arrived last.
    pub(super) last: Option<u64>,
    /// Requests that wait for the handler, the one that runs in front.
    pub(super) requests: VecDeque<(Box<SlotRequest>, MessageContent)>,
}

/// A call that its program still holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live {
    pub(super) call: usize,
    pub(super) slot: Option<u16>,
    pub(super) deadline: Option<Instant>,
    /// When its program reads the answer, which has arrived.
    pub(super) reads_at: Option<Micros>,
}

impl Peer {
    pub(super) fn new(incarnation: u64, timing: RetryTiming, slots: usize) -> Self {
        Self {
            link: PeerConnection::new(incarnation, timing),
            timer: None,
            making: None,
            made: None,
            up: None,
            generation: 0,
            believed: None,
            caller: Caller::of(slots),
            replies: vec![None; slots].into(),
            live: BTreeMap::new(),
            forgotten: 0,
            late: 0,
        }
    }
}

//! An agent, and its state for each of its peers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::fabric::{Completed, MessageContent, Port};
use super::schedule::Micros;
use super::shells::Alarm;
use crate::channel::core::caller::{CallId, Caller};
use crate::channel::core::responder::{Responder, SlotRequest};
use crate::channel::lend::SlotToken;
use crate::channel::peer_connection::{PeerConnection, RetryTiming, Session};
use crate::channel::send_queue::SendQueue;
use crate::wire::StreamPart;

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
    pub(super) up: Option<Channels>,
    /// Closed channels that programs or handlers have something of.
    pub(super) closed: Vec<Channels>,
    /// How many sessions there were: the owner of work requests.
    pub(super) generation: u64,
    /// The last incarnation of the peer that a session was up with.
    pub(super) believed: Option<usize>,
    /// Late answers of closed channels.
    pub(super) late: u64,
}

/// The channels of a session: this end of the one that the agent calls over, and of the one over
/// which it is called.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) port: Port,
    pub(super) sends: SendQueue,
    /// Signals that wait for a place in the send queue.
    pub(super) unsent: VecDeque<(u32, Option<MessageContent>)>,

    pub(super) caller: Caller,
    pub(super) replies: Box<[Option<MessageContent>]>,
    pub(super) live: BTreeMap<CallId, Live>,
    /// Calls that were given up, and whose answers have yet to come.
    pub(super) forgotten: usize,
    pub(super) late: u64,
    /// Whether the caller has its rings.
    pub(super) has_memory: bool,
    pub(super) subscriptions: BTreeMap<u64, Subscription>,

    pub(super) responder: Responder,
    /// The request that arrived last.
    pub(super) last: Option<u64>,
    /// Requests that wait for the handler, the one that runs in front.
    pub(super) requests: VecDeque<(Box<SlotRequest>, MessageContent)>,
    pub(super) makers: BTreeMap<u64, Maker>,
}

/// A call that its program still holds, or that was told.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) call: usize,
    pub(super) slot: Option<u16>,
    pub(super) deadline: Option<Instant>,
    /// What its program sleeps until.
    pub(super) alarm: Option<Arc<Alarm>>,
    /// What it is in a stream.
    pub(super) part: Option<StreamPart>,
    /// Its arguments are being encoded.
    pub(super) is_encoding: bool,
    /// The memory that they are encoded into.
    pub(super) send: Option<SlotToken>,
    /// Its answer has arrived.
    pub(super) is_answered: bool,
    /// When its program reads the answer, or is done with it.
    pub(super) reads_at: Option<Micros>,
    /// The right to the bytes of the answer that is being read.
    pub(super) lent: Option<SlotToken>,
    /// Nobody waits for its answer.
    pub(super) is_told: bool,
    /// The stream that it asks for an item, and which one that is.
    pub(super) item: Option<(u64, u32)>,
}

/// A stream, as its program sees it.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    pub(super) asked: u32,
    pub(super) read: u32,
    /// There is no such item, and none after it.
    pub(super) end: Option<u32>,
    pub(super) wanted: u32,
}

/// What makes the items of a stream.
#[derive(Debug, Default)]
pub(super) struct Maker {
    /// The request for the item that is being made.
    pub(super) request: Option<Box<SlotRequest>>,
    pub(super) made: u32,
    /// So many items there are.
    pub(super) has: u32,
    /// What it sleeps until.
    pub(super) alarm: Option<Arc<Alarm>>,
}

impl Peer {
    pub(super) fn new(incarnation: u64, timing: RetryTiming) -> Self {
        Self {
            link: PeerConnection::new(incarnation, timing),
            timer: None,
            making: None,
            made: None,
            up: None,
            closed: Vec::new(),
            generation: 0,
            believed: None,
            late: 0,
        }
    }

    /// The channels of all sessions, the one that is up last.
    pub(super) fn channels(&mut self) -> impl Iterator<Item = &mut Channels> {
        self.closed.iter_mut().chain(&mut self.up)
    }
}

impl Channels {
    pub(super) fn new(port: Port, slots: usize, sends: u32) -> Self {
        Self {
            port,
            sends: SendQueue::new(sends),
            unsent: VecDeque::new(),
            caller: Caller::of(slots),
            replies: vec![None; slots].into(),
            live: BTreeMap::new(),
            forgotten: 0,
            late: 0,
            has_memory: true,
            subscriptions: BTreeMap::new(),
            responder: Responder::of(slots),
            last: None,
            requests: VecDeque::new(),
            makers: BTreeMap::new(),
        }
    }

    /// Whether nobody has anything of them.
    pub(super) fn are_left(&self) -> bool {
        let is_called = !self.requests.is_empty() || !self.makers.is_empty();
        !(self.has_memory || is_called) && self.live.is_empty()
    }
}

impl Live {
    /// Whether its program looks at the call when others do.
    pub(super) fn is_awake(&self) -> bool {
        self.alarm.as_ref().is_none_or(|alarm| alarm.has_rung())
    }
}

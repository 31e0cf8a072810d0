//! Queue pairs: what is sent on one arrives in order, or the pair is in error. Nothing else is
//! promised.

use super::agent::Spot;
use super::schedule::{Event, Micros};
use super::world::World;
use crate::channel::core::caller::CallId;
use crate::channel::peer_connection::Session;
use crate::channel::work_id::WorkId;
use crate::wire::{Header, Immediate, MessageKind};

/// Names a queue pair for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Port(pub(super) usize);

/// A queue pair with the memory that its peer may write: the request ring of one session.
#[derive(Debug)]
pub(super) struct QueuePair {
    /// Whose it is, and which of its peers it is for.
    pub(super) owner: Spot,
    pub(super) peer: usize,
    pub(super) session: Session,
    /// Owner of its work requests.
    pub(super) generation: u64,
    pub(super) state: MessageState,
    pub(super) remote: Option<Port>,
    /// Nothing sent later arrives earlier.
    pub(super) last_arrival: Micros,
    /// What came before this end was joined; the sender tries again (RNR).
    pub(super) early: Vec<Flight>,
    pub(super) requests: Box<[Option<MessageContent>]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageState {
    Init,
    Rts,
    Error,
}

/// What stands in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageContent {
    pub(super) header: Header,
    /// The call that it is about, among all of the world.
    pub(super) call: usize,
    /// The number of the item that it carries.
    pub(super) item: Option<u32>,
}

/// A message on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub(super) from: Port,
    pub(super) to: Port,
    pub(super) imm: u32,
    /// What it writes into the slot, if it writes anything.
    pub(super) content: Option<MessageContent>,
    /// Sends that its completion at the sender retires, and whose they are.
    pub(super) ack: Option<WorkId>,
}

/// What an agent finds in its completion queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Completed {
    pub(super) port: Port,
    pub(super) work: WorkId,
    pub(super) result: Result<Option<u32>, Flushed>,
}

/// The queue pair is in error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flushed;

impl QueuePair {
    pub(super) fn new(
        owner: Spot,
        peer: usize,
        session: Session,
        generation: u64,
        slots: usize,
    ) -> Self {
        Self {
            owner,
            peer,
            session,
            generation,
            state: MessageState::Init,
            remote: None,
            last_arrival: 0,
            early: Vec::new(),
            requests: vec![None; slots].into(),
        }
    }
}

impl World {
    /// Sends a message, which arrives after those that were sent before.
    pub(super) fn fly(
        &mut self,
        from: Port,
        imm: u32,
        content: Option<MessageContent>,
        ack: Option<WorkId>,
    ) {
        let pair = &self.ports[from.0];
        let Some(to) = pair.remote.filter(|_| pair.state == MessageState::Rts) else {
            return; // It is flushed.
        };
        let delay = self.rng.u64(20..800);
        let at = (self.schedule.now + delay).max(self.ports[from.0].last_arrival + 1);
        self.ports[from.0].last_arrival = at;
        let flight = Flight {
            from,
            to,
            imm,
            content,
            ack,
        };
        self.schedule.at(at, Event::Arrive(flight));
    }

    pub(super) fn arrive(&mut self, flight: Flight) {
        let to = &mut self.ports[flight.to.0];
        match to.state {
            MessageState::Init => to.early.push(flight),
            MessageState::Rts if to.remote == Some(flight.from) => self.deliver(flight),
            MessageState::Rts | MessageState::Error => self.fail_soon(flight.from),
        }
    }

    fn deliver(&mut self, flight: Flight) {
        if let Some(content) = flight.content {
            self.write(flight.to, flight.imm, content);
        }
        let to = &self.ports[flight.to.0];
        let work = WorkId {
            receive: true,
            owner: to.generation,
            queue_pair: 0,
            retires: 0,
        };
        self.complete(flight.to, work, Ok(Some(flight.imm)));
        if let Some(work) = flight.ack
            && self.ports[flight.from.0].state == MessageState::Rts
        {
            self.complete(flight.from, work, Ok(None));
        }
    }

    /// Writes into a ring, as the device does: without asking anybody.
    fn write(&mut self, to: Port, imm: u32, content: MessageContent) {
        let slot = Immediate::from_bits(imm).slot;
        let at = usize::from(slot);
        if content.header.kind == MessageKind::Request {
            let before = self.ports[to.0].requests[at].replace(content);
            assert_eq!(
                before, None,
                "RING-1, SLOT-1: the request in slot {slot} is not answered"
            );
            return;
        }
        let owner = self.ports[to.0].owner;
        let channels = self.channels(owner, to);
        let channels = channels.expect("SLOT-1: it answers a request of this session");
        assert!(
            !channels.caller.is_free(slot),
            "SLOT-1: nobody waits for what is written into slot {slot}"
        );
        let before = channels.replies[at].replace(content);
        let is_unread = before.is_some_and(|before| {
            let id = CallId(before.header.request_id);
            channels.caller.answer_of(id, &mut Some(slot)).is_some()
        });
        assert!(
            !is_unread,
            "SLOT-1: the answer in slot {slot} has not been read"
        );
    }

    fn complete(&mut self, port: Port, work: WorkId, result: Result<Option<u32>, Flushed>) {
        let owner = self.ports[port.0].owner;
        let Some(agent) = self.agent(owner) else {
            return;
        };
        agent
            .completions
            .push_back(Completed { port, work, result });
        if !std::mem::replace(&mut agent.is_polling, true) {
            // A busy agent looks late, and finds messages of a session that is over.
            let most = if self.percent(4) { 6000 } else { 100 };
            let delay = self.rng.u64(..most);
            self.schedule.after(delay, Event::Poll(owner));
        }
    }

    /// The peer's end does not answer, which is noticed in a while.
    pub(super) fn fail_soon(&mut self, port: Port) {
        if self.ports[port.0].state != MessageState::Error {
            let delay = self.rng.u64(100..4000);
            self.schedule.after(delay, Event::Fail(port));
        }
    }

    /// Moves to ERR. The connected end will notice.
    pub(super) fn fail(&mut self, port: Port) {
        let pair = &mut self.ports[port.0];
        if std::mem::replace(&mut pair.state, MessageState::Error) == MessageState::Error {
            return;
        }
        let (remote, generation) = (pair.remote, pair.generation);
        let early = std::mem::take(&mut pair.early);
        let ends = early.iter().map(|flight| flight.from).chain(remote);
        for end in ends.collect::<Vec<_>>() {
            self.fail_soon(end);
        }
        let work = WorkId {
            receive: true,
            owner: generation,
            queue_pair: 0,
            retires: 0,
        };
        self.complete(port, work, Err(Flushed));
        // Of a batch, a failure may come first, and answers after it.
        let (owner, comes_first) = (self.ports[port.0].owner, self.percent(30));
        if let Some(agent) = self.agent(owner).filter(|_| comes_first) {
            let completions = &mut agent.completions;
            let first = completions.iter().position(|one| one.port == port);
            if let (Some(at), Some(failure)) = (first, completions.pop_back()) {
                completions.insert(at, failure);
            }
        }
    }

    /// Connects an end with the other.
    pub(super) fn join(&mut self, port: Port, remote: Port) {
        let pair = &mut self.ports[port.0];
        if pair.state == MessageState::Error {
            return;
        }
        pair.state = MessageState::Rts;
        pair.remote = Some(remote);
        for flight in std::mem::take(&mut pair.early) {
            self.arrive(flight);
        }
        if self.ports[remote.0].state == MessageState::Error {
            self.fail_soon(port);
        }
    }
}

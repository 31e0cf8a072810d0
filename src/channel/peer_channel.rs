//! The answering end of a channel: one caller's rings at a service.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::inbound::{Borrower, Lender, Payload};
use super::lanes::{Lanes, Outgoing};
use super::lend::{Loan, RemoteRing, Ring};
use super::rendezvous::Rendezvous;
use super::responder::{Arrival, Responder};
use super::work_id::WorkId;
use super::{
    Block, Demand, Endpoint, Geometry, Hosted, LossCause, Memory, MemoryError, Profile,
    QueuePairInfo, RingAddress, Ticket, Violation, Violations,
};
use crate::fabric::{Completion, RemoteSlice};
use crate::wire::{
    EncodeError, Extension, Fault, Header, Immediate, MessageKind, Outside, Signal, StreamPart,
};

/// One caller, as its service sees it. Its mailbox takes in completions on one thread; handlers may answer on others.
#[derive(Debug)]
pub(super) struct PeerChannel {
    // Dropped first, and so drained before the rings are deregistered (DROP-1).
    core: Mutex<Core>,
    requests: Ring,
    sends: Ring,
    /// For replies beyond a slot.
    memory: Option<Arc<Memory>>,
    remote: RemoteRing,
    geometry: Geometry,
    pub(super) profile: Profile,
    /// What it calls.
    pub(super) service: Arc<Hosted>,
    pub(super) peer: String,
    /// Tells its lives apart, if it is native.
    pub(super) life: Option<u64>,
}

#[derive(Debug)]
struct Core {
    /// Gone once another channel has taken them over.
    lanes: Option<Lanes>,
    /// With a native caller.
    rendezvous: Option<Rendezvous<Slotted>>,
    responder: Responder,
    /// What is asked of the caller's streams, by the request that opened each.
    streams: HashMap<u64, Arc<Demand>>,
    /// Answers that wait for a place in the send queue.
    unsent: VecDeque<Standing>,
    /// Whether the mailbox waits until all answers have arrived, those to come as well.
    is_flushing: bool,
    violations: Violations,
    cause: Option<LossCause>,
}

impl PeerChannel {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        (peer, life): (&str, Option<u64>),
        service: Arc<Hosted>,
        lanes: Lanes,
        rendezvous: Option<(Rendezvous<Slotted>, Arc<Memory>)>,
        rings: (Ring, Ring),
        geometry: Geometry,
        remote: RemoteRing,
        profile: Profile,
    ) -> Self {
        let (rendezvous, memory) = rendezvous.unzip();
        Self {
            core: Mutex::new(Core {
                lanes: Some(lanes),
                rendezvous,
                // A slot must exist at both ends.
                responder: Responder::new(geometry.slots().min(remote.geometry.slots())),
                streams: HashMap::new(),
                unsent: VecDeque::new(),
                is_flushing: false,
                violations: Violations::default(),
                cause: None,
            }),
            requests: rings.0,
            sends: rings.1,
            memory,
            remote,
            geometry,
            profile,
            service,
            peer: peer.to_owned(),
            life,
        }
    }

    pub(super) fn endpoint(&self, qp: QueuePairInfo, bulk: QueuePairInfo) -> Endpoint {
        Endpoint {
            qp,
            bulk,
            ring: self.ring(),
            geometry: self.geometry,
        }
    }

    /// The ring that the caller writes requests into.
    pub(super) fn ring(&self) -> RingAddress {
        RingAddress::of(self.requests.region(), self.geometry)
    }

    /// Takes in a completion that succeeded.
    ///
    /// # Errors
    /// Why the channel is closed.
    pub(super) fn complete(
        &self,
        id: WorkId,
        completion: &Completion,
    ) -> Result<Option<Arrived>, LossCause> {
        let mut core = self.lock();
        if id.lane == WorkId::BULK
            && let Some(rendezvous) = &mut core.rendezvous
        {
            let complete = rendezvous.complete();
            let complete = complete.map_err(|error| LossCause::Fabric(error.to_string()))?;
            return Ok(complete.map(|(_, request, outside)| {
                Arrived::Request(Slotted {
                    outside: Some(outside),
                    ..request
                })
            }));
        }
        let Some(lanes) = &mut core.lanes else {
            return Err(LossCause::Gone);
        };
        let arrived = match lanes.complete(id, completion) {
            Ok(None) => {
                self.post_unsent(&mut core);
                None
            }
            Ok(Some(imm)) => self.receive(&mut core, self.profile.immediate(imm)),
            Err(error) => {
                core.close(LossCause::Fabric(error.to_string()));
                None
            }
        };
        match &core.cause {
            None => Ok(arrived),
            Some(cause) => Err(cause.clone()),
        }
    }

    fn receive(&self, core: &mut Core, imm: Immediate) -> Option<Arrived> {
        if imm.signal == Signal::Message && core.unsent.iter().any(|a| a.slot == imm.slot) {
            // The caller uses a slot again without the answer that still stands in it.
            core.violations.record(Violation::SlotBusy, &self.peer);
            return None;
        }
        let read = match imm.signal {
            // What stands in a slot is lent to its handler until it is answered.
            Signal::Message if !core.responder.holds(imm.slot) => self
                .requests
                .lend(imm.slot)
                .and_then(|slot| self.profile.decode(&slot).ok()),
            Signal::Message | Signal::Cancel | Signal::Release => None,
        };
        let arrival = core
            .responder
            .receive(imm, read.as_ref().map(|(header, _)| header));
        match (arrival, read) {
            (Arrival::Request { slot, request_id }, Some((header, payload))) => {
                let extension = header.extension.unwrap_or_default();
                // The time in flight is not known, so a request may live a little longer here than at its caller.
                let allowed = extension.deadline_us.map(Duration::from_micros);
                let request = Slotted {
                    slot,
                    request_id,
                    method: header.method,
                    stream: extension.stream,
                    payload,
                    outside: None,
                    demand: None,
                    expires: allowed.and_then(|allowed| Instant::now().checked_add(allowed)),
                    is_wanted: true,
                };
                if let Some(rendezvous) = &mut core.rendezvous {
                    rendezvous.release(slot);
                }
                Some(core.place(request, &extension))
            }
            (Arrival::Cancel { slot, request_id }, _) => {
                let reading = core.rendezvous.as_mut().and_then(|r| r.reading(slot));
                match reading {
                    Some(request) => {
                        request.is_wanted = false;
                        None
                    }
                    None => Some(Arrived::Cancel { slot, request_id }),
                }
            }
            (Arrival::Release { slot }, _) => {
                if let Some(rendezvous) = &mut core.rendezvous {
                    rendezvous.release(slot);
                }
                None
            }
            (Arrival::Violation(violation), _) => {
                core.violations.record(violation, &self.peer);
                None
            }
            (Arrival::TooLate | Arrival::Request { .. }, _) => None,
        }
    }

    /// Reads the payload of `request`, which lies at its caller, into `block`.
    pub(super) fn read(&self, request: Slotted, from: Outside, block: Block) {
        let mut core = self.lock();
        let core = &mut *core;
        let (None, Some(rendezvous)) = (&core.cause, &mut core.rendezvous) else {
            return;
        };
        if let Err(error) = rendezvous.read(request.slot, request, from, block) {
            core.close(LossCause::Fabric(error.to_string()));
        }
    }

    /// Ends the stream of which `request` asks for an item, if it does: its caller has taken that back.
    pub(super) fn cancel_item(&self, request: Ticket) -> bool {
        let streams: Vec<_> = self.lock().streams.values().cloned().collect();
        streams.iter().any(|demand| demand.cancel(request))
    }

    fn post_unsent(&self, core: &mut Core) {
        while core.lanes.as_ref().is_some_and(Lanes::has_room)
            && let Some(answer) = core.unsent.pop_front()
        {
            self.post(core, answer);
        }
    }

    /// Whether all answers have arrived at the caller, or never will. Ask again after each completion.
    pub(super) fn flush(&self) -> bool {
        let mut core = self.lock();
        core.is_flushing = true;
        core.flush(self.remote.slot(0))
    }

    /// Sends something empty, unless that or something else is on its way.
    pub(super) fn probe(&self) {
        let core = &mut *self.lock();
        let to = self.remote.slot(0);
        let (None, Some(lanes)) = (&core.cause, &mut core.lanes) else {
            return;
        };
        if let Err(error) = lanes.probe(to) {
            core.close(LossCause::Fabric(error.to_string()));
        }
    }

    /// Whether there is nothing to answer.
    pub(super) fn is_idle(&self) -> bool {
        let core = self.lock();
        core.cause.is_some() || core.responder.unanswered() == 0
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Core> {
        // Nothing that can panic runs under the lock.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the queue pairs away; the channel is closed then.
    pub(super) fn take_lanes(&self) -> Option<Lanes> {
        let mut core = self.lock();
        let lanes = core.lanes.take();
        core.close(LossCause::Gone);
        lanes
    }

    pub(super) fn close(&self, cause: LossCause) {
        let mut core = self.lock();
        core.close(cause);
        let streams = std::mem::take(&mut core.streams);
        drop(core);
        streams.values().for_each(|demand| demand.forsake());
    }

    pub(super) fn closed(&self) -> Option<LossCause> {
        self.lock().cause.clone()
    }

    /// Whether this is the channel of the DLSlime peer `peer`.
    pub(super) fn is_compatible(&self, peer: &str) -> bool {
        self.peer == peer && self.profile == Profile::Compatible
    }

    pub(super) fn violations(&self) -> Violations {
        self.lock().violations
    }

    /// The arguments of `request`, where they arrived.
    pub(super) fn payload<'a>(&'a self, request: &'a Slotted) -> Payload<'a> {
        if let Some(block) = &request.outside {
            return Payload(Lender::Bytes(block));
        }
        let slot = self.requests.lend(request.slot);
        let loan = slot.expect("a request's slot is lent to the request only");
        Payload(Lender::Ring(loan, request.payload.clone()))
    }

    /// The same, to be changed.
    pub(super) fn payload_mut<'a>(&'a self, request: &'a mut Slotted) -> Borrower<'a> {
        if let Some(block) = &mut request.outside {
            return Borrower::Bytes(block);
        }
        let slot = self.requests.lend(request.slot);
        let loan = slot.expect("a request's slot is lent to the request only");
        Borrower::Ring(loan, request.payload.clone())
    }

    /// The send memory of the answer to `request`.
    pub(super) fn room(&self, request: &Slotted) -> Loan<'_> {
        let slot = self.sends.lend(request.slot);
        slot.expect("an unanswered slot's send memory is lent to its answer only")
    }

    /// Bytes of the largest answer that can be written in place.
    pub(super) fn max_in_place(&self) -> usize {
        self.geometry.max_payload()
    }

    /// Answers that the stream, for an item of which `request` asks, has no more.
    pub(super) fn answer_end(&self, request: &Slotted) {
        let stream = match request.stream {
            Some(StreamPart::Next(stream) | StreamPart::End(stream)) => stream,
            Some(StreamPart::Open) | None => request.request_id,
        };
        let extension = Extension {
            stream: Some(StreamPart::End(stream)),
            ..Extension::default()
        };
        let header = Header {
            extension: Some(extension),
            ..answer_header(request, MessageKind::Reply)
        };
        self.answer_with_header(request, &header, None);
    }

    /// Sends the first `len` bytes of the payload of `request` from where they stand, as its answer.
    pub(super) fn answer_with_payload(&self, request: &mut Slotted, len: usize) {
        let mut header = answer_header(request, MessageKind::Reply);
        if let Some(mut block) = request.outside.take() {
            block.truncate(len);
            // Nothing lies nowhere.
            let block = (len > 0).then_some(block);
            if let Some(block) = &block {
                header.set_outside(block.outside());
            }
            return self.answer_with_header(request, &header, block);
        }
        header.payload_len = len as u32;
        // In front of the payload stands the header of the request, which is no shorter.
        let from = request.payload.start - Header::LEN;
        let slot = self.requests.lend(request.slot);
        let mut message = slot.expect("a request's slot is lent to the request only");
        let encoded = header.encode(&mut message[from..]);
        debug_assert_eq!(encoded.ok(), Some(Header::LEN));
        drop(message);
        let answer = Standing {
            slot: request.slot,
            is_rewritten: true,
            bytes: from..request.payload.start + len,
        };
        self.post_answer(answer, None);
    }

    /// Answers with a header alone; a payload may be in `block`.
    fn answer_with_header(&self, request: &Slotted, header: &Header, block: Option<Block>) {
        let mut message = self.room(request);
        let encoded = header.encode(&mut message);
        let len = encoded.expect("a slot has room for a header and an extension");
        drop(message);
        self.post_answer(Standing::written(request.slot, len), block);
    }

    /// Writes the answer to `request` into the caller's ring: what `encode` writes into send memory, or, with a native
    /// caller, into memory of its own if it asks for more.
    pub(super) fn answer(
        &self,
        request: &Slotted,
        kind: MessageKind,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), AnswerError> {
        let mut message = self.room(request);
        let mut header = answer_header(request, kind);
        let block = match (encode(&mut message[Header::LEN..]), &self.memory) {
            (Ok(len), _) => {
                header.payload_len = len as u32;
                None
            }
            (Err(EncodeError::TooLarge { size, .. }), Some(memory)) => {
                let mut block = memory
                    .take(size)
                    .map_err(|error| AnswerError::Memory(size, error))?;
                let len = encode(&mut block)?;
                block.truncate(len);
                header.set_outside(block.outside());
                Some(block)
            }
            (Err(error), _) => return Err(error.into()),
        };
        let encoded = header.encode(&mut message);
        let payload_at = encoded.map_err(|error| EncodeError::Value(error.to_string()))?;
        drop(message);
        let len = payload_at + header.payload_len as usize;
        self.post_answer(Standing::written(request.slot, len), block);
        Ok(())
    }

    /// Sends an answer, whose payload may be in `block`.
    fn post_answer(&self, answer: Standing, block: Option<Block>) {
        let mut core = self.lock();
        if let (Some(block), None) = (block, &core.cause)
            && let Some(rendezvous) = &mut core.rendezvous
        {
            rendezvous.keep(answer.slot, block);
        }
        core.responder.answered(answer.slot);
        self.post(&mut core, answer);
        if core.is_flushing {
            core.flush(self.remote.slot(0));
        }
    }

    fn post(&self, core: &mut Core, answer: Standing) {
        let (None, Some(lanes)) = (&core.cause, &mut core.lanes) else {
            return;
        };
        let Standing {
            slot,
            is_rewritten,
            ref bytes,
        } = answer;
        let ring = if is_rewritten {
            &self.requests
        } else {
            &self.sends
        };
        let message = ring
            .lend(slot)
            .expect("the answer in a slot is posted once");
        let imm = Immediate {
            slot,
            signal: Signal::Message,
        };
        let written = lanes.write(&Outgoing {
            imm: imm.to_bits(),
            bytes: &message[bytes.clone()],
            at: ring.sge(slot, bytes),
            to: self.remote.slot(slot),
        });
        match written {
            Ok(true) => {}
            Ok(false) => core.unsent.push_back(answer),
            Err(error) => core.close(LossCause::Fabric(error.to_string())),
        }
    }
}

/// An answer where it is sent from: in send memory, or in place of its request. Neither changes until the caller, who has to
/// get it first, writes into the slot again.
#[derive(Debug)]
struct Standing {
    slot: u16,
    is_rewritten: bool,
    bytes: Range<usize>,
}

impl Standing {
    /// At the beginning of send memory.
    #[inline]
    fn written(slot: u16, len: usize) -> Self {
        Self {
            slot,
            is_rewritten: false,
            bytes: 0..len,
        }
    }
}

/// Streams that one caller may have open.
const MAX_STREAMS: usize = 1024;

/// The header of an answer without payload.
#[inline]
fn answer_header(request: &Slotted, kind: MessageKind) -> Header {
    Header {
        kind,
        method: request.method,
        request_id: request.request_id,
        payload_len: 0,
        extension: None,
    }
}

impl Core {
    /// What has arrived with `request`.
    fn place(&mut self, mut request: Slotted, extension: &Extension) -> Arrived {
        match extension.stream {
            None => {}
            Some(StreamPart::Next(stream)) => {
                let demand = self.streams.get(&stream).cloned();
                return Arrived::Next(request, demand);
            }
            Some(StreamPart::End(stream)) => {
                return Arrived::End(request, self.streams.remove(&stream));
            }
            Some(StreamPart::Open) => {
                self.streams.retain(|_, demand| !demand.is_over());
                if self.streams.len() < MAX_STREAMS {
                    let demand = Arc::<Demand>::default();
                    self.streams.insert(request.request_id, demand.clone());
                    request.demand = Some(demand);
                }
            }
        }
        match extension.outside {
            Some(outside) if self.rendezvous.is_some() => Arrived::Outside(request, outside),
            _ => Arrived::Request(request),
        }
    }

    fn flush(&mut self, to: RemoteSlice) -> bool {
        let (None, Some(lanes)) = (&self.cause, &mut self.lanes) else {
            return true;
        };
        match lanes.flush(to) {
            Ok(flushed) => {
                let is_read = self.rendezvous.as_ref().is_none_or(|r| !r.keeps_any());
                flushed && self.unsent.is_empty() && is_read
            }
            Err(error) => {
                self.close(LossCause::Fabric(error.to_string()));
                true
            }
        }
    }

    fn close(&mut self, cause: LossCause) {
        if self.cause.is_some() {
            return;
        }
        self.cause = Some(cause);
        self.unsent.clear();
        if let Some(lanes) = &mut self.lanes {
            lanes.fail();
        }
        if let Some(rendezvous) = &mut self.rendezvous {
            rendezvous.fail();
        }
    }
}

/// A request is not answered with what was to be its answer.
#[derive(Debug)]
pub(super) enum AnswerError {
    Encode(EncodeError),
    /// There is no memory for an answer of this size.
    Memory(usize, MemoryError),
}

impl From<EncodeError> for AnswerError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

impl From<AnswerError> for Fault {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Encode(EncodeError::TooLarge { size, limit })
            | AnswerError::Memory(_, MemoryError::TooLarge { size, limit }) => {
                Self::ReplyTooLarge {
                    size: size as u64,
                    limit: limit as u64,
                }
            }
            AnswerError::Encode(EncodeError::Value(reason)) => Self::Raised {
                type_name: "EncodeError".to_owned(),
                message: format!("the reply cannot be encoded: {reason}"),
                traceback: String::new(),
            },
            AnswerError::Memory(size, error) => Self::NoMemory {
                size: size as u64,
                reason: error.to_string(),
                is_reply: true,
            },
        }
    }
}

/// What an immediate brought.
#[derive(Debug)]
pub(super) enum Arrived {
    Request(Slotted),
    /// A request whose payload has to be read first.
    Outside(Slotted, Outside),
    /// A request for an item of a stream, if that is still known.
    Next(Slotted, Option<Arc<Demand>>),
    /// A request to end a stream, likewise.
    End(Slotted, Option<Arc<Demand>>),
    Cancel {
        slot: u16,
        request_id: u64,
    },
}

/// A request in its slot.
#[derive(Debug)]
pub(super) struct Slotted {
    pub(super) slot: u16,
    pub(super) request_id: u64,
    pub(super) method: u32,
    /// Of the stream that it is about.
    stream: Option<StreamPart>,
    payload: Range<usize>,
    /// The payload, if it did not travel through the ring.
    outside: Option<Block>,
    /// If it opens a stream: what is asked of that.
    pub(super) demand: Option<Arc<Demand>>,
    /// When its caller has stopped waiting.
    pub(super) expires: Option<Instant>,
    /// False once its caller has cancelled it while its payload was being read.
    pub(super) is_wanted: bool,
}

impl Violation {
    /// Every kind, for reports.
    pub const ALL: [Self; 5] = [
        Self::BadHeader,
        Self::BadSlot,
        Self::WrongKind,
        Self::SlotBusy,
        Self::UnknownRequest,
    ];
}

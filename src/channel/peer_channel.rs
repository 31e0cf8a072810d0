//! The answering end of a channel: one caller's rings at a service.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::core::responder::{Arrival, Responder, ServedSlot};
use super::lanes::{Lanes, Outgoing};
use super::lend::{RemoteRing, Ring, SlotToken};
use super::rendezvous::Rendezvous;
use super::work_id::WorkId;
use super::{
    Block, Demand, Endpoint, Geometry, Hosted, LossCause, Memory, MemoryError, Profile,
    QueuePairInfo, RingAddress, Ticket, Violations,
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
        rings: [(Ring, Vec<SlotToken>); 2],
        geometry: Geometry,
        remote: RemoteRing,
        profile: Profile,
    ) -> Self {
        let (rendezvous, memory) = rendezvous.unzip();
        let [(requests, mut arrivals), (sends, answers)] = rings;
        // A slot must exist at both ends.
        arrivals.truncate(remote.geometry.slots());
        Self {
            core: Mutex::new(Core {
                lanes: Some(lanes),
                rendezvous,
                responder: Responder::new(arrivals, answers),
                streams: HashMap::new(),
                unsent: VecDeque::new(),
                is_flushing: false,
                violations: Violations::default(),
                cause: None,
            }),
            requests,
            sends,
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
        self.requests.address()
    }

    /// Takes in a completion that succeeded.
    ///
    /// # Errors
    /// Why the channel is closed.
    #[inline]
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
            return Ok(complete.map(|(_, mut request, outside)| {
                request.rare().outside = Some(outside);
                Arrived::Request(request)
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

    #[inline]
    fn receive(&self, core: &mut Core, imm: Immediate) -> Option<Arrived> {
        let read = match imm.signal {
            // What stands in a slot is lent to its handler until it is answered.
            Signal::Message => core
                .responder
                .arrived(imm.slot)
                .and_then(|arrived| self.profile.decode(self.requests.bytes(arrived)).ok()),
            Signal::Cancel | Signal::Release => None,
        };
        let arrival = core
            .responder
            .receive(imm, read.as_ref().map(|(header, _)| header));
        match (arrival, read) {
            (Arrival::Request { slot, request_id }, Some((header, payload))) => {
                let mut bytes = core.responder.lend(slot);
                if let (Some(bytes), Some(lanes)) = (&mut bytes, &mut core.lanes) {
                    lanes.renew(&self.sends, &mut bytes.send, &self.remote);
                }
                let mut request = Slotted {
                    request_id,
                    bytes,
                    method: header.method,
                    slot,
                    payload: (payload.start as u32, payload.end as u32),
                    expires: None,
                    rare: None,
                };
                if let Some(rendezvous) = &mut core.rendezvous {
                    rendezvous.release(slot);
                }
                let Some(extension) = header.extension else {
                    return Some(Arrived::Request(request));
                };
                // The time in flight is not known, so a request may live a little longer here than at its caller.
                let allowed = extension.deadline_us.map(Duration::from_micros);
                request.expires = allowed.and_then(|allowed| Instant::now().checked_add(allowed));
                if extension.stream.is_none() && extension.outside.is_none() {
                    return Some(Arrived::Request(request));
                }
                Some(core.place(request, &extension))
            }
            (Arrival::Cancel { slot, request_id }, _) => {
                let reading = core.rendezvous.as_mut().and_then(|r| r.reading(slot));
                match reading {
                    Some(request) => {
                        request.rare().is_unwanted = true;
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
            core.responder.set_unsent(answer.slot, false);
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
    #[inline]
    pub(super) fn payload<'a>(&'a self, request: &'a Slotted) -> &'a [u8] {
        match (request.outside(), &request.bytes) {
            (Some(block), _) => block,
            (None, Some(bytes)) => &self.requests.bytes(&bytes.request)[request.payload()],
            (None, None) => &[],
        }
    }

    /// The same, to be changed.
    pub(super) fn payload_mut<'a>(&'a self, request: &'a mut Slotted) -> &'a mut [u8] {
        let payload = request.payload();
        let outside = request.rare.as_mut().and_then(|rare| rare.outside.as_mut());
        match (outside, &mut request.bytes) {
            (Some(block), _) => block,
            (None, Some(bytes)) => &mut self.requests.bytes_mut(&mut bytes.request)[payload],
            (None, None) => &mut [],
        }
    }

    /// The arguments of `request`, and the send memory of its answer.
    #[inline]
    pub(super) fn parts<'a>(&'a self, request: &'a mut Slotted) -> (&'a [u8], &'a mut [u8]) {
        let payload = request.payload();
        let outside = request.rare.as_ref().and_then(|rare| rare.outside.as_ref());
        let Some(ServedSlot { request, send }) = &mut request.bytes else {
            return (&[], &mut []);
        };
        let payload = match outside {
            Some(block) => block,
            None => &self.requests.bytes(request)[payload],
        };
        (payload, &mut self.sends.bytes_mut(send)[Header::LEN..])
    }

    /// All of the send memory of the answer to `request`.
    #[inline]
    fn message<'a>(&'a self, request: &'a mut Slotted) -> &'a mut [u8] {
        let bytes = request.bytes.as_mut();
        bytes.map_or(&mut [], |bytes| self.sends.bytes_mut(&mut bytes.send))
    }

    /// Bytes of the largest answer that can be written in place.
    pub(super) fn max_in_place(&self) -> usize {
        self.geometry.max_payload()
    }

    /// Answers that the stream, for an item of which `request` asks, has no more.
    pub(super) fn answer_end(&self, request: &mut Slotted) {
        let stream = match request.rare.as_ref().and_then(|rare| rare.stream) {
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
        let outside = request.rare.as_mut().and_then(|rare| rare.outside.take());
        if let Some(mut block) = outside {
            block.truncate(len);
            // Nothing lies nowhere.
            let block = (len > 0).then_some(block);
            if let Some(block) = &block {
                header.set_outside(block.outside());
            }
            return self.answer_with_header(request, &header, block);
        }
        header.payload_len = len as u32;
        let payload = request.payload();
        // In front of the payload stands the header of the request, which is no shorter.
        let from = payload.start - Header::LEN;
        if let Some(bytes) = &mut request.bytes {
            let message = self.requests.bytes_mut(&mut bytes.request);
            let encoded = header.encode(&mut message[from..]);
            debug_assert_eq!(encoded.ok(), Some(Header::LEN));
        }
        let answer = Standing {
            slot: request.slot,
            is_rewritten: true,
            bytes: from as u32..(payload.start + len) as u32,
        };
        self.post_answer(request, answer, None);
    }

    /// Answers with a header alone; a payload may be in `block`.
    fn answer_with_header(&self, request: &mut Slotted, header: &Header, block: Option<Block>) {
        let encoded = header.encode(self.message(request));
        let len = encoded.expect("a slot has room for a header and an extension");
        let answer = Standing::written(request.slot, len);
        self.post_answer(request, answer, block);
    }

    /// Writes the answer to `request` into the caller's ring: what `encode` writes into send memory, or, with a native
    /// caller, into memory of its own if it asks for more.
    #[inline]
    pub(super) fn answer(
        &self,
        request: &mut Slotted,
        kind: MessageKind,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), AnswerError> {
        let mut header = answer_header(request, kind);
        let message = self.message(request);
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
        let encoded = header.encode(message);
        let payload_at = encoded.map_err(|error| EncodeError::Value(error.to_string()))?;
        let len = payload_at + header.payload_len as usize;
        let answer = Standing::written(request.slot, len);
        self.post_answer(request, answer, block);
        Ok(())
    }

    /// Sends the answer to `request`, whose payload may be in `block`. The bytes of the slot are not the request's any more.
    #[inline]
    fn post_answer(&self, request: &mut Slotted, answer: Standing, block: Option<Block>) {
        let Some(bytes) = request.bytes.take() else {
            return;
        };
        let mut core = self.lock();
        if let (Some(block), None) = (block, &core.cause)
            && let Some(rendezvous) = &mut core.rendezvous
        {
            rendezvous.keep(answer.slot, block);
        }
        core.responder.answered(answer.slot, bytes);
        self.post(&mut core, answer);
        if core.is_flushing {
            core.flush(self.remote.slot(0));
        }
    }

    #[inline]
    fn post(&self, core: &mut Core, answer: Standing) {
        let (None, Some(lanes), Some(bytes)) = (
            &core.cause,
            &mut core.lanes,
            core.responder.bytes(answer.slot),
        ) else {
            return;
        };
        let range = answer.bytes.start as usize..answer.bytes.end as usize;
        let (ring, token) = if answer.is_rewritten {
            (&self.requests, &bytes.request)
        } else {
            (&self.sends, &bytes.send)
        };
        let imm = Immediate {
            slot: answer.slot,
            signal: Signal::Message,
        };
        let written = lanes.write(&Outgoing {
            imm: imm.to_bits(),
            bytes: &ring.bytes(token)[range],
            lkey: token.lkey(),
            to: self.remote.slot(answer.slot),
        });
        match written {
            Ok(true) => {}
            Ok(false) => {
                core.responder.set_unsent(answer.slot, true);
                core.unsent.push_back(answer);
            }
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
    bytes: Range<u32>,
}

impl Standing {
    /// At the beginning of send memory.
    #[inline]
    fn written(slot: u16, len: usize) -> Self {
        Self {
            slot,
            is_rewritten: false,
            bytes: 0..len as u32,
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
    #[cold]
    fn place(&mut self, mut request: Slotted, extension: &Extension) -> Arrived {
        request.rare().stream = extension.stream;
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
                    request.rare().demand = Some(demand);
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
    pub(super) request_id: u64,
    /// The bytes of its slot, until it is answered.
    bytes: Option<ServedSlot>,
    pub(super) method: u32,
    pub(super) slot: u16,
    /// Where the payload begins and ends.
    payload: (u32, u32),
    /// When its caller has stopped waiting.
    pub(super) expires: Option<Instant>,
    /// `None` for a plain call.
    rare: Option<Box<Rare>>,
}

/// What only some requests have.
#[derive(Debug, Default)]
struct Rare {
    /// Of the stream that it is about.
    stream: Option<StreamPart>,
    /// The payload, if it did not travel through the ring.
    outside: Option<Block>,
    /// If it opens a stream: what is asked of that.
    demand: Option<Arc<Demand>>,
    /// Its caller has cancelled it while its payload was being read.
    is_unwanted: bool,
}

impl Slotted {
    #[inline]
    fn payload(&self) -> Range<usize> {
        self.payload.0 as usize..self.payload.1 as usize
    }

    #[inline]
    fn outside(&self) -> Option<&Block> {
        self.rare.as_ref()?.outside.as_ref()
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Whether its caller has not cancelled it.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        self.rare.as_ref().is_none_or(|rare| !rare.is_unwanted)
    }

    /// Whether it opens a stream.
    pub(super) fn opens_stream(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.demand.is_some())
    }

    /// What is asked of the stream that it opens.
    #[inline]
    pub(super) fn take_demand(&mut self) -> Option<Arc<Demand>> {
        self.rare.as_mut()?.demand.take()
    }
}

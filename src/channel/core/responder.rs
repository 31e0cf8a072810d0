//! The answering side of a channel: the contents of its slots and its streams, without I/O or
//! clock.

use std::collections::VecDeque;
use std::ops::Range;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::stream::Streams;
use crate::channel::call_figures::Begun;
use crate::channel::lend::SlotToken;
use crate::channel::{CallSpan, LossCause, PooledBuffer, Violation};
use crate::wire::{
    Extension, Fault, Header, Immediate, MessageKind, RendezvousDescriptor, Signal, StreamPart,
    Traceparent,
};

/// The time allowed for a request without a deadline, in microseconds.
pub(crate) const FOREVER: u64 = u64::MAX;

/// The meaning of an arriving immediate.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A request. Its bytes stay until it is answered (RING-1).
    Request(Box<SlotRequest>),
    /// Nothing is delivered. There may be [effects](Responder::take_effects).
    Noted,
    /// A message that a correct peer does not send.
    Violation(Violation),
}

/// What has to be done once the lock is released.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Requests that are to be answered with the end of their stream, or with a failure.
    pub(crate) ended: Vec<(Box<SlotRequest>, Option<Fault>)>,
    /// Slots of requests whose payload has to be read first, for which memory is needed.
    pub(crate) offered: Vec<(u16, RendezvousDescriptor)>,
    /// Slots and ids of requests whose answer is not wanted any more. They are answered
    /// nevertheless.
    pub(crate) cancelled: Vec<(u16, u64)>,
    /// Wakers to wake.
    pub(crate) wakers: Vec<Waker>,
    /// Requests that nobody handles, to be dropped.
    pub(crate) given_up: Vec<SlotRequest>,
}

/// A request in its slot, with the tokens of its bytes. Each slot has one, which moves to the
/// handler of a request and comes back with the answer.
#[derive(Debug)]
pub(crate) struct SlotRequest {
    /// The token of the bytes that arrived.
    pub(crate) arrived: SlotToken,
    /// The token of the send memory for the answer.
    pub(crate) send: SlotToken,
    /// Repeated in the answer.
    pub(crate) request_id: u64,
    pub(crate) method: u32,
    payload: (u32, u32),
    /// How long its caller waits, in microseconds from when the request was sent; [`FOREVER`] if
    /// it did not say.
    pub(crate) allowed_us: u64,
    /// When its caller stops waiting, once the request itself has begun to wait.
    expires: Option<Instant>,
    /// `None` for a plain call.
    pub(crate) rare: Option<Box<Rare>>,
    /// Its place among the figures of its service, while it is counted.
    pub(crate) begun: Begun,
}

/// The parts that only some requests have.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// Its part in a stream, if it is answered as that: the stream that it opens is not left yet to
    /// a maker of items.
    pub(crate) stream: Option<StreamPart>,
    /// The payload, if it did not travel through the ring.
    pub(crate) outside: Option<PooledBuffer>,
    /// Room for the answer, if its slot has less than was agreed on.
    pub(crate) room: Option<PooledBuffer>,
    /// The span that it was sent from, if that is recorded.
    pub(crate) trace: Option<Traceparent>,
    /// The span of its handler, while that is watched.
    pub(crate) span: Option<CallSpan>,
    /// Its caller has cancelled it while its payload was being read.
    pub(crate) is_unwanted: bool,
}

/// An answer, ready to be sent: in send memory, or in place of its request. Neither changes until
/// the caller, which has to receive it first, writes into the slot again.
#[derive(Debug)]
pub(crate) struct PreparedReply {
    pub(crate) slot: u16,
    pub(crate) is_rewritten: bool,
    pub(crate) bytes: Range<usize>,
}

#[derive(Debug)]
struct Slot {
    phase: Phase,
    /// `None` while the request is being handled.
    request: Option<Box<SlotRequest>>,
    /// The payload of the answer, if it does not travel through the ring, until the caller has read
    /// it.
    exported: Option<PooledBuffer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The caller may write into the slot.
    Free,
    /// The request with this id is unanswered. If it is still here, its payload, which lies at the
    /// caller, is being read.
    Unanswered(u64),
    /// The answer waits for a place in the send queue.
    Unsent,
}

/// The answering side of a channel.
#[derive(Debug)]
pub(crate) struct Responder {
    slots: Box<[Slot]>,
    unanswered: usize,
    /// Answers that wait for a place in the send queue.
    unsent: VecDeque<PreparedReply>,
    streams: Streams,
    has_effects: bool,
    effects: Effects,
    /// Why the side is closed; `None` while it is open.
    cause: Option<LossCause>,
}

impl SlotRequest {
    /// Number of its slot.
    #[inline]
    pub(crate) fn slot(&self) -> u16 {
        self.arrived.slot()
    }

    /// Range of the payload in its slot.
    #[inline]
    pub(crate) fn payload(&self) -> Range<usize> {
        self.payload.0 as usize..self.payload.1 as usize
    }

    /// Its rare parts, made if there are none.
    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Notes that the request waits, from `now` on at the latest: its deadline counts from here.
    /// The time in flight is not known, so a request may live a little longer here than at its
    /// caller.
    #[inline]
    pub(crate) fn begin_to_wait(&mut self, now: impl FnOnce() -> Instant) {
        if self.allowed_us != FOREVER && self.expires.is_none() {
            // A deadline beyond the end of time is none.
            self.expires = now().checked_add(Duration::from_micros(self.allowed_us));
        }
    }

    /// Returns whether its caller has stopped waiting at `now`.
    #[inline]
    pub(crate) fn is_expired(&self, now: impl FnOnce() -> Instant) -> bool {
        self.allowed_us == 0 || self.expires.is_some_and(|at| at <= now())
    }
}

impl Responder {
    /// Makes an answering side with a slot for each place for a request that has memory for the
    /// answer.
    pub(crate) fn new(requests: Vec<SlotToken>, sends: Vec<SlotToken>) -> Self {
        let slot = |(arrived, send)| Slot {
            phase: Phase::Free,
            request: Some(Box::new(SlotRequest {
                arrived,
                send,
                request_id: 0,
                method: 0,
                payload: (0, 0),
                allowed_us: FOREVER,
                expires: None,
                rare: None,
                begun: Begun::default(),
            })),
            exported: None,
        };
        Self {
            slots: requests.into_iter().zip(sends).map(slot).collect(),
            unanswered: 0,
            unsent: VecDeque::new(),
            streams: Streams::default(),
            has_effects: false,
            effects: Effects::default(),
            cause: None,
        }
    }

    /// Makes an answering side without memory.
    #[cfg(test)]
    pub(crate) fn of(slots: usize) -> Self {
        let tokens = || (0..slots).map(|slot| SlotToken::of_nothing(slot as u16));
        Self::new(tokens().collect(), tokens().collect())
    }

    /// The token of a slot that the caller may have written into.
    #[inline]
    pub(crate) fn arrived(&self, slot: u16) -> Option<&SlotToken> {
        let slot = self.slots.get(usize::from(slot))?;
        let request = slot
            .request
            .as_ref()
            .filter(|_| slot.phase == Phase::Free)?;
        Some(&request.arrived)
    }

    /// The request of a slot that the caller may have written into, to move it elsewhere.
    #[cold]
    pub(crate) fn free_request(&mut self, slot: u16) -> Option<&mut SlotRequest> {
        let slot = self.slots.get_mut(usize::from(slot))?;
        let is_free = slot.phase == Phase::Free;
        slot.request.as_deref_mut().filter(|_| is_free)
    }

    /// Has the lock's holder look at what is to be done once it is released.
    #[cold]
    pub(crate) fn note_effect(&mut self) {
        self.has_effects = true;
    }

    /// Handles an immediate; `message` is the header in its slot, with the range of the payload.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        imm: Immediate,
        message: Option<(&Header, Range<usize>)>,
    ) -> Arrival {
        let slot = imm.slot;
        let Some(held) = self.slots.get_mut(usize::from(slot)) else {
            return Arrival::Violation(Violation::BadSlot);
        };
        match (imm.signal, held.phase, message) {
            (Signal::Message | Signal::Large, Phase::Free, Some((header, payload))) => {
                let unused = match header.kind {
                    MessageKind::Request => held.request.take(),
                    _ => None,
                };
                let Some(mut request) = unused else {
                    return Arrival::Violation(Violation::WrongKind);
                };
                held.phase = Phase::Unanswered(header.request_id);
                held.exported = None;
                self.unanswered += 1;
                request.request_id = header.request_id;
                request.method = header.method;
                request.payload = (payload.start as u32, payload.end as u32);
                request.allowed_us = FOREVER;
                request.expires = None;
                Arrival::Request(request)
            }
            (Signal::Message | Signal::Large, Phase::Free, None) => {
                Arrival::Violation(Violation::BadHeader)
            }
            // The slot of an unsent answer is used again without that answer.
            (Signal::Message | Signal::Large, _, _) => Arrival::Violation(Violation::SlotBusy),
            (Signal::Cancel, Phase::Unanswered(request_id), _) => match &mut held.request {
                Some(reading) => {
                    reading.rare().is_unwanted = true;
                    Arrival::Noted
                }
                None => {
                    // Cancelling a request for an item of a stream ends the stream.
                    if !self.streams.cancel_request(slot, &mut self.effects) {
                        self.effects.cancelled.push((slot, request_id));
                    }
                    self.has_effects = true;
                    Arrival::Noted
                }
            },
            // The cancel crossed the answer.
            (Signal::Cancel, _, _) => Arrival::Noted,
            (Signal::Release, _, _) => {
                held.exported = None;
                Arrival::Noted
            }
            // Whoever hands arrivals over has handled it.
            (Signal::Grown, _, _) => Arrival::Violation(Violation::BadRing),
        }
    }

    /// Classifies a request that was received with an `extension`.
    pub(crate) fn extended(
        &mut self,
        mut request: Box<SlotRequest>,
        extension: &Extension,
    ) -> Arrival {
        request.allowed_us = extension.deadline_us.unwrap_or(FOREVER);
        if extension.trace.is_some() {
            request.rare().trace = extension.trace;
        }
        match extension.stream {
            None => {}
            Some(StreamPart::Next(stream)) => {
                request.rare().stream = extension.stream;
                self.has_effects = true;
                self.streams.ask(stream, request, &mut self.effects);
                return Arrival::Noted;
            }
            Some(StreamPart::End(stream)) => {
                request.rare().stream = extension.stream;
                self.has_effects = true;
                self.streams.cancel(stream, &mut self.effects);
                self.effects.ended.push((request, None));
                return Arrival::Noted;
            }
            Some(StreamPart::Open) => {
                let is_open = self.streams.open(request.request_id);
                request.rare().stream = extension.stream.filter(|_| is_open);
            }
        }
        let Some(outside) = extension.outside else {
            return Arrival::Request(request);
        };
        let slot = request.slot();
        self.slots[usize::from(slot)].request = Some(request);
        self.has_effects = true;
        self.effects.offered.push((slot, outside));
        Arrival::Noted
    }

    /// The caller's streams.
    pub(crate) fn streams(&mut self) -> &mut Streams {
        &mut self.streams
    }

    /// Ends a stream, because there are no more items, or because of `failure`.
    pub(crate) fn complete(&mut self, stream: u64, failure: Option<Fault>) {
        self.has_effects = true;
        self.streams.complete(stream, failure, &mut self.effects);
    }

    /// Has a request dropped that is not delivered, because the channel is closed.
    #[cold]
    pub(crate) fn give_up(&mut self, request: SlotRequest) {
        self.has_effects = true;
        self.effects.given_up.push(request);
    }

    /// Returns whether the payload of the request in `slot`, which arrived last, is to be read.
    pub(crate) fn is_offered(&self, slot: u16) -> bool {
        let last = self.effects.offered.last();
        last.is_some_and(|(offered, _)| *offered == slot)
    }

    /// Takes the request in `slot` whose payload cannot be read.
    pub(crate) fn take_read(&mut self, slot: u16) -> Option<Box<SlotRequest>> {
        let held = self.slots.get_mut(usize::from(slot))?;
        match held.phase {
            Phase::Unanswered(_) => held.request.take(),
            Phase::Free | Phase::Unsent => None,
        }
    }

    /// Takes the request in `slot` whose payload has been read, unless its caller has cancelled it
    /// meanwhile.
    pub(crate) fn read(&mut self, slot: u16, payload: PooledBuffer) -> Option<Box<SlotRequest>> {
        let mut request = self.take_read(slot)?;
        let rare = request.rare();
        rare.outside = Some(payload);
        if rare.is_unwanted {
            self.has_effects = true;
            self.effects.ended.push((request, None));
            return None;
        }
        Some(request)
    }

    /// Keeps the payload of the answer in `slot` until the caller has read it.
    pub(crate) fn keep(&mut self, slot: u16, payload: PooledBuffer) {
        self.slots[usize::from(slot)].exported = Some(payload);
    }

    /// Notes that `request` is answered: the caller may write into its slot once it has the answer.
    /// Returns its rare parts, to be dropped without a lock; there may be effects then.
    #[inline(always)]
    #[must_use]
    pub(crate) fn answered(&mut self, mut request: Box<SlotRequest>) -> Option<Box<Rare>> {
        let rare = request.rare.take();
        if let Some(rare) = &rare
            && rare.stream == Some(StreamPart::Open)
        {
            // Nobody makes items of a stream that was not answered as one.
            self.complete(request.request_id, None);
        }
        let slot = &mut self.slots[usize::from(request.slot())];
        slot.phase = Phase::Free;
        slot.request = Some(request);
        self.unanswered -= 1;
        rare
    }

    /// Queues an answer that waits for a place in the send queue.
    pub(crate) fn queue(&mut self, reply: PreparedReply) {
        self.slots[usize::from(reply.slot)].phase = Phase::Unsent;
        self.unsent.push_back(reply);
    }

    /// Takes the answer that has waited longest, now that there is a place in the send queue, and
    /// its slot.
    pub(crate) fn take_unsent(&mut self) -> Option<(PreparedReply, &SlotRequest)> {
        let reply = self.unsent.pop_front()?;
        let slot = &mut self.slots[usize::from(reply.slot)];
        slot.phase = Phase::Free;
        Some((reply, slot.request.as_ref()?))
    }

    /// Returns whether neither an answer waits for a place in the send queue, nor a payload for the
    /// caller to read it.
    pub(crate) fn is_flushed(&self) -> bool {
        self.unsent.is_empty() && self.slots.iter().all(|slot| slot.exported.is_none())
    }

    /// Closes the side: nothing is sent any more, nothing is read, and no items are wanted. Returns
    /// whether it was open.
    pub(crate) fn close(&mut self, cause: LossCause) -> bool {
        if self.cause.is_some() {
            return false;
        }
        self.cause = Some(cause);
        self.unsent.clear();
        for slot in &mut self.slots {
            slot.exported = None;
        }
        self.streams.close(&mut self.effects);
        self.has_effects = true;
        true
    }

    /// Why the side is closed; `None` while it is open.
    #[inline]
    pub(crate) fn closed(&self) -> Option<&LossCause> {
        self.cause.as_ref()
    }

    /// Returns whether there is something to do once the lock is released.
    #[inline]
    pub(crate) fn has_effects(&self) -> bool {
        self.has_effects
    }

    /// Takes what is to be done once the lock is released.
    pub(crate) fn take_effects(&mut self) -> Effects {
        self.has_effects = false;
        std::mem::take(&mut self.effects)
    }

    /// Number of unanswered requests.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered
    }
}

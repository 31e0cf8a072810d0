//! The calling side of a channel: credits, calls, one-way calls, and payloads beyond a slot.
//!
//! A slot goes through these phases; the credit is back when it is free again.
//!
//! ```text
//!         claim         posted           receive            finish
//!  Free ───────▶ Claimed ─────▶ Pending ─────────▶ Answered ─────▶ Free
//!                  │ abandon      │ end (timeout, dropped)  receive
//!                  ▼              ▼                              │
//!                 Free         Orphaned ─────────────────────────┴▶ Free
//! ```
//!
//! Calls that find no free slot wait in order. After [`close`](Caller::close) every call has ended
//! (CALL-1) and no slot is handed out until the queue pair has been drained (SLOT-1).

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::slot::{Phase, ReplyMeta, Slot};
use crate::channel::lend::SlotToken;
use crate::channel::{CallError, LossCause, PooledBuffer, TellError, TellFailure, Violation};
use crate::wire::{RendezvousDescriptor, StreamPart, Traceparent};

/// Identifies one call on its channel; it is the request id on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub(crate) u64);

/// The state of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CallState {
    /// It waits for a credit.
    Waiting,
    /// The request is under way or being handled.
    Pending,
    /// Its answer stands in this slot.
    Answered(u16),
    /// Its deadline has passed.
    Expired,
    /// The channel was closed before an answer came.
    Closed,
}

impl CallState {
    /// This state for a call with a deadline. The clock is read only if it matters.
    #[inline]
    pub(crate) fn by(self, deadline: Option<Instant>, now: impl FnOnce() -> Instant) -> Self {
        if let (Self::Waiting | Self::Pending, Some(deadline)) = (self, deadline)
            && deadline <= now()
        {
            return Self::Expired;
        }
        self
    }
}

/// The kind of an arriving message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// The answer to the call in its slot.
    Answer,
    /// The answer to this one-way call, which is to be [completed](Caller::complete).
    OneWay(u32),
    /// An answer whose payload has to be read first; it is among the [pending
    /// reads](Effects::pending_reads).
    Offered,
    /// The answer to a call that had ended (CALL-2). The slot is free again.
    Late,
    /// A message that a correct peer does not send.
    Violation(Violation),
}

/// The numbers of slots by state. Their sum is the number of slots (SLOT-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credits {
    /// Free slots.
    pub free: usize,
    /// Slots of live calls.
    pub in_use: usize,
    /// Slots of calls that ended without an answer.
    pub orphaned: usize,
}

/// A request that waits for a credit.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) method: u32,
    pub(crate) attached: Option<Attached>,
    pub(crate) payload: PreparedPayload,
}

/// What travels beside the arguments of some requests.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attached {
    pub(crate) stream: Option<StreamPart>,
    pub(crate) trace: Option<Traceparent>,
}

/// The arguments of a waiting call.
#[derive(Debug)]
pub(crate) enum PreparedPayload {
    Here(Vec<u8>),
    /// The arguments do not fit a slot.
    Pooled(PooledBuffer),
}

/// A call that has waited, to be posted now in the slot of this send memory.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) id: CallId,
    pub(crate) send: SlotToken,
    pub(crate) deadline: Option<Instant>,
    pub(crate) request: Prepared,
}

/// What has to be done after the end of a call.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The slot whose request the peer need not answer. It stays occupied until the answer comes
    /// (SLOT-1).
    pub(crate) cancel: Option<u16>,
    /// Whether the request had been sent.
    pub(crate) was_sent: bool,
    /// Dropped once the lock is released: a waker may hold the last reference to a task with other
    /// calls of the channel.
    pub(crate) _waker: Option<Waker>,
}

/// What has to be done once the lock is released.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Wakers to wake.
    pub(crate) wakers: Vec<Waker>,
    /// Failed one-way calls, to be reported to the listener.
    pub(crate) failures: Vec<TellFailure>,
    /// Answers whose payload has to be read, for which memory is needed.
    pub(crate) pending_reads: Vec<(u16, RendezvousDescriptor)>,
    /// All send memory and the whole reply ring, once the channel is closed and neither is read nor
    /// written any more: no answer is unread, no request is being encoded.
    pub(crate) memory: Option<(Vec<SlotToken>, Vec<SlotToken>)>,
}

/// A call that found no credit, until its maker has seen that it has one.
#[derive(Debug, Default)]
struct LinedUp {
    /// `None` while its arguments are being encoded, and once it has a slot.
    request: Option<Prepared>,
    deadline: Option<Instant>,
    waker: Option<Waker>,
    one_way: Option<u32>,
    slot: Option<u16>,
}

/// The calling side of a channel.
#[derive(Debug)]
pub(crate) struct Caller {
    slots: Box<[Slot]>,
    /// Free slots, by when they were freed. Small messages take the last one: its memory is still
    /// in the cache, and unneeded slots stay untouched.
    free: VecDeque<u16>,
    /// By age: calls with a slot come before those that wait for one.
    lined_up: BTreeMap<CallId, LinedUp>,
    /// How many of them have no slot.
    waiting: usize,
    /// All older calls have a slot or have ended.
    first_waiting: CallId,
    next: u64,
    late: u64,
    closed: Option<LossCause>,
    /// Slots whose answer's payload the peer need not keep any more, which it has not been told
    /// yet.
    acknowledgements: VecDeque<u16>,
    /// Number of calls with a waker.
    sleepers: usize,
    /// Number of one-way calls that have not ended.
    one_way: usize,
    /// Whether a request or an acknowledgement may be sent now that could not before, or there are
    /// `effects`. Always true once the channel is closed, because each slot that becomes unused may
    /// be the last.
    has_effects: bool,
    effects: Effects,
    /// On a closed channel: number of consecutive unused slots, from the first one on.
    unused: usize,
}

impl Caller {
    /// Makes a calling side with a credit for each slot that has send memory and a place for the
    /// reply, 1 to 65,536.
    pub(crate) fn new(sends: Vec<SlotToken>, replies: Vec<SlotToken>) -> Self {
        let slots = sends.into_iter().zip(replies);
        let slots: Box<[_]> = slots.map(|(send, reply)| Slot::new(send, reply)).collect();
        Self {
            free: (0..slots.len()).rev().map(|slot| slot as u16).collect(),
            slots,
            lined_up: BTreeMap::new(),
            waiting: 0,
            first_waiting: CallId(1),
            next: 1,
            late: 0,
            closed: None,
            acknowledgements: VecDeque::new(),
            sleepers: 0,
            one_way: 0,
            has_effects: false,
            effects: Effects::default(),
            unused: 0,
        }
    }

    /// Makes a calling side without memory.
    #[cfg(test)]
    pub(crate) fn of(slots: usize) -> Self {
        let tokens = || (0..slots).map(|slot| SlotToken::of_nothing(slot as u16));
        Self::new(tokens().collect(), tokens().collect())
    }

    /// Opens a call in a free slot: in the one that was freed last if its message is small, else in
    /// the one that was freed first. `None` if there is none, if others wait for one (ORDER-1), or
    /// if the channel is closed.
    #[inline]
    pub(crate) fn claim(&mut self, is_small: bool) -> Option<(CallId, SlotToken)> {
        if self.waiting > 0 || self.closed.is_some() {
            return None;
        }
        let slot = match is_small {
            true => self.free.pop_back()?,
            false => self.free.pop_front()?,
        };
        let id = CallId(self.next);
        self.next += 1;
        Some((id, self.slots[usize::from(slot)].claim(id)))
    }

    /// Opens a call that waits for a credit, or for the transport; `None` if the channel is closed.
    /// No later call overtakes it (ORDER-1).
    #[cold]
    pub(crate) fn wait(&mut self, deadline: Option<Instant>) -> Option<CallId> {
        if self.closed.is_some() {
            return None;
        }
        let id = CallId(self.next);
        self.next += 1;
        let call = LinedUp {
            deadline,
            ..LinedUp::default()
        };
        self.lined_up.insert(id, call);
        self.waiting += 1;
        Some(id)
    }

    /// Queues the encoded arguments of a waiting call.
    pub(crate) fn line_up(&mut self, id: CallId, request: Prepared) {
        if let Some(call) = self.lined_up.get_mut(&id) {
            call.request = Some(request);
            // A credit may have come back while the arguments were encoded.
            self.has_effects = true;
        }
    }

    /// Notes that there is a place in the send queue again.
    #[cold]
    pub(crate) fn make_room(&mut self) {
        self.has_effects |= self.has_unsent();
    }

    /// Gives a slot to the call that has waited longest, if there is one and its arguments are
    /// encoded.
    pub(crate) fn grant(&mut self) -> Option<Granted> {
        if self.closed.is_some() || self.waiting == 0 || self.free.is_empty() {
            return None;
        }
        let (&id, call) = self.lined_up.range_mut(self.first_waiting..).next()?;
        let request = call.request.take()?;
        let slot = self.free.pop_back()?;
        self.waiting -= 1;
        self.first_waiting = CallId(id.0 + 1);
        let held = &mut self.slots[usize::from(slot)];
        let send = held.claim(id);
        let deadline = call.deadline;
        call.slot = Some(slot);
        let waker = call.waker.take();
        match call.one_way {
            None => held.waker = waker,
            Some(method) => {
                held.rare().one_way = Some(method);
                // Nobody asks for its slot.
                self.lined_up.remove(&id);
                if let Some(waker) = waker {
                    self.wake(waker);
                }
            }
        }
        Some(Granted {
            id,
            send,
            deadline,
            request,
        })
    }

    /// Returns whether the request of `id` is still to be posted in `slot`.
    #[inline]
    pub(crate) fn is_claimed(&self, id: CallId, slot: u16) -> bool {
        self.slots[usize::from(slot)].is(id, Phase::Claimed)
    }

    /// Notes that the request of `id`, which stands in `send`, has been posted.
    #[inline]
    pub(crate) fn posted(&mut self, id: CallId, send: SlotToken) {
        let held = &mut self.slots[usize::from(send.slot())];
        held.send = Some(send);
        if held.is(id, Phase::Claimed) {
            held.phase = Phase::Pending;
        }
    }

    /// Keeps the payload of the request of `id`, which lies outside of its `slot`, for the peer to
    /// read.
    #[cold]
    pub(crate) fn export(&mut self, id: CallId, slot: u16, payload: PooledBuffer) {
        let held = &mut self.slots[usize::from(slot)];
        if held.is(id, Phase::Claimed) {
            held.rare().exported = Some(payload);
        }
    }

    /// Notes that the request of `id` will not be posted.
    #[cold]
    pub(crate) fn abandon(&mut self, id: CallId, send: SlotToken) {
        let slot = send.slot();
        let held = &mut self.slots[usize::from(slot)];
        held.send = Some(send);
        if held.is(id, Phase::Claimed) {
            self.release(slot);
        }
    }

    /// The token of `slot` in the reply ring.
    ///
    /// # Errors
    /// There is no such slot, or it holds an answer that is being read.
    #[inline]
    pub(crate) fn replied(&self, slot: u16) -> Result<&SlotToken, Violation> {
        let held = self.slots.get(usize::from(slot));
        let held = held.ok_or(Violation::BadSlot)?;
        held.replied.as_ref().ok_or(Violation::UnknownRequest)
    }

    /// The token of `slot` in the reply ring, for a call that has just claimed it: no answer stands
    /// there.
    #[cold]
    pub(crate) fn free_reply(&mut self, slot: u16) -> Option<&mut SlotToken> {
        self.slots.get_mut(usize::from(slot))?.replied.as_mut()
    }

    /// Has the lock's holder look at what is to be done once it is released.
    #[cold]
    pub(crate) fn note_effect(&mut self) {
        self.has_effects = true;
    }

    /// Takes the token of `slot` in the reply ring, for the reader of the answer, until that has
    /// [finished](Self::finish).
    #[inline]
    pub(crate) fn lend_reply(&mut self, slot: u16) -> SlotToken {
        let token = self.slots[usize::from(slot)].replied.take();
        token.expect("an answer is lent to its call only")
    }

    /// Takes the token of an unused slot's send memory, until something is [posted](Self::posted)
    /// from it.
    pub(crate) fn take_free_memory(&mut self, slot: u16) -> Option<SlotToken> {
        let held = self.slots.get_mut(usize::from(slot))?;
        let is_free = held.phase == Phase::Free;
        held.send.take_if(|_| is_free)
    }

    /// Handles a reply to `id` in `slot`; its payload is at the peer if it is `outside`.
    #[inline(always)]
    pub(crate) fn receive(
        &mut self,
        slot: u16,
        id: CallId,
        reply: ReplyMeta,
        outside: Option<RendezvousDescriptor>,
    ) -> Received {
        let Some(held) = self.slots.get_mut(usize::from(slot)) else {
            return Received::Violation(Violation::BadSlot);
        };
        if !held.is(id, Phase::Pending) {
            return self.receive_late(slot, id, outside);
        }
        if held.rare.is_some() || outside.is_some() {
            return self.receive_rare(slot, reply, outside);
        }
        held.phase = Phase::Answered;
        held.reply = reply;
        if let Some(waker) = held.waker.take() {
            self.wake(waker);
        }
        Received::Answer
    }

    /// Handles a reply to a call that does not await one.
    #[cold]
    fn receive_late(
        &mut self,
        slot: u16,
        id: CallId,
        outside: Option<RendezvousDescriptor>,
    ) -> Received {
        let held = &self.slots[usize::from(slot)];
        if !held.is(id, Phase::Orphaned) {
            return Received::Violation(Violation::UnknownRequest);
        }
        if held.rare.as_ref().is_some_and(|rare| rare.is_reading) {
            return Received::Violation(Violation::SlotBusy);
        }
        self.late += 1;
        if outside.is_some() {
            self.acknowledge(slot);
        }
        // A closed channel has no use for the slot, and its owner may still ask whether the request
        // was sent.
        if self.closed.is_none() {
            self.release(slot);
        }
        Received::Late
    }

    /// Handles a reply that is not plain, or answers a call that is not.
    #[cold]
    fn receive_rare(
        &mut self,
        slot: u16,
        reply: ReplyMeta,
        outside: Option<RendezvousDescriptor>,
    ) -> Received {
        let held = &mut self.slots[usize::from(slot)];
        if held.rare().is_reading {
            return Received::Violation(Violation::SlotBusy);
        }
        held.reply = reply;
        match outside {
            None => self.answer(slot),
            Some(outside) => {
                held.rare().is_reading = true;
                self.has_effects = true;
                self.effects.pending_reads.push((slot, outside));
                Received::Offered
            }
        }
    }

    /// Notes that the payload of the answer in `slot`, which lay at the peer, has been read, or
    /// cannot be.
    pub(crate) fn read(&mut self, slot: u16, payload: Result<PooledBuffer, CallError>) -> Received {
        self.acknowledge(slot);
        let held = &mut self.slots[usize::from(slot)];
        held.rare().is_reading = false;
        if held.phase == Phase::Pending {
            held.rare().read = Some(payload);
            return self.answer(slot);
        }
        let id = held.id;
        self.receive_late(slot, id, None)
    }

    /// The peer need not keep the payload of the answer in `slot` any more.
    fn acknowledge(&mut self, slot: u16) {
        if self.closed.is_none() {
            self.acknowledgements.push_back(slot);
            self.has_effects = true;
        }
    }

    /// Notes that the call in `slot` is answered.
    fn answer(&mut self, slot: u16) -> Received {
        let held = &mut self.slots[usize::from(slot)];
        held.phase = Phase::Answered;
        let rare = held.rare();
        // The payload of the request has been read long since.
        rare.exported = None;
        if let Some(method) = rare.one_way {
            return Received::OneWay(method);
        }
        if let Some(waker) = held.waker.take() {
            self.wake(waker);
        }
        Received::Answer
    }

    /// Ends the one-way call that is answered in `slot`; it has failed if there is a `failure`.
    pub(crate) fn complete(&mut self, slot: u16, failure: Option<TellFailure>) {
        if self.slots[usize::from(slot)].phase == Phase::Answered {
            self.one_way -= 1;
            self.release(slot);
        }
        if let Some(failure) = failure {
            self.has_effects = true;
            self.effects.failures.push(failure);
        }
    }

    /// The slot of `id`; `hint` is where it was last seen.
    #[inline]
    fn slot_of(&self, id: CallId, hint: Option<u16>) -> Option<u16> {
        let slot = match hint {
            Some(slot) => slot,
            None => self.lined_up.get(&id)?.slot?,
        };
        self.slots[usize::from(slot)].is_of(id).then_some(slot)
    }

    /// The state of `id`; `hint` is where it was last seen.
    #[inline]
    fn state(&self, id: CallId, hint: Option<u16>) -> CallState {
        if let Some(slot) = self.slot_of(id, hint) {
            let held = &self.slots[usize::from(slot)];
            return match held.phase {
                Phase::Answered => CallState::Answered(slot),
                Phase::Claimed | Phase::Pending => CallState::Pending,
                Phase::Free | Phase::Orphaned => CallState::Closed,
            };
        }
        match self.is_waiting(id) {
            true => CallState::Waiting,
            false => CallState::Closed,
        }
    }

    /// The answer of `id` and its slot, if it is there. `slot` is its slot, once it has been told
    /// of one.
    #[inline]
    pub(crate) fn answer_of(
        &mut self,
        id: CallId,
        slot: &mut Option<u16>,
    ) -> Option<(u16, ReplyMeta)> {
        if slot.is_none() {
            *slot = self.take_granted(id);
        }
        let slot = (*slot)?;
        let held = &self.slots[usize::from(slot)];
        held.is(id, Phase::Answered).then_some((slot, held.reply))
    }

    /// Returns whether `id` waits for a credit.
    pub(crate) fn is_waiting(&self, id: CallId) -> bool {
        self.lined_up
            .get(&id)
            .is_some_and(|call| call.slot.is_none())
    }

    /// How `id` has ended without an answer, once all that has arrived was handled; `None` while
    /// that is not decided. Then `waker` is woken when it is, in place of the waker `before`, which
    /// is to be dropped once the lock is released.
    #[inline]
    pub(crate) fn look(
        &mut self,
        id: CallId,
        slot: Option<u16>,
        deadline: Option<Instant>,
        now: impl FnOnce() -> Instant,
        waker: Option<&Waker>,
        before: &mut Option<Waker>,
    ) -> Option<CallState> {
        match self.state(id, slot).by(deadline, now) {
            state @ (CallState::Expired | CallState::Closed) => Some(state),
            CallState::Waiting | CallState::Pending | CallState::Answered(_) => {
                *before = self.register(id, slot, waker);
                None
            }
        }
    }

    /// Why `id`, which has not been ended, has failed. `after` is the time that it was allowed.
    #[cold]
    pub(crate) fn failure(
        &self,
        id: CallId,
        hint: Option<u16>,
        state: CallState,
        after: Option<Duration>,
    ) -> CallError {
        match (state, after) {
            (CallState::Expired, Some(after)) => CallError::Timeout {
                after,
                sent: !self.is_waiting(id),
            },
            _ => CallError::Closed {
                cause: self.loss(),
                sent: self.was_sent(id, hint),
            },
        }
    }

    /// The slot of `id`, which found no credit and may have one now. Its owner asks with that from
    /// now on.
    #[cold]
    fn take_granted(&mut self, id: CallId) -> Option<u16> {
        let slot = self.lined_up.get(&id)?.slot?;
        self.lined_up.remove(&id);
        Some(slot)
    }

    /// Sets the `waker` to wake when `id` has ended, or none, in place of the previous one. That is
    /// returned if it is another, to be dropped once the lock is released.
    #[must_use]
    #[inline]
    pub(crate) fn register(
        &mut self,
        id: CallId,
        hint: Option<u16>,
        waker: Option<&Waker>,
    ) -> Option<Waker> {
        let place = match self.slot_of(id, hint) {
            Some(slot) => &mut self.slots[usize::from(slot)].waker,
            None => &mut self.lined_up.get_mut(&id)?.waker,
        };
        match (place, waker) {
            (None, None) => None,
            (Some(held), Some(waker)) if held.will_wake(waker) => None,
            (place, waker) => {
                let before = std::mem::replace(place, waker.cloned());
                self.sleepers += usize::from(waker.is_some());
                self.sleepers -= usize::from(before.is_some());
                before
            }
        }
    }

    /// Notes that nobody waits for the answer of `id`: its failure is to be reported. Returns its
    /// slot if the answer is there, to be [completed](Self::complete).
    ///
    /// # Errors
    /// It has ended with the channel.
    pub(crate) fn make_one_way(
        &mut self,
        id: CallId,
        hint: Option<u16>,
        method: u32,
    ) -> Result<Option<u16>, CallError> {
        let answered = match self.state(id, hint) {
            CallState::Answered(slot) => Some(slot),
            state @ CallState::Closed => return Err(self.failure(id, hint, state, None)),
            CallState::Waiting | CallState::Pending | CallState::Expired => None,
        };
        match self.slot_of(id, hint) {
            Some(slot) => {
                self.slots[usize::from(slot)].rare().one_way = Some(method);
                self.lined_up.remove(&id);
            }
            None => {
                if let Some(call) = self.lined_up.get_mut(&id) {
                    call.one_way = Some(method);
                }
            }
        }
        self.one_way += 1;
        Ok(answered)
    }

    /// Takes the payload of the answer in `slot`, if it did not travel through the ring.
    pub(crate) fn take_read(&mut self, slot: u16) -> Result<Option<PooledBuffer>, CallError> {
        let rare = self.slots[usize::from(slot)].rare.as_mut();
        rare.and_then(|rare| rare.read.take()).transpose()
    }

    /// Notes that the answer of `id` has been read.
    #[inline]
    pub(crate) fn finish(&mut self, id: CallId, replied: SlotToken) {
        let slot = replied.slot();
        self.slots[usize::from(slot)].replied = Some(replied);
        if self.slots[usize::from(slot)].is(id, Phase::Answered) {
            self.release(slot);
        }
    }

    /// Sets the deadline of a call that waits for a credit: the time that is left then travels with
    /// the request.
    pub(crate) fn set_deadline(&mut self, id: CallId, at: Option<Instant>) {
        if let Some(call) = self.lined_up.get_mut(&id) {
            call.deadline = at;
        }
    }

    /// Ends `id`: it timed out, or nobody wants the answer.
    pub(crate) fn end(&mut self, id: CallId, hint: Option<u16>) -> Ended {
        let slot = self.slot_of(id, hint);
        let lined_up = self.lined_up.remove(&id);
        let mut ended = Ended {
            cancel: None,
            was_sent: false,
            _waker: None,
        };
        let Some(slot) = slot else {
            if let Some(call) = lined_up.filter(|call| call.slot.is_none()) {
                self.waiting -= 1;
                // The next one may have waited for this one only.
                self.has_effects = true;
                self.one_way -= usize::from(call.one_way.is_some());
                self.sleepers -= usize::from(call.waker.is_some());
                ended._waker = call.waker;
            }
            return ended;
        };
        let held = &mut self.slots[usize::from(slot)];
        ended._waker = held.waker.take();
        self.sleepers -= usize::from(ended._waker.is_some());
        ended.was_sent = held.phase != Phase::Claimed;
        match held.phase {
            Phase::Pending => {
                held.phase = Phase::Orphaned;
                ended.cancel = Some(slot);
            }
            Phase::Answered | Phase::Claimed => self.release(slot),
            Phase::Free | Phase::Orphaned => {}
        }
        ended
    }

    /// Closes the channel: every unanswered call has ended. Answers that have arrived can still be
    /// read.
    pub(crate) fn close(&mut self, cause: LossCause) {
        for (id, call) in std::mem::take(&mut self.lined_up) {
            if call.slot.is_some() {
                self.lined_up.insert(id, call);
                continue;
            }
            self.effects.wakers.extend(call.waker);
            if let Some(method) = call.one_way {
                self.effects.lose(method, &cause, false);
            }
        }
        self.waiting = 0;
        self.first_waiting = CallId(self.next);
        for held in &mut self.slots {
            if !matches!(held.phase, Phase::Free | Phase::Answered) {
                let rare = held.rare.take();
                if let Some(method) = rare.and_then(|rare| rare.one_way) {
                    self.effects.lose(method, &cause, true);
                }
                held.phase = Phase::Orphaned;
            }
            self.effects.wakers.extend(held.waker.take());
        }
        self.sleepers = 0;
        self.one_way = 0;
        self.effects.pending_reads.clear();
        self.acknowledgements.clear();
        self.has_effects = true;
        self.closed = Some(cause);
    }

    /// Returns whether the request of `id`, which ended with the channel, was sent and is
    /// unanswered.
    fn was_sent(&self, id: CallId, hint: Option<u16>) -> bool {
        let slot = self.slot_of(id, hint);
        slot.is_some_and(|slot| self.slots[usize::from(slot)].phase == Phase::Orphaned)
    }

    /// Returns whether a slot, which must exist, is unused.
    #[cfg(test)]
    pub(crate) fn is_free(&self, slot: u16) -> bool {
        let slot = self.slots.get(usize::from(slot));
        slot.is_some_and(|slot| slot.phase == Phase::Free)
    }

    /// Why the channel is closed, which it is.
    pub(crate) fn loss(&self) -> LossCause {
        self.closed.clone().unwrap_or(LossCause::ShutDown)
    }

    /// Why the channel is closed.
    #[inline]
    pub(crate) fn closed(&self) -> Option<&LossCause> {
        self.closed.as_ref()
    }

    /// Number of answers that came after their call had ended.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }

    /// Number of calls that wait for a credit.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns whether a waker waits for arrivals.
    pub(crate) fn has_sleepers(&self) -> bool {
        self.sleepers > 0 || self.one_way > 0
    }

    /// Returns whether something waits to be posted until a credit or a place in the send queue is
    /// free.
    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        self.waiting > 0 || !self.acknowledgements.is_empty()
    }

    /// Takes a slot whose answer's payload the peer need not keep any more, to tell it so.
    pub(crate) fn take_release(&mut self) -> Option<u16> {
        self.acknowledgements.pop_front()
    }

    /// Returns whether something may be [granted](Self::grant), or is to be done once the lock
    /// is released.
    #[inline]
    pub(crate) fn has_effects(&self) -> bool {
        self.has_effects
    }

    /// Takes what is to be done once the lock is released.
    pub(crate) fn take_effects(&mut self) -> Effects {
        self.has_effects = self.closed.is_some();
        let mut effects = std::mem::take(&mut self.effects);
        effects.memory = self.take_memory();
        effects
    }

    fn take_memory(&mut self) -> Option<(Vec<SlotToken>, Vec<SlotToken>)> {
        self.closed.as_ref()?;
        let rest = self
            .slots
            .get(self.unused..)
            .filter(|rest| !rest.is_empty())?;
        self.unused += rest.iter().take_while(|slot| slot.is_unused()).count();
        if self.unused < self.slots.len() {
            return None;
        }
        let slots = self.slots.iter_mut();
        slots
            .map(|slot| slot.send.take().zip(slot.replied.take()))
            .collect()
    }

    /// Returns whether no call has a slot.
    pub(crate) fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// The number of calls that were made, if the channel is open and nothing is under way: no call
    /// has a slot or waits for one, no answer is lent, and the peer has been told all.
    pub(crate) fn calls_if_idle(&self) -> Option<u64> {
        let is_idle =
            self.is_idle() && self.lined_up.is_empty() && self.acknowledgements.is_empty();
        (is_idle && self.closed.is_none()).then_some(self.next)
    }

    /// The numbers of free slots, of others, and of calls that wait for one; none if it is closed.
    pub(crate) fn occupancy(&self) -> (usize, usize, usize) {
        if self.closed.is_some() {
            return (0, 0, 0);
        }
        let free = self.free.len();
        (free, self.slots.len() - free, self.waiting)
    }

    /// The account of slots.
    pub(crate) fn credits(&self) -> Credits {
        let mut credits = Credits::default();
        for slot in &self.slots {
            match slot.phase {
                Phase::Free => credits.free += 1,
                Phase::Orphaned => credits.orphaned += 1,
                Phase::Claimed | Phase::Pending | Phase::Answered => credits.in_use += 1,
            }
        }
        credits
    }

    fn wake(&mut self, waker: Waker) {
        self.sleepers -= 1;
        self.has_effects = true;
        self.effects.wakers.push(waker);
    }

    /// Frees a slot whose call has ended and whose answer, if there is one, is not lent.
    #[inline]
    pub(crate) fn release(&mut self, slot: u16) {
        let held = &mut self.slots[usize::from(slot)];
        held.phase = Phase::Free;
        if held.rare.is_some() {
            held.rare = None;
        }
        self.free.push_back(slot);
        // It is the credit of who waits.
        self.has_effects |= self.waiting > 0;
    }
}

impl Effects {
    fn lose(&mut self, method: u32, cause: &LossCause, sent: bool) {
        let cause = cause.clone();
        let cause = TellError::Lost { cause, sent };
        self.failures.push(TellFailure { method, cause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted(caller: &mut Caller) -> (CallId, u16) {
        let (id, send) = caller.claim(true).expect("there is a free slot");
        let slot = send.slot();
        caller.posted(id, send);
        (id, slot)
    }

    fn receive(caller: &mut Caller, slot: u16, id: CallId) -> Received {
        caller.receive(slot, id, ReplyMeta::default(), None)
    }

    #[test]
    fn slot_2_a_call_that_ends_when_it_is_answered_gives_its_slot_back() {
        let mut caller = Caller::of(1);
        let (id, slot) = posted(&mut caller);
        assert_eq!(receive(&mut caller, slot, id), Received::Answer);
        assert_eq!(
            caller.end(id, Some(slot)).cancel,
            None,
            "nothing is to be cancelled"
        );
        assert!(caller.is_free(slot));
        // Whatever still says that it is done with it frees it once.
        let replied = caller.lend_reply(slot);
        caller.finish(id, replied);
        assert_eq!((caller.credits().free, caller.free.len()), (1, 1));
    }

    #[test]
    fn the_slot_that_was_freed_last_is_taken_next() {
        let mut caller = Caller::of(3);
        let calls = [posted(&mut caller), posted(&mut caller)];
        for (id, slot) in calls {
            assert_eq!(receive(&mut caller, slot, id), Received::Answer);
            let replied = caller.lend_reply(slot);
            caller.finish(id, replied);
        }
        assert_eq!(posted(&mut caller).1, calls[1].1);
        assert_eq!(posted(&mut caller).1, calls[0].1);
    }

    #[test]
    fn a_large_message_takes_the_slot_that_was_freed_first() {
        let mut caller = Caller::of(3);
        let (id, slot) = posted(&mut caller);
        assert_eq!(receive(&mut caller, slot, id), Received::Answer);
        let replied = caller.lend_reply(slot);
        caller.finish(id, replied);
        let mut claim = || caller.claim(false).map(|(_, send)| send.slot());
        let claimed = [claim(), claim(), claim(), claim()];
        assert_eq!(claimed, [Some(2), Some(1), Some(slot), None]);
    }

    #[test]
    fn call_2_an_answer_that_comes_after_the_channel_was_closed_leaves_its_request_sent() {
        let mut caller = Caller::of(2);
        let (id, slot) = posted(&mut caller);
        caller.close(LossCause::Gone);
        assert_eq!(receive(&mut caller, slot, id), Received::Late);
        assert!(matches!(caller.state(id, Some(slot)), CallState::Closed));
        assert!(caller.was_sent(id, Some(slot)), "so it may have been run");
        assert!(caller.take_effects().memory.is_some(), "SLOT-2");
    }
}

//! The calling side of a channel: credits, pending calls and deadlines, without I/O or clock.
//!
//! A slot goes through these states; the credit is back when it is free again.
//!
//! ```text
//!         open          posted           receive            finish
//!  Free ───────▶ Claimed ─────▶ Pending ─────────▶ Answered ─────▶ Free
//!                  │ abandon      │ end (timeout, dropped)  receive
//!                  ▼              ▼                              │
//!                 Free         Orphaned ─────────────────────────┴▶ Free
//! ```
//!
//! Calls that find no free slot wait in order. After [`close`](Caller::close) every call has ended (CALL-1)
//! and no slot is handed out until the queue pair has been drained (SLOT-1).

use std::collections::VecDeque;
use std::time::Instant;

use super::Violation;

/// Names one call for the life of its channel; it is the request id on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub(crate) u64);

/// Where a new call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It has this slot.
    Slot(CallId, u16),
    /// It waits for a credit.
    Waiting(CallId),
}

/// What has become of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallState {
    /// It waits for a credit.
    Waiting,
    /// Its request is on its way or being handled, in this slot.
    Pending(u16),
    /// Its answer stands in this slot.
    Answered(u16),
    /// Its deadline has passed.
    Expired,
    /// The channel was closed before an answer came.
    Closed,
}

/// What an arriving message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// The answer to this call.
    Answer(CallId),
    /// The answer to a call that had ended (CALL-2). The slot is free again.
    Late,
    /// Something that a correct peer does not send.
    Violation(Violation),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    Claimed(CallId),
    Pending(CallId, Option<Instant>),
    Answered(CallId),
    Orphaned(CallId),
}

/// How many slots are in which state. Their sum is the number of slots (SLOT-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credits {
    /// Free slots.
    pub free: usize,
    /// Slots of live calls.
    pub in_use: usize,
    /// Slots of calls that ended without an answer.
    pub orphaned: usize,
}

/// The calling side.
#[derive(Debug)]
pub struct Caller {
    slots: Box<[Slot]>,
    /// Free slots, the one that was freed first in front.
    free: VecDeque<u16>,
    waiting: VecDeque<(CallId, Option<Instant>)>,
    next: u64,
    late: u64,
    closed: bool,
}

impl Caller {
    /// A calling side with `slots` credits, 1 to 65,536.
    pub fn new(slots: usize) -> Self {
        Self {
            slots: vec![Slot::Free; slots].into(),
            free: (0..slots).map(|slot| slot as u16).collect(),
            waiting: VecDeque::new(),
            next: 1,
            late: 0,
            closed: false,
        }
    }

    /// Opens a call; `None` if the channel is closed. `may_send` is whether the transport can take it now.
    /// A call never overtakes one that waits (ORDER-1).
    #[inline]
    pub fn open(&mut self, may_send: bool, deadline: Option<Instant>) -> Option<Placed> {
        if self.closed {
            return None;
        }
        let id = CallId(self.next);
        self.next += 1;
        if may_send
            && self.waiting.is_empty()
            && let Some(slot) = self.free.pop_front()
        {
            self.slots[usize::from(slot)] = Slot::Claimed(id);
            return Some(Placed::Slot(id, slot));
        }
        self.waiting.push_back((id, deadline));
        Some(Placed::Waiting(id))
    }

    /// The call that has waited longest.
    pub fn first_waiting(&self) -> Option<CallId> {
        self.waiting.front().map(|(id, _)| *id)
    }

    /// Gives the call that has waited longest a slot, if there is one.
    pub fn grant(&mut self) -> Option<(CallId, u16, Option<Instant>)> {
        if self.closed || self.waiting.is_empty() {
            return None;
        }
        let slot = self.free.pop_front()?;
        let (id, deadline) = self.waiting.pop_front()?;
        self.slots[usize::from(slot)] = Slot::Claimed(id);
        Some((id, slot, deadline))
    }

    /// The request of `id` is about to be posted. False if the call has ended meanwhile.
    #[must_use]
    #[inline]
    pub fn posted(&mut self, id: CallId, slot: u16, deadline: Option<Instant>) -> bool {
        self.replace(slot, Slot::Claimed(id), Slot::Pending(id, deadline))
    }

    /// The request of `id` will not be posted.
    pub fn abandon(&mut self, id: CallId, slot: u16) {
        if self.slots[usize::from(slot)] == Slot::Claimed(id) {
            self.release(slot);
        }
    }

    /// A reply to `id` arrived in `slot`.
    #[inline]
    pub fn receive(&mut self, slot: u16, id: CallId) -> Received {
        match self.slots.get(usize::from(slot)) {
            None => Received::Violation(Violation::BadSlot),
            Some(&Slot::Pending(pending, _)) if pending == id => {
                self.slots[usize::from(slot)] = Slot::Answered(id);
                Received::Answer(id)
            }
            Some(&Slot::Orphaned(orphan)) if orphan == id => {
                self.late += 1;
                // A closed channel has no use for the slot, and its owner may ask yet whether the request was sent.
                if !self.closed {
                    self.release(slot);
                }
                Received::Late
            }
            Some(_) => Received::Violation(Violation::UnknownRequest),
        }
    }

    /// Whether `id` waits for its answer in `slot`.
    #[inline]
    pub fn is_pending(&self, slot: u16, id: CallId) -> bool {
        let slot = self.slots.get(usize::from(slot));
        matches!(slot, Some(Slot::Pending(held, _)) if *held == id)
    }

    /// Whether the answer of `id` stands in `slot`.
    pub fn is_answered(&self, slot: u16, id: CallId) -> bool {
        self.slots.get(usize::from(slot)) == Some(&Slot::Answered(id))
    }

    /// The answer of `id` has been read.
    #[inline]
    pub fn finish(&mut self, id: CallId, slot: u16) {
        if self.slots[usize::from(slot)] == Slot::Answered(id) {
            self.release(slot);
        }
    }

    /// What has become of `id` by `now`. `slot` is where it was last seen.
    #[inline]
    pub fn state(&self, id: CallId, slot: Option<u16>, now: Instant) -> CallState {
        let expired = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let found = slot
            .or_else(|| self.find(id))
            .map(|slot| (slot, self.slots[usize::from(slot)]));
        match found {
            Some((slot, Slot::Answered(held))) if held == id => CallState::Answered(slot),
            Some((_, Slot::Pending(held, deadline))) if held == id && expired(deadline) => {
                CallState::Expired
            }
            Some((slot, Slot::Pending(held, _) | Slot::Claimed(held))) if held == id => {
                CallState::Pending(slot)
            }
            _ => match self.waiting.iter().find(|(waiting, _)| *waiting == id) {
                Some((_, deadline)) if expired(*deadline) => CallState::Expired,
                Some(_) => CallState::Waiting,
                None => CallState::Closed,
            },
        }
    }

    /// Sets the deadline of a live call.
    pub fn set_deadline(&mut self, id: CallId, at: Option<Instant>) {
        for (waiting, deadline) in &mut self.waiting {
            if *waiting == id {
                *deadline = at;
            }
        }
        for slot in &mut self.slots {
            if let Slot::Pending(held, deadline) = slot
                && *held == id
            {
                *deadline = at;
            }
        }
    }

    /// Ends `id`: it timed out or nobody wants the answer. Says which slot its request occupies, if it was
    /// sent and is not answered; that slot stays occupied until the answer comes (SLOT-1).
    pub fn end(&mut self, id: CallId) -> Option<u16> {
        self.waiting.retain(|(waiting, _)| *waiting != id);
        let slot = self.find(id)?;
        match self.slots[usize::from(slot)] {
            Slot::Pending(..) => {
                self.slots[usize::from(slot)] = Slot::Orphaned(id);
                Some(slot)
            }
            Slot::Answered(_) | Slot::Claimed(_) => {
                self.release(slot);
                None
            }
            Slot::Free | Slot::Orphaned(_) => None,
        }
    }

    /// Closes the channel: every unanswered call has ended. Answers that arrived can still be read.
    pub fn close(&mut self) {
        self.closed = true;
        self.waiting.clear();
        for slot in &mut self.slots {
            if let Slot::Pending(id, _) | Slot::Claimed(id) = *slot {
                *slot = Slot::Orphaned(id);
            }
        }
    }

    /// The queue pair of a closed channel has been drained and a new one takes its place: credits of ended
    /// calls are back. Answers nobody has read yet keep their slots.
    pub fn reset(&mut self) {
        debug_assert!(self.closed, "only a closed channel is reset");
        self.closed = false;
        for slot in 0..self.slots.len() as u32 {
            if matches!(self.slots[slot as usize], Slot::Orphaned(_)) {
                self.release(slot as u16);
            }
        }
    }

    /// Whether the request of an ended call was sent and is not answered.
    pub fn was_sent(&self, id: CallId) -> bool {
        self.slots.contains(&Slot::Orphaned(id))
    }

    /// Whether nobody uses a slot, which must exist.
    pub fn is_free(&self, slot: u16) -> bool {
        self.slots.get(usize::from(slot)) == Some(&Slot::Free)
    }

    /// Whether the channel is closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many answers came after their call had ended.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Number of calls that wait for a credit.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a call awaits something from the peer.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.free.len() == self.slots.len()
    }

    /// The account of slots.
    pub fn credits(&self) -> Credits {
        let mut credits = Credits::default();
        for slot in &self.slots {
            match slot {
                Slot::Free => credits.free += 1,
                Slot::Orphaned(_) => credits.orphaned += 1,
                _ => credits.in_use += 1,
            }
        }
        credits
    }

    fn find(&self, id: CallId) -> Option<u16> {
        let at = self.slots.iter().position(|slot| match *slot {
            Slot::Claimed(held) | Slot::Pending(held, _) | Slot::Answered(held) => held == id,
            Slot::Free | Slot::Orphaned(_) => false,
        })?;
        Some(at as u16)
    }

    #[inline]
    fn replace(&mut self, slot: u16, from: Slot, to: Slot) -> bool {
        let slot = &mut self.slots[usize::from(slot)];
        let is_from = *slot == from;
        if is_from {
            *slot = to;
        }
        is_from
    }

    #[inline]
    fn release(&mut self, slot: u16) {
        self.slots[usize::from(slot)] = Slot::Free;
        self.free.push_back(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_2_a_call_that_ends_when_it_is_answered_gives_its_slot_back() {
        let mut caller = Caller::new(1);
        let Some(Placed::Slot(id, slot)) = caller.open(true, None) else {
            panic!("there is a free slot");
        };
        assert!(caller.posted(id, slot, None));
        assert_eq!(caller.receive(slot, id), Received::Answer(id));
        assert_eq!(caller.end(id), None, "nothing is to be cancelled");
        assert!(caller.is_free(slot));
        // Whatever still says that it is done with it frees it once.
        caller.finish(id, slot);
        assert_eq!((caller.credits().free, caller.free.len()), (1, 1));
    }

    #[test]
    fn call_2_an_answer_that_comes_after_the_channel_was_closed_leaves_its_request_sent() {
        let mut caller = Caller::new(2);
        let Some(Placed::Slot(id, slot)) = caller.open(true, None) else {
            panic!("there is a free slot");
        };
        assert!(caller.posted(id, slot, None));
        caller.close();
        assert_eq!(caller.receive(slot, id), Received::Late);
        assert_eq!(
            caller.state(id, Some(slot), Instant::now()),
            CallState::Closed
        );
        assert!(caller.was_sent(id), "so it may have been run");
        caller.reset();
        assert!(caller.is_free(slot), "SLOT-2");
    }
}

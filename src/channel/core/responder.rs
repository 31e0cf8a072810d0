//! The answering side of a channel: which slots hold requests, without I/O or clock.

use crate::channel::Violation;
use crate::channel::lend::SlotToken;
use crate::wire::{Header, Immediate, MessageKind, Signal};

/// What an arriving immediate means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// A request stands in this slot. Its bytes stay until it is answered (RING-1).
    Request {
        /// The slot.
        slot: u16,
        /// To be echoed in the answer.
        request_id: u64,
    },
    /// The caller no longer wants the answer to the request in this slot. It is answered all the same.
    Cancel {
        /// The slot.
        slot: u16,
        /// The request.
        request_id: u64,
    },
    /// A cancel that crossed its answer.
    TooLate,
    /// The caller has read the payload of the answer that stood in this slot.
    Release {
        /// The slot.
        slot: u16,
    },
    /// Something that a correct peer does not send.
    Violation(Violation),
}

/// The rights to the bytes of one slot: of its request, and of the send memory of its answer.
#[derive(Debug)]
pub(crate) struct ServedSlot {
    pub(crate) request: SlotToken,
    pub(crate) send: SlotToken,
}

#[derive(Debug)]
struct Slot {
    /// The request that it holds.
    held: Option<u64>,
    /// Lent to that request.
    bytes: Option<ServedSlot>,
    /// The answer waits for a place in the send queue.
    is_unsent: bool,
}

/// The answering side.
#[derive(Debug)]
pub(crate) struct Responder {
    slots: Box<[Slot]>,
    unanswered: usize,
}

impl Responder {
    /// An answering side with a slot for each place for a request that has memory for the answer.
    pub(crate) fn new(requests: Vec<SlotToken>, sends: Vec<SlotToken>) -> Self {
        let bytes = requests.into_iter().zip(sends);
        let slots = bytes.map(|(request, send)| Slot {
            held: None,
            bytes: Some(ServedSlot { request, send }),
            is_unsent: false,
        });
        Self {
            slots: slots.collect(),
            unanswered: 0,
        }
    }

    /// One without memory.
    #[cfg(test)]
    pub(crate) fn of(slots: usize) -> Self {
        let tokens = || (0..slots).map(|slot| SlotToken::of_nothing(slot as u16));
        Self::new(tokens().collect(), tokens().collect())
    }

    /// What stands in a slot, unless a request does that is not answered, or whose answer is not sent.
    #[inline]
    pub(crate) fn arrived(&self, slot: u16) -> Option<&SlotToken> {
        let slot = self.slots.get(usize::from(slot))?;
        let bytes = slot.bytes.as_ref().filter(|_| !slot.is_unsent)?;
        Some(&bytes.request)
    }

    /// Lends the bytes of a slot to the request that it holds.
    #[inline]
    pub(crate) fn lend(&mut self, slot: u16) -> Option<ServedSlot> {
        self.slots.get_mut(usize::from(slot))?.bytes.take()
    }

    /// The bytes of a slot whose answer is not sent.
    pub(crate) fn bytes(&self, slot: u16) -> Option<&ServedSlot> {
        self.slots.get(usize::from(slot))?.bytes.as_ref()
    }

    /// The answer in `slot` waits for a place in the send queue, or does not any more.
    pub(crate) fn set_unsent(&mut self, slot: u16, is_unsent: bool) {
        self.slots[usize::from(slot)].is_unsent = is_unsent;
    }

    /// An immediate arrived; `header` is what stands in its slot.
    #[inline]
    pub(crate) fn receive(&mut self, imm: Immediate, header: Option<&Header>) -> Arrival {
        let slot = imm.slot;
        let Some(Slot {
            held, is_unsent, ..
        }) = self.slots.get_mut(usize::from(slot))
        else {
            return Arrival::Violation(Violation::BadSlot);
        };
        match (imm.signal, *held, header) {
            // The caller uses a slot again without the answer that still stands in it.
            (Signal::Message, None, _) if *is_unsent => Arrival::Violation(Violation::SlotBusy),
            (Signal::Cancel, Some(request_id), _) => Arrival::Cancel { slot, request_id },
            (Signal::Cancel, None, _) => Arrival::TooLate,
            (Signal::Release, _, _) => Arrival::Release { slot },
            (Signal::Message, Some(_), _) => Arrival::Violation(Violation::SlotBusy),
            (Signal::Message, None, None) => Arrival::Violation(Violation::BadHeader),
            (Signal::Message, None, Some(header)) if header.kind == MessageKind::Request => {
                let request_id = header.request_id;
                *held = Some(request_id);
                self.unanswered += 1;
                Arrival::Request { slot, request_id }
            }
            (Signal::Message, None, Some(_)) => Arrival::Violation(Violation::WrongKind),
        }
    }

    /// The answer of the request in `slot` is about to be posted: from then on the caller may write the slot.
    #[inline]
    pub(crate) fn answered(&mut self, slot: u16, bytes: ServedSlot) {
        let slot = &mut self.slots[usize::from(slot)];
        slot.bytes = Some(bytes);
        self.unanswered -= usize::from(slot.held.take().is_some());
    }

    /// Number of requests that are not answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered
    }
}

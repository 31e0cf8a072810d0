//! The answering side of a channel: which slots hold requests, without I/O or clock.

use super::Violation;
use crate::wire::{Header, Immediate, MessageKind, Signal};

/// What an arriving immediate means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
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

/// The answering side.
#[derive(Debug)]
pub struct Responder {
    /// The request that each slot holds.
    slots: Box<[Option<u64>]>,
}

impl Responder {
    /// An answering side with `slots` slots.
    pub fn new(slots: usize) -> Self {
        Self {
            slots: vec![None; slots].into(),
        }
    }

    /// An immediate arrived; `header` is what stands in its slot.
    #[inline]
    pub fn receive(&mut self, imm: Immediate, header: Option<&Header>) -> Arrival {
        let slot = imm.slot;
        let Some(held) = self.slots.get_mut(usize::from(slot)) else {
            return Arrival::Violation(Violation::BadSlot);
        };
        match (imm.signal, *held, header) {
            (Signal::Cancel, Some(request_id), _) => Arrival::Cancel { slot, request_id },
            (Signal::Cancel, None, _) => Arrival::TooLate,
            (Signal::Release, _, _) => Arrival::Release { slot },
            (Signal::Message, Some(_), _) => Arrival::Violation(Violation::SlotBusy),
            (Signal::Message, None, None) => Arrival::Violation(Violation::BadHeader),
            (Signal::Message, None, Some(header)) if header.kind == MessageKind::Request => {
                let request_id = header.request_id;
                *held = Some(request_id);
                Arrival::Request { slot, request_id }
            }
            (Signal::Message, None, Some(_)) => Arrival::Violation(Violation::WrongKind),
        }
    }

    /// Whether a request that is not answered stands in `slot`.
    #[inline]
    pub fn holds(&self, slot: u16) -> bool {
        self.slots
            .get(usize::from(slot))
            .is_some_and(Option::is_some)
    }

    /// The answer of the request in `slot` is about to be posted: from then on the caller may write the slot.
    #[inline]
    pub fn answered(&mut self, slot: u16) {
        self.slots[usize::from(slot)] = None;
    }

    /// Number of requests that are not answered.
    pub fn unanswered(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_some()).count()
    }
}

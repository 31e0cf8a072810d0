//! Messages that a correct peer never sends. They are counted, logged once per kind, and otherwise
//! ignored.

use std::fmt;

/// Kinds of protocol violations, and of messages that are merely late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// The bytes in the slot are not a header.
    BadHeader,
    /// The immediate names a slot that the ring does not have.
    BadSlot,
    /// A request came where a reply belongs, or the reverse.
    WrongKind,
    /// A request came in a slot whose previous request is unanswered.
    SlotBusy,
    /// A reply does not match a request that is outstanding in its slot; a second reply does not.
    UnknownRequest,
    /// A ring that has grown is none, is told twice, or is written into before it is there.
    BadRing,
}

impl Violation {
    /// Every kind, for reports.
    pub const ALL: [Self; 6] = [
        Self::BadHeader,
        Self::BadSlot,
        Self::WrongKind,
        Self::SlotBusy,
        Self::UnknownRequest,
        Self::BadRing,
    ];

    /// Its name in metrics and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadHeader => "bad_header",
            Self::BadSlot => "bad_slot",
            Self::WrongKind => "wrong_kind",
            Self::SlotBusy => "slot_busy",
            Self::UnknownRequest => "unknown_request",
            Self::BadRing => "bad_ring",
        }
    }
}

/// Counts of the violations on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Violations {
    counts: [u64; Violation::ALL.len()],
}

impl Violations {
    pub(crate) fn of(counts: [u64; Violation::ALL.len()]) -> Self {
        Self { counts }
    }

    /// These violations and `others`.
    pub fn add(&mut self, others: &Self) {
        for (count, more) in self.counts.iter_mut().zip(others.counts) {
            *count = count.saturating_add(more);
        }
    }

    /// How often `violation` occurred.
    pub fn count(&self, violation: Violation) -> u64 {
        self.counts[violation as usize]
    }

    /// Number of violations of all kinds.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Counts a violation, and logs the first of its kind from `peer`.
    pub(crate) fn record(&mut self, violation: Violation, peer: &dyn fmt::Display) {
        let count = &mut self.counts[violation as usize];
        *count += 1;
        if *count == 1 {
            tracing::warn!(%peer, kind = ?violation, "protocol violation; further ones of this kind are only counted");
        }
    }
}

//! The layout of a receive queue in the memory that two processes share.

use std::sync::Arc;

use super::receive_ring::{Entry, Posted, ReceiveRing};
use super::segment::{Segment, View};

/// A receive queue in shared memory.
#[derive(Debug)]
pub(super) struct RingMemory {
    posted: View<Posted>,
    entries: View<Entry>,
}

impl RingMemory {
    /// Size in bytes of a queue with this many entries.
    pub(super) const fn len(capacity: usize) -> usize {
        size_of::<Posted>() + capacity * size_of::<Entry>()
    }

    /// Finds the parts of the queue; `None` if the segment is too short for so many entries, or
    /// they are not a power of two.
    pub(super) fn new(segment: Segment, capacity: usize) -> Option<Self> {
        let segment = Arc::new(segment);
        capacity.is_power_of_two().then_some(())?;
        Some(Self {
            posted: View::of(&segment, 0, 1)?,
            entries: View::of(&segment, size_of::<Posted>(), capacity)?,
        })
    }

    pub(super) fn entries(&self) -> View<Entry> {
        self.entries.clone()
    }

    #[inline]
    pub(super) fn ring(&self) -> ReceiveRing<'_> {
        ReceiveRing {
            posted: &self.posted[0],
            entries: &self.entries,
        }
    }
}

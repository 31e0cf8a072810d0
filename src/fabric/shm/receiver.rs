//! The receiving half of a queue pair.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::arena::{Arena, Lot};
use super::barrier;
use super::ready_set::Rest;
use super::receive_ring::{Consumer, Entry, Posted, ReceiveRing};
use super::segment::{Segment, View};
use crate::fabric::{FabricError, QueuePairState, RecvRequest, software};

/// A receive queue in memory that the peer writes into, and the state of the queue pair.
#[derive(Debug)]
pub(super) struct Receiver {
    number: u32,
    depth: u32,
    state: AtomicU8,
    lot: Arc<Lot>,
    memory: RingMemory,
    capacity: usize,
    consumer: Consumer,
}

impl Receiver {
    pub(super) fn create(arena: &Arena, number: u32, depth: u32) -> Result<Self, FabricError> {
        let capacity = depth.next_power_of_two() as usize;
        let (lot, segment) = arena
            .create(RingMemory::len(capacity))
            .map_err(FabricError::os("allocating a receive queue"))?;
        let memory = RingMemory::new(segment, capacity).expect("it was made so");
        // No peer has it yet.
        memory.rest().begin();
        Ok(Self {
            number,
            depth,
            state: AtomicU8::new(QueuePairState::Reset as u8),
            lot,
            memory,
            capacity,
            consumer: Consumer::new(depth, capacity),
        })
    }

    /// Number of the queue pair.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// What the peer needs to write into the queue: its memory and its number of entries.
    pub(super) fn shared(&self) -> (&Arc<Lot>, u32) {
        (&self.lot, self.capacity as u32)
    }

    /// State of the queue pair.
    #[inline]
    pub(super) fn state(&self) -> QueuePairState {
        software::STATES[usize::from(self.state.load(Ordering::Acquire))]
    }

    /// Returns whether the queue pair sends.
    #[inline]
    pub(super) fn is_rts(&self) -> bool {
        self.state.load(Ordering::Acquire) == QueuePairState::Rts as u8
    }

    /// Enters ERR. Messages that the peer published before are still delivered.
    pub(super) fn fail(&self) {
        self.state
            .store(QueuePairState::Error as u8, Ordering::Release);
        self.memory.ring().posted.end();
        barrier::heavy();
    }

    /// Moves from one state to the next, unless another one was entered meanwhile; that one is the
    /// error.
    pub(super) fn advance(
        &self,
        from: QueuePairState,
        to: QueuePairState,
    ) -> Result<(), QueuePairState> {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(|state| software::STATES[usize::from(state)])
    }

    /// Posts receives. Returns whether they have to be flushed.
    #[inline]
    pub(super) fn post(&self, request: RecvRequest, count: u32) -> Result<bool, FabricError> {
        let state = self.state();
        if state == QueuePairState::Reset {
            return Err(FabricError::InvalidState {
                qp_num: self.number,
                verb: "post_recv",
                state,
            });
        }
        if !self.consumer.post(self.memory.ring(), request.wr_id, count) {
            return Err(FabricError::QueueFull {
                qp_num: self.number,
                queue: "receive",
                depth: self.depth,
            });
        }
        // Pairs with the fence in `fail`: either this sees the error, or the flushing thread sees
        // the receives.
        barrier::light();
        Ok(self.state() == QueuePairState::Error)
    }

    /// The entries that the peer writes.
    pub(super) fn entries(&self) -> View<[Entry]> {
        self.memory.entries()
    }

    /// Whether the queue rests.
    pub(super) fn rest(&self) -> &Rest {
        self.memory.rest()
    }

    /// The posted receives.
    #[inline]
    pub(super) fn consumer(&self) -> &Consumer {
        &self.consumer
    }
}

/// What stands in front of the entries of a receive queue.
#[derive(Debug)]
#[repr(C)]
pub(super) struct RingHeader {
    posted: Posted,
    rest: Rest,
}

/// A receive queue in shared memory.
#[derive(Debug)]
pub(super) struct RingMemory {
    header: View<RingHeader>,
    entries: View<[Entry]>,
}

impl RingMemory {
    /// Size in bytes of a queue with this many entries.
    pub(super) const fn len(capacity: usize) -> usize {
        size_of::<RingHeader>() + capacity * size_of::<Entry>()
    }

    /// Finds the parts of the queue; `None` if the segment is too short for so many entries, or
    /// they are not a power of two.
    pub(super) fn new(segment: Segment, capacity: usize) -> Option<Self> {
        let segment = Arc::new(segment);
        capacity.is_power_of_two().then_some(())?;
        Some(Self {
            header: View::of(&segment, 0)?,
            entries: View::of_many(&segment, size_of::<RingHeader>(), capacity)?,
        })
    }

    pub(super) fn entries(&self) -> View<[Entry]> {
        self.entries.clone()
    }

    #[inline]
    pub(super) fn rest(&self) -> &Rest {
        &self.header.rest
    }

    #[inline]
    pub(super) fn ring(&self) -> ReceiveRing<'_> {
        ReceiveRing {
            posted: &self.header.posted,
            entries: &self.entries,
        }
    }
}

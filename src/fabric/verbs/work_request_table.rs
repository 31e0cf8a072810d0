//! The work that was posted to a queue pair and has not completed.
//!
//! The provider gets numbers of this table: the queue pair (its place in the completion queue's
//! register, with a generation, because completions outlive their queue pair) and the place in its
//! queue. The caller's `wr_id` waits in that place.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Places are counted modulo this.
const SEQUENCE: u32 = (1 << 24) - 1;
const GENERATION: u32 = (1 << 23) - 1;

/// The number under which work goes to the provider:
/// receive (1 bit), generation (23 bits), place in the register (16 bits), sequence (24 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkNumber {
    pub(super) receive: bool,
    pub(super) owner: QueuePairKey,
    pub(super) sequence: u32,
}

/// A queue pair in the register of its completion queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueuePairKey {
    pub(super) place: u16,
    pub(super) generation: u32,
}

impl QueuePairKey {
    /// The key of the next queue pair in this place.
    pub(super) fn next(self) -> Self {
        Self {
            generation: (self.generation + 1) & GENERATION,
            ..self
        }
    }
}

impl WorkNumber {
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.receive) << 63
            | u64::from(self.owner.generation) << 40
            | u64::from(self.owner.place) << 24
            | u64::from(self.sequence)
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self {
            receive: bits >> 63 != 0,
            owner: QueuePairKey {
                place: (bits >> 24) as u16,
                generation: (bits >> 40) as u32 & GENERATION,
            },
            sequence: bits as u32 & SEQUENCE,
        }
    }
}

/// One queue, which completes in order. The queue pair's owner posts, the poller completes.
#[derive(Debug)]
pub(super) struct WorkRequestTable {
    /// A power of two, so that places follow each other also where sequences wrap.
    wr_ids: Box<[AtomicU64]>,
    depth: u32,
    posted: AtomicU32,
    completed: AtomicU32,
}

impl WorkRequestTable {
    /// Most places that can be told apart.
    pub(super) const MAX_DEPTH: u32 = SEQUENCE / 2;

    pub(super) fn new(depth: u32) -> Self {
        Self {
            wr_ids: (0..depth.next_power_of_two())
                .map(|_| AtomicU64::new(0))
                .collect(),
            depth,
            posted: AtomicU32::new(0),
            completed: AtomicU32::new(0),
        }
    }

    /// Takes the next place; `None` if all are taken. Only the owner of the queue pair may call
    /// this.
    pub(super) fn post(&self, wr_id: u64) -> Option<u32> {
        let sequence = self.posted.load(Ordering::Relaxed);
        let taken = sequence.wrapping_sub(self.completed.load(Ordering::Acquire)) & SEQUENCE;
        if taken >= self.depth {
            return None;
        }
        self.at(sequence).store(wr_id, Ordering::Relaxed);
        self.posted
            .store((sequence + 1) & SEQUENCE, Ordering::Release);
        Some(sequence)
    }

    /// Returns the place that was taken last, because the provider refused the work.
    pub(super) fn unpost(&self, sequence: u32) {
        self.posted.store(sequence, Ordering::Release);
    }

    /// Frees this place and all before it, and returns the `wr_id`.
    pub(super) fn complete(&self, sequence: u32) -> u64 {
        let wr_id = self.at(sequence).load(Ordering::Relaxed);
        self.completed
            .store((sequence + 1) & SEQUENCE, Ordering::Release);
        wr_id
    }

    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    fn at(&self, sequence: u32) -> &AtomicU64 {
        &self.wr_ids[sequence as usize & (self.wr_ids.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_survives_the_provider() {
        for (receive, place, generation, sequence) in
            [(true, 0, 0, 0), (false, u16::MAX, GENERATION, SEQUENCE)]
        {
            let number = WorkNumber {
                receive,
                owner: QueuePairKey { place, generation },
                sequence,
            };
            assert_eq!(WorkNumber::from_bits(number.to_bits()), number);
        }
    }

    #[test]
    fn a_completion_frees_its_place_and_those_before_it() {
        let table = WorkRequestTable::new(4);
        let sequences: Vec<_> = (10..).map_while(|wr_id| table.post(wr_id)).collect();
        assert_eq!(sequences.len(), 4);
        assert_eq!(table.complete(sequences[2]), 12);
        let more: Vec<_> = (20..).map_while(|wr_id| table.post(wr_id)).collect();
        assert_eq!(more.len(), 3);
        assert_eq!(table.complete(sequences[3]), 13);
    }

    #[test]
    fn places_are_told_apart_for_ever() {
        let table = WorkRequestTable::new(3);
        for wr_id in 0..u64::from(SEQUENCE) + 10 {
            let sequence = table.post(wr_id).expect("a place is free");
            assert_eq!(table.complete(sequence), wr_id);
        }
    }
}

//! The receiving half of a queue pair.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use super::receive_ring::{Consumer, ReceiveRing};
use super::ring_memory::RingMemory;
use super::segment::Segment;
use crate::fabric::{
    Completion, CompletionStatus, FabricError, Opcode, QueuePairState, RecvRequest,
};

/// A receive queue in memory that the peer writes into, and the state of the queue pair.
#[derive(Debug)]
pub(super) struct Receiver {
    number: u32,
    depth: u32,
    state: AtomicU8,
    fd: OwnedFd,
    memory: RingMemory,
    capacity: usize,
    consumer: Consumer,
}

const STATES: [QueuePairState; 5] = [
    QueuePairState::Reset,
    QueuePairState::Init,
    QueuePairState::Rtr,
    QueuePairState::Rts,
    QueuePairState::Error,
];

impl Receiver {
    pub(super) fn create(number: u32, depth: u32) -> Result<Self, FabricError> {
        let capacity = depth.next_power_of_two() as usize;
        let (fd, segment) = Segment::create("slimerpc-receives", RingMemory::len(capacity))
            .map_err(FabricError::os("allocating a receive queue"))?;
        Ok(Self {
            number,
            depth,
            state: AtomicU8::new(QueuePairState::Reset as u8),
            fd,
            memory: RingMemory::new(segment, capacity).expect("it was made so"),
            capacity,
            consumer: Consumer::new(depth, capacity),
        })
    }

    /// Number of the queue pair.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// What the peer needs to write into the queue.
    pub(super) fn shared(&self) -> (BorrowedFd<'_>, u32) {
        (self.fd.as_fd(), self.capacity as u32)
    }

    /// State of the queue pair.
    #[inline]
    pub(super) fn state(&self) -> QueuePairState {
        STATES[usize::from(self.state.load(Ordering::Acquire))]
    }

    /// Enters ERR. Messages that the peer published before are still delivered.
    pub(super) fn fail(&self) {
        self.state
            .store(QueuePairState::Error as u8, Ordering::Release);
    }

    /// Goes from one state to the next, unless another one was entered meanwhile; that one is the error.
    pub(super) fn advance(
        &self,
        from: QueuePairState,
        to: QueuePairState,
    ) -> Result<(), QueuePairState> {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(|state| STATES[usize::from(state)])
    }

    #[inline]
    pub(super) fn post(&self, request: RecvRequest) -> Result<(), FabricError> {
        let state = self.state();
        if state == QueuePairState::Reset {
            return Err(FabricError::InvalidState {
                qp_num: self.number,
                verb: "post_recv",
                state,
            });
        }
        if !self.consumer.post(self.ring(), request.wr_id) {
            return Err(FabricError::QueueFull {
                qp_num: self.number,
                queue: "receive",
                depth: self.depth,
            });
        }
        Ok(())
    }

    /// Moves completions to the front of `out`; the number of them.
    #[inline]
    pub(super) fn poll(&self, out: &mut [Completion]) -> usize {
        // In this order: what was published before the error is delivered, then the rest is flushed.
        let failed = self.state() == QueuePairState::Error;
        let ring = self.ring();
        let mut count = 0;
        while count < out.len()
            && let Some((wr_id, arrival)) = self.consumer.take(ring, failed)
        {
            out[count] = Completion {
                wr_id,
                status: arrival.map_or(CompletionStatus::Flushed, |_| CompletionStatus::Success),
                opcode: Opcode::RecvWriteWithImm,
                byte_len: arrival.map_or(0, |arrival| arrival.byte_len),
                imm: arrival.map(|arrival| arrival.imm),
                qp_num: self.number,
            };
            count += 1;
        }
        count
    }

    /// Whether [`poll`](Self::poll) would find nothing. Asked by who would call that.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        !self.consumer.has_arrival(self.ring())
            && (self.state() != QueuePairState::Error || self.consumer.is_used_up())
    }

    #[inline]
    fn ring(&self) -> ReceiveRing<'_> {
        self.memory.ring()
    }
}

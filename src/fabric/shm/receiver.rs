//! The receiving half of a queue pair.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::receive_ring::{Consumer, Entry, Posted, ReceiveRing};
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
    segment: Segment,
    capacity: usize,
    posted: Mutex<PostedReceives>,
}

#[derive(Debug)]
struct PostedReceives {
    consumer: Consumer,
    wr_ids: VecDeque<u64>,
}

/// Where the parts of a receive queue's memory are; both processes count on it.
pub(super) fn ring_in(segment: &Segment, capacity: usize) -> Option<ReceiveRing<'_>> {
    let posted = segment.slice::<Posted>(0, 1)?;
    let entries = segment.slice::<Entry>(size_of::<Posted>(), capacity)?;
    let ring = ReceiveRing {
        posted: &posted[0],
        entries,
    };
    capacity.is_power_of_two().then_some(ring)
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
        let len = size_of::<Posted>() + capacity * size_of::<Entry>();
        let (fd, segment) = Segment::create("slimerpc-receives", len)
            .map_err(FabricError::os("allocating a receive queue"))?;
        Ok(Self {
            number,
            depth,
            state: AtomicU8::new(QueuePairState::Reset as u8),
            fd,
            segment,
            capacity,
            posted: Mutex::new(PostedReceives {
                consumer: Consumer::default(),
                wr_ids: VecDeque::with_capacity(depth as usize),
            }),
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

    pub(super) fn post(&self, request: RecvRequest) -> Result<(), FabricError> {
        let state = self.state();
        if state == QueuePairState::Reset {
            return Err(FabricError::InvalidState {
                qp_num: self.number,
                verb: "post_recv",
                state,
            });
        }
        let mut posted = self.lock();
        if posted.wr_ids.len() >= self.depth as usize {
            return Err(FabricError::QueueFull {
                qp_num: self.number,
                queue: "receive",
                depth: self.depth,
            });
        }
        posted.wr_ids.push_back(request.wr_id);
        posted.consumer.post(self.ring());
        Ok(())
    }

    /// Moves completions to the front of `out`; the number of them.
    pub(super) fn poll(&self, out: &mut [Completion]) -> usize {
        // In this order: what was published before the error is delivered, then the rest is flushed.
        let failed = self.state() == QueuePairState::Error;
        let mut posted = self.lock();
        let mut count = 0;
        while count < out.len() {
            // A peer that publishes more than was posted is not listened to.
            let Some(wr_id) = posted.wr_ids.front().copied() else {
                break;
            };
            let arrival = posted.consumer.take(self.ring());
            if arrival.is_none() && !failed {
                break;
            }
            posted.wr_ids.pop_front();
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

    fn ring(&self) -> ReceiveRing<'_> {
        ring_in(&self.segment, self.capacity).expect("the queue was made so")
    }

    fn lock(&self) -> MutexGuard<'_, PostedReceives> {
        // Nothing panics while it is held.
        self.posted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

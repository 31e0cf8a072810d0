//! The queue pair by which one end of a native channel reads payloads that the other keeps outside of the rings.
//!
//! They are read in pieces, taking turns, and no more are posted than keep the link busy: so neither messages, which have a
//! queue pair of their own, nor small payloads wait for a large one.

use std::collections::VecDeque;
use std::sync::Arc;

use super::memory::Block;
use super::work_id::WorkId;
use super::{ConnectError, QueuePairInfo};
use crate::fabric::{
    CompletionQueue, Device, FabricError, Operation, Payload, QueuePair, QueuePairInit,
    RemoteSlice, RetryPolicy, SendRequest, Sge,
};
use crate::wire::Outside;

/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// Pieces on their way at the same time.
const DEPTH: usize = 2;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Bulk {
    // Dropped first, and so drained before the memory that it reads into is used again (DROP-1).
    qp: Box<dyn QueuePair>,
    owner: u64,
    reads: VecDeque<Read>,
    /// The slot that each posted piece is for.
    posted: VecDeque<u16>,
}

#[derive(Debug)]
struct Read {
    slot: u16,
    from: Outside,
    into: Block,
    posted: usize,
    /// Pieces that are on their way.
    underway: usize,
}

impl Bulk {
    /// Completion queue entries that it needs.
    pub(super) const ENTRIES: u32 = DEPTH as u32;

    /// Not connected yet.
    pub(super) fn new(
        device: &dyn Device,
        cq: &Arc<dyn CompletionQueue>,
        owner: u64,
        retry: RetryPolicy,
    ) -> Result<Self, ConnectError> {
        let mut qp = device.create_queue_pair(&QueuePairInit {
            send_cq: cq.clone(),
            recv_cq: cq.clone(),
            max_send_wr: DEPTH as u32,
            max_recv_wr: 1,
            max_inline: 0,
            retry,
        })?;
        qp.to_init()?;
        Ok(Self {
            qp,
            owner,
            reads: VecDeque::new(),
            posted: VecDeque::new(),
        })
    }

    /// What the peer must be told.
    pub(super) fn address(&self) -> QueuePairInfo {
        self.qp.address().into()
    }

    pub(super) fn connect(&mut self, theirs: QueuePairInfo) -> Result<(), ConnectError> {
        self.qp.to_rtr(&theirs.into())?;
        Ok(self.qp.to_rts()?)
    }

    /// Begins to read `from` into the first bytes of `into`, which has room for them, for the message in `slot`.
    pub(super) fn read(
        &mut self,
        slot: u16,
        from: Outside,
        into: Block,
    ) -> Result<(), FabricError> {
        self.reads.push_back(Read {
            slot,
            from,
            into,
            posted: 0,
            underway: 0,
        });
        self.post()
    }

    /// The piece posted first has arrived. Gives back what is complete with it.
    pub(super) fn complete(&mut self) -> Result<Option<(u16, Block)>, FabricError> {
        let arrived = self.posted.pop_front();
        let at = self
            .reads
            .iter()
            .position(|read| Some(read.slot) == arrived);
        let Some(at) = at else {
            return Ok(None);
        };
        let read = &mut self.reads[at];
        read.underway -= 1;
        let is_complete = read.underway == 0 && read.posted == read.into.len();
        let complete = is_complete.then(|| self.reads.remove(at)).flatten();
        self.post()?;
        Ok(complete.map(|read| (read.slot, read.into)))
    }

    fn post(&mut self) -> Result<(), FabricError> {
        while self.posted.len() < DEPTH {
            let is_left = |read: &Read| read.posted < read.into.len();
            let Some(at) = self.reads.iter().position(is_left) else {
                break;
            };
            // To the end of the line.
            let Some(mut read) = self.reads.remove(at) else {
                break;
            };
            let (slot, length) = (read.slot, PIECE.min(read.into.len() - read.posted));
            let offset = read.posted as u64;
            let id = WorkId {
                receive: false,
                owner: self.owner,
                lane: WorkId::BULK,
                retires: 0,
            };
            let posted = self.qp.post_send(&SendRequest {
                wr_id: id.to_bits(),
                operation: Operation::Read,
                local: Payload::Region(Sge {
                    addr: read.into.outside().addr + offset,
                    length: length as u32,
                    lkey: read.into.lkey(),
                }),
                remote: RemoteSlice {
                    addr: read.from.addr.wrapping_add(offset),
                    rkey: read.from.rkey,
                },
                signalled: true,
            });
            read.posted += length;
            read.underway += 1;
            self.reads.push_back(read);
            posted?;
            self.posted.push_back(slot);
        }
        Ok(())
    }

    /// To ERR. What is being read never arrives.
    pub(super) fn fail(&mut self) {
        if let Err(error) = self.qp.to_error() {
            tracing::warn!(%error, "the queue pair of a closed channel does not go to error");
        }
    }
}

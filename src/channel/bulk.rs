//! The queue pair through which one end reads and writes the other's memory.
//!
//! A transfer is cut into pieces, which take turns with those of other transfers, and only as many
//! are posted as keep the link busy. Thus neither messages, which have their own queue pair, nor
//! small transfers wait for a large one.

use std::collections::VecDeque;
use std::sync::Arc;

use super::buffer_pool::PooledBuffer;
use super::work_id::WorkId;
use super::{ConnectError, LossCause, QueuePairInfo};
use crate::fabric::{
    CompletionQueue, Device, FabricError, Operation, Payload, QueuePair, QueuePairInit,
    RemoteSlice, RetryPolicy, SendRequest, Sge,
};
use crate::wire::RendezvousDescriptor;

/// Size of a piece in bytes.
const PIECE: usize = 256 << 10;
/// Most pieces under way at the same time.
const DEPTH: usize = 2;

/// A queue pair for transfers to and from a peer's memory.
#[derive(Debug)]
pub(super) struct Bulk {
    // Dropped first, and so drained before the memory that it uses is used again (DROP-1).
    qp: Box<dyn QueuePair>,
    owner: u64,
    transfers: VecDeque<Transfer>,
    /// The transfer of each posted piece.
    posted: VecDeque<u64>,
}

/// A range of the peer's memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remote {
    pub(super) addr: u64,
    pub(super) rkey: u32,
    pub(super) len: usize,
}

/// A transfer between the peer and `local`.
#[derive(Debug)]
pub(super) struct Transfer {
    id: u64,
    operation: Operation,
    /// Ranges that are still to be posted.
    left: VecDeque<Remote>,
    local: PooledBuffer,
    posted: usize,
    /// Number of pieces under way.
    underway: usize,
}

impl Transfer {
    /// Makes a transfer that reads `from`, one after the other, into `into`, which has room for
    /// them. The ranges are not empty, and no other transfer has this id meanwhile.
    pub(super) fn read(
        id: u64,
        from: impl IntoIterator<Item = Remote>,
        into: PooledBuffer,
    ) -> Self {
        Self::new(id, Operation::Read, from, into)
    }

    /// Makes a transfer that writes `from` to the ranges of `to`, which are not empty.
    pub(super) fn write(id: u64, from: PooledBuffer, to: impl IntoIterator<Item = Remote>) -> Self {
        Self::new(id, Operation::Write, to, from)
    }

    fn new(
        id: u64,
        operation: Operation,
        remote: impl IntoIterator<Item = Remote>,
        local: PooledBuffer,
    ) -> Self {
        Self {
            id,
            operation,
            left: remote.into_iter().collect(),
            local,
            posted: 0,
            underway: 0,
        }
    }

    /// Takes the next piece: its offset in `local`, and its range at the peer.
    fn next_piece(&mut self) -> Option<(usize, Remote)> {
        let first = self.left.front_mut()?;
        let piece = Remote {
            len: first.len.min(PIECE),
            ..*first
        };
        first.addr = first.addr.wrapping_add(piece.len as u64);
        first.len -= piece.len;
        if first.len == 0 {
            self.left.pop_front();
        }
        let at = self.posted;
        self.posted += piece.len;
        Some((at, piece))
    }

    fn is_complete(&self) -> bool {
        self.underway == 0 && self.left.is_empty()
    }
}

impl Bulk {
    /// Begins to read the payload that `from` describes into `into`, which is as long. Its id is
    /// the slot of its message.
    ///
    /// # Errors
    /// The device refuses.
    pub(super) fn read(
        &mut self,
        slot: u16,
        from: RendezvousDescriptor,
        into: PooledBuffer,
    ) -> Result<(), LossCause> {
        let from = Remote {
            addr: from.addr,
            rkey: from.rkey,
            len: into.len(),
        };
        let begun = self.begin(Transfer::read(slot.into(), [from], into));
        begun.map_err(|error| LossCause::Fabric(error.to_string()))
    }

    /// Completion queue entries that it needs.
    pub(super) const ENTRIES: u32 = DEPTH as u32;

    /// Creates the queue pair, not connected yet.
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
            transfers: VecDeque::new(),
            posted: VecDeque::new(),
        })
    }

    /// The address to send to the peer.
    pub(super) fn address(&self) -> QueuePairInfo {
        self.qp.address().into()
    }

    /// Says which alias the peer must prove to have, where that can be proved.
    pub(super) fn expect_peer(&mut self, alias: &str) {
        self.qp.expect_peer(alias);
    }

    /// Returns whether the peer has been met, where that can be told.
    pub(super) fn has_met_peer(&self) -> Result<bool, FabricError> {
        self.qp.has_met_peer()
    }

    pub(super) fn connect(&mut self, theirs: QueuePairInfo) -> Result<(), ConnectError> {
        self.qp.to_rtr(&theirs.into())?;
        Ok(self.qp.to_rts()?)
    }

    /// Returns whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.transfers.is_empty()
    }

    pub(super) fn begin(&mut self, transfer: Transfer) -> Result<(), FabricError> {
        self.transfers.push_back(transfer);
        self.post()
    }

    /// Handles the arrival of the piece that was posted first. Returns the transfer that is
    /// complete with it, and its memory.
    pub(super) fn complete(&mut self) -> Result<Option<(u64, PooledBuffer)>, FabricError> {
        let arrived = self.posted.pop_front();
        let at = self
            .transfers
            .iter()
            .position(|transfer| Some(transfer.id) == arrived);
        let Some(at) = at else {
            return Ok(None);
        };
        let transfer = &mut self.transfers[at];
        transfer.underway -= 1;
        let is_complete = transfer.is_complete();
        let complete = is_complete.then(|| self.transfers.remove(at)).flatten();
        self.post()?;
        Ok(complete.map(|transfer| (transfer.id, transfer.local)))
    }

    /// The transfer of the piece posted first.
    pub(super) fn first_posted(&self) -> Option<u64> {
        self.posted.front().copied()
    }

    fn post(&mut self) -> Result<(), FabricError> {
        while self.posted.len() < DEPTH {
            let is_left = |transfer: &Transfer| !transfer.left.is_empty();
            let Some(at) = self.transfers.iter().position(is_left) else {
                break;
            };
            // To the end of the queue: others get their turn first.
            let Some(mut transfer) = self.transfers.remove(at) else {
                break;
            };
            let posted = self.post_piece(&mut transfer);
            if posted.is_ok() {
                transfer.underway += 1;
                self.posted.push_back(transfer.id);
            }
            self.transfers.push_back(transfer);
            posted?;
        }
        Ok(())
    }

    fn post_piece(&mut self, transfer: &mut Transfer) -> Result<(), FabricError> {
        let Some((at, piece)) = transfer.next_piece() else {
            return Ok(());
        };
        let id = WorkId {
            receive: false,
            owner: self.owner,
            queue_pair: WorkId::BULK,
            retires: 0,
        };
        self.qp.post_send(&SendRequest {
            wr_id: id.to_bits(),
            operation: transfer.operation,
            local: Payload::Region(Sge {
                addr: transfer.local.outside().addr + at as u64,
                length: piece.len as u32,
                lkey: transfer.local.lkey(),
            }),
            remote: RemoteSlice {
                addr: piece.addr,
                rkey: piece.rkey,
            },
            signalled: true,
            solicited: true,
        })
    }

    /// Moves the queue pair to ERR. What is under way never arrives; its memory comes back with the
    /// completions of its pieces.
    pub(super) fn fail(&mut self) {
        if let Err(error) = self.qp.to_error() {
            tracing::warn!(%error, "the queue pair of a closed channel does not go to error");
        }
        self.transfers.retain_mut(|transfer| {
            transfer.left.clear();
            transfer.underway > 0
        });
    }
}

//! The queue pairs of one channel: one, or several over which every message is striped.
//!
//! A message of `L` bytes over `n` lanes is cut into stripes of `ceil(L / n)` bytes. Each lane carries one of
//! them, empty ones too, as a WRITE_WITH_IMM of its own with the same immediate. A message is complete when
//! every lane has brought its stripe.

use std::collections::VecDeque;
use std::sync::Arc;

use super::lend::{RemoteRing, Ring, SlotToken};
use super::send_queue::{SendQueue, Ticket};
use super::work_id::WorkId;
use super::{ConnectError, Profile, QueuePairInfo};
use crate::fabric::{
    CompletionQueue, Device, FabricError, Operation, Payload, QueuePair, QueuePairInit,
    RecvRequest, RemoteSlice, RetryPolicy, SendRequest, Sge,
};

/// Largest stripe that is copied into the work request instead of being fetched from send memory.
const INLINE: u32 = 220;

/// How the queue pairs of a channel are made.
#[derive(Debug, Clone)]
pub(super) struct LanesInit {
    /// Where everything completes.
    pub(super) cq: Arc<dyn CompletionQueue>,
    /// Number of queue pairs.
    pub(super) count: usize,
    /// Messages that may be on their way out.
    pub(super) sends: u32,
    /// Messages that may arrive before we look.
    pub(super) receives: u32,
    /// Names the channel in the completions.
    pub(super) owner: u64,
    /// How long to insist.
    pub(super) retry: RetryPolicy,
    /// Who the peer is.
    pub(super) profile: Profile,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Box<[Lane]>,
    sends: u32,
    receives: u32,
    inline: usize,
    owner: u64,
    /// Whether the peer's ring may turn out to be writable in place.
    may_place: bool,
}

#[derive(Debug)]
struct Lane {
    qp: Box<dyn QueuePair>,
    queue: SendQueue,
    /// Stripes that wait for those of the other lanes. Their receives are posted again only when the message is
    /// complete, so a peer cannot make this longer than the receive queue.
    arrived: VecDeque<u32>,
    /// Receives that were used up and are to be posted again.
    used: u32,
}

/// A message on its way out.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) imm: u32,
    /// The bytes, which stand in registered memory with this key.
    pub(super) bytes: &'a [u8],
    pub(super) lkey: u32,
    pub(super) to: RemoteSlice,
}

impl Lanes {
    /// Creates the queue pairs, with all receives posted.
    pub(super) fn new(device: &dyn Device, init: &LanesInit) -> Result<Self, ConnectError> {
        if !(1..=WorkId::MAX_LANES).contains(&init.count) {
            return Err(ConnectError::BadEndpoint {
                field: "number of queue pairs".into(),
                reason: format!("{} is not 1 to {}", init.count, WorkId::MAX_LANES),
            });
        }
        let inline = INLINE.min(device.limits().max_inline);
        let lane = || {
            let qp = device.create_queue_pair(&QueuePairInit {
                send_cq: init.cq.clone(),
                recv_cq: init.cq.clone(),
                max_send_wr: init.sends,
                max_recv_wr: init.receives,
                max_inline: inline,
                retry: init.retry,
            })?;
            Ok::<_, FabricError>(Lane {
                qp,
                queue: SendQueue::new(init.sends),
                arrived: VecDeque::new(),
                used: init.receives,
            })
        };
        let lanes: Box<[Lane]> = (0..init.count).map(|_| lane()).collect::<Result<_, _>>()?;
        // A DLSlime peer may write into the slot that its next request is made in.
        let is_alone = init.profile == Profile::Native && lanes.len() == 1;
        let mut lanes = Self {
            may_place: is_alone && lanes[0].qp.can_place(),
            lanes,
            sends: init.sends,
            receives: init.receives,
            inline: inline as usize,
            owner: init.owner,
        };
        lanes.prepare()?;
        Ok(lanes)
    }

    /// RESET to INIT, receives posted.
    fn prepare(&mut self) -> Result<(), FabricError> {
        for lane in &mut self.lanes {
            lane.qp.to_init()?;
        }
        self.post_receives()
    }

    /// What the peer must be told.
    pub(super) fn addresses(&self) -> Vec<QueuePairInfo> {
        let addresses = self.lanes.iter().map(|lane| lane.qp.address().into());
        addresses.collect()
    }

    /// Connects each lane to the peer's of the same place.
    pub(super) fn connect(&mut self, theirs: &[QueuePairInfo]) -> Result<(), ConnectError> {
        if theirs.len() != self.lanes.len() {
            return Err(ConnectError::BadEndpoint {
                field: "number of queue pairs".into(),
                reason: format!("it is {}, ours is {}", theirs.len(), self.lanes.len()),
            });
        }
        for (lane, theirs) in self.lanes.iter_mut().zip(theirs) {
            lane.qp.to_rtr(&(*theirs).into())?;
            lane.qp.to_rts()?;
        }
        Ok(())
    }

    /// The same queue pairs as new ones, for a peer that came back: numbers and sequence numbers stay, so what
    /// the peer was told of them stays true. Their completions carry `owner` from now on.
    pub(super) fn reset(&mut self, owner: u64) -> Result<(), FabricError> {
        self.owner = owner;
        for lane in &mut self.lanes {
            lane.qp.to_reset()?;
            lane.queue = SendQueue::new(self.sends);
            lane.arrived.clear();
            lane.used = self.receives;
        }
        self.prepare()
    }

    /// Completions that can be in its queue at once.
    #[inline]
    pub(super) fn entries(&self) -> usize {
        self.lanes.len() * (self.sends + self.receives) as usize
    }

    /// Whether another message can be sent now.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.lanes.iter().all(|lane| lane.queue.has_room())
    }

    /// Has the next message in the slot of `send`, a token of `sends`, be made in `remote` itself, if that can be.
    #[inline]
    pub(super) fn renew(&mut self, sends: &Ring, send: &mut SlotToken, remote: &RemoteRing) {
        if self.may_place {
            self.place(sends, remote);
        }
        sends.renew(send);
    }

    /// Asked again until the fabric can give the peer's ring, which it does once something was sent there.
    #[cold]
    fn place(&mut self, sends: &Ring, remote: &RemoteRing) {
        let peers = self.lanes[0]
            .qp
            .place(remote.slot(0), remote.geometry.len());
        if let Some(peers) = peers {
            self.may_place = false;
            sends.place(peers);
        }
    }

    /// Sends a message if there is room, and says whether there was.
    #[inline]
    pub(super) fn write(&mut self, message: &Outgoing<'_>) -> Result<bool, FabricError> {
        let [lane] = &mut *self.lanes else {
            return self.write_striped(message);
        };
        if lane.qp.write_now(message.imm, message.bytes, message.to) {
            return Ok(true);
        }
        let Some(ticket) = lane.queue.admit() else {
            return Ok(false);
        };
        let id = send_id(self.owner, 0, ticket);
        lane.post_stripe(id, self.inline, message, 0, message.bytes)?;
        Ok(true)
    }

    #[cold]
    fn write_striped(&mut self, message: &Outgoing<'_>) -> Result<bool, FabricError> {
        if !self.has_room() {
            return Ok(false);
        }
        let stripe = message.bytes.len().div_ceil(self.lanes.len().max(1));
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            let Some(ticket) = lane.queue.admit() else {
                continue; // There is room, as has just been seen.
            };
            let begin = (at * stripe).min(message.bytes.len());
            let bytes = &message.bytes[begin..(begin + stripe).min(message.bytes.len())];
            let id = send_id(self.owner, at, ticket);
            lane.post_stripe(id, self.inline, message, begin, bytes)?;
        }
        Ok(true)
    }

    /// Whether everything that was sent has arrived. Sees to it that completions will tell, so ask again after each. An
    /// empty write to `to` is what they are asked for with.
    pub(super) fn flush(&mut self, to: RemoteSlice) -> Result<bool, FabricError> {
        self.write_nothing(to, SendQueue::admit_last)?;
        Ok(self.lanes.iter().all(|lane| lane.queue.is_empty()))
    }

    /// Sees to it that a peer that is gone is noticed, by an empty write to `to`, unless something on its way does that.
    pub(super) fn probe(&mut self, to: RemoteSlice) -> Result<(), FabricError> {
        self.write_nothing(to, SendQueue::admit_probe)
    }

    fn write_nothing(
        &mut self,
        to: RemoteSlice,
        admit: impl Fn(&mut SendQueue) -> Option<Ticket>,
    ) -> Result<(), FabricError> {
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            let Some(ticket) = admit(&mut lane.queue) else {
                continue;
            };
            lane.qp.post_send(&SendRequest {
                wr_id: send_id(self.owner, at, ticket).to_bits(),
                operation: Operation::Write,
                local: Payload::Inline(&[]),
                remote: to,
                signalled: true,
                solicited: true,
            })?;
        }
        Ok(())
    }

    /// Whether a completion belongs to these queue pairs as they are now.
    #[inline]
    pub(super) fn owns(&self, id: WorkId) -> bool {
        id.owner == self.owner
    }

    /// Takes in the completion of a send.
    #[inline]
    pub(super) fn retire(&mut self, id: WorkId) {
        if let Some(lane) = self.lanes.get_mut(id.lane) {
            lane.queue.retire(id.retires);
        }
    }

    /// Takes in what arrived on a lane. Gives back the immediate of a message that is complete with it. Its receives are to be
    /// [posted](Self::post_receives) again.
    #[inline]
    pub(super) fn receive(&mut self, id: WorkId, imm: u32) -> Option<u32> {
        if let [lane] = &mut *self.lanes {
            lane.used += 1;
            return Some(imm);
        }
        self.lanes.get_mut(id.lane)?.arrived.push_back(imm);
        if self.lanes.iter().any(|lane| lane.arrived.is_empty()) {
            return None;
        }
        let mut complete = None;
        for lane in &mut self.lanes {
            lane.used += 1;
            complete = complete.or(lane.arrived.pop_front());
        }
        complete
    }

    /// Posts the receives again that were used up.
    #[inline]
    pub(super) fn post_receives(&mut self) -> Result<(), FabricError> {
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            if lane.used > 0 {
                let id = WorkId {
                    receive: true,
                    owner: self.owner,
                    lane: at,
                    retires: 0,
                };
                let wr_id = id.to_bits();
                let count = std::mem::take(&mut lane.used);
                lane.qp.post_recvs(RecvRequest { wr_id }, count)?;
            }
        }
        Ok(())
    }

    /// To ERR, all of them.
    pub(super) fn fail(&mut self) {
        for lane in &mut self.lanes {
            if let Err(error) = lane.qp.to_error() {
                tracing::warn!(%error, "the queue pair of a closed channel does not go to error");
            }
        }
    }

    /// The same, and gives them up: they are drained by that.
    pub(super) fn end(&mut self) {
        self.fail();
        self.lanes = Box::default();
    }
}

/// Names what a lane sends.
#[inline]
fn send_id(owner: u64, lane: usize, ticket: Ticket) -> WorkId {
    WorkId {
        receive: false,
        owner,
        lane,
        retires: ticket.retires,
    }
}

impl Lane {
    /// Posts the part of `message` that begins at `begin`.
    #[inline]
    fn post_stripe(
        &mut self,
        id: WorkId,
        inline: usize,
        message: &Outgoing<'_>,
        begin: usize,
        bytes: &[u8],
    ) -> Result<(), FabricError> {
        let local = if bytes.len() <= inline {
            Payload::Inline(bytes)
        } else {
            Payload::Region(Sge {
                addr: bytes.as_ptr() as u64,
                length: bytes.len() as u32,
                lkey: message.lkey,
            })
        };
        self.qp.post_send(&SendRequest {
            wr_id: id.to_bits(),
            operation: Operation::WriteWithImm(message.imm),
            local,
            remote: RemoteSlice {
                addr: message.to.addr.wrapping_add(begin as u64),
                rkey: message.to.rkey,
            },
            signalled: id.retires > 0,
            solicited: true,
        })
    }
}

//! The queue pairs of one channel: one, or several over which every message is striped (DLSlime
//! only).
//!
//! A message of `L` bytes over `n` queue pairs is cut into stripes of `ceil(L / n)` bytes. Each
//! queue pair carries one of them, even an empty one, as a WRITE_WITH_IMM with the same immediate.
//! A message is complete when every queue pair has delivered its stripe.

use std::collections::VecDeque;
use std::iter;
use std::sync::Arc;

use super::lend::{RemoteRings, Ring, SlotToken};
use super::send_queue::SendQueue;
use super::work_id::WorkId;
use super::{ConnectError, Profile, QueuePairInfo};
use crate::fabric::{
    Completion, CompletionQueue, Device, FabricError, Operation, Payload, QueuePair, QueuePairInit,
    RecvRequest, RemoteSlice, RetryPolicy, SendRequest, Sge,
};

/// Largest stripe that is copied into the work request instead of being fetched from send memory.
const INLINE: u32 = 220;

/// Parameters of the queue pairs of a channel.
#[derive(Debug, Clone)]
pub(super) struct QueuePairGroupInit {
    /// The completion queue of all of them.
    pub(super) cq: Arc<dyn CompletionQueue>,
    /// Number of queue pairs.
    pub(super) count: usize,
    /// Most messages that may be under way to the peer.
    pub(super) sends: u32,
    /// Most messages that may arrive before they are polled for.
    pub(super) receives: u32,
    /// How many of the receives exceed what a peer can use before this side polls: so many may be
    /// used up before they are posted again.
    pub(super) spare_receives: u32,
    /// Identifies the channel in the completions.
    pub(super) owner: u64,
    /// How long a queue pair retries.
    pub(super) retry: RetryPolicy,
    /// The protocol of the peer.
    pub(super) profile: Profile,
}

/// The queue pairs of one channel.
#[derive(Debug)]
pub(super) struct QueuePairGroup {
    queue_pairs: Box<[Member]>,
    sends: u32,
    receives: u32,
    spare_receives: u32,
    /// Receives of each queue pair that were used up and are to be posted again.
    used: u32,
    inline: usize,
    owner: u64,
    /// Whether the peer's ring can be written in place, and whether it may become so.
    can_place: bool,
    may_place: bool,
}

#[derive(Debug)]
struct Member {
    qp: Box<dyn QueuePair>,
    queue: SendQueue,
    /// Stripes that wait for those of the other queue pairs. Their receives are posted again only
    /// when the message is complete, so a peer cannot make this longer than the receive queue.
    arrived: VecDeque<u32>,
}

/// A message to send.
#[derive(Debug)]
pub(super) struct WriteRequest<'a> {
    pub(super) imm: u32,
    /// The bytes, which stand in registered memory with this key.
    pub(super) bytes: &'a [u8],
    pub(super) lkey: u32,
    pub(super) to: RemoteSlice,
}

impl QueuePairGroup {
    /// Creates the queue pairs, with all receives posted.
    pub(super) fn new(
        device: &dyn Device,
        init: &QueuePairGroupInit,
    ) -> Result<Self, ConnectError> {
        if !(1..=WorkId::MAX_QUEUE_PAIRS).contains(&init.count) {
            return Err(ConnectError::BadEndpoint {
                field: "number of queue pairs".into(),
                reason: format!("{} is not 1 to {}", init.count, WorkId::MAX_QUEUE_PAIRS),
            });
        }
        let inline = INLINE.min(device.limits().max_inline);
        let queue_pair = || {
            let qp = device.create_queue_pair(&QueuePairInit {
                send_cq: init.cq.clone(),
                recv_cq: init.cq.clone(),
                max_send_wr: init.sends,
                max_recv_wr: init.receives,
                max_inline: inline,
                retry: init.retry,
            })?;
            Ok::<_, FabricError>(Member {
                qp,
                queue: SendQueue::new(init.sends),
                arrived: VecDeque::new(),
            })
        };
        let queue_pairs: Box<[Member]> = (0..init.count)
            .map(|_| queue_pair())
            .collect::<Result<_, _>>()?;
        // A DLSlime peer may write into the slot that its next request is made in.
        let is_alone = init.profile == Profile::Native && queue_pairs.len() == 1;
        let can_place = is_alone && queue_pairs[0].qp.can_place();
        let mut queue_pairs = Self {
            can_place,
            may_place: can_place,
            queue_pairs,
            sends: init.sends,
            receives: init.receives,
            spare_receives: init.spare_receives,
            used: init.receives,
            inline: inline as usize,
            owner: init.owner,
        };
        queue_pairs.prepare()?;
        Ok(queue_pairs)
    }

    /// Moves the queue pairs from RESET to INIT and posts their receives.
    fn prepare(&mut self) -> Result<(), FabricError> {
        for queue_pair in &mut self.queue_pairs {
            queue_pair.qp.to_init()?;
        }
        self.post_receives()
    }

    /// The addresses to send to the peer.
    pub(super) fn addresses(&self) -> Vec<QueuePairInfo> {
        let addresses = self
            .queue_pairs
            .iter()
            .map(|queue_pair| queue_pair.qp.address().into());
        addresses.collect()
    }

    /// Says which alias the peer must prove to have, where that can be proved.
    pub(super) fn expect_peer(&mut self, alias: &str) {
        let queue_pairs = self.queue_pairs.iter_mut();
        queue_pairs.for_each(|queue_pair| queue_pair.qp.expect_peer(alias));
    }

    /// Returns whether the peer has been met, where that can be told.
    pub(super) fn have_met_peer(&self) -> Result<bool, FabricError> {
        for queue_pair in &self.queue_pairs {
            if !queue_pair.qp.has_met_peer()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Connects each queue pair to the peer's with the same index.
    pub(super) fn connect(&mut self, theirs: &[QueuePairInfo]) -> Result<(), ConnectError> {
        if theirs.len() != self.queue_pairs.len() {
            return Err(ConnectError::BadEndpoint {
                field: "number of queue pairs".into(),
                reason: format!("it is {}, ours is {}", theirs.len(), self.queue_pairs.len()),
            });
        }
        for (queue_pair, theirs) in self.queue_pairs.iter_mut().zip(theirs) {
            queue_pair.qp.to_rtr(&(*theirs).into())?;
            queue_pair.qp.to_rts()?;
        }
        Ok(())
    }

    /// Resets the queue pairs, for a peer that came back: numbers and sequence numbers stay, so
    /// what the peer was told of them stays true. Their completions carry `owner` from now on.
    pub(super) fn reset(&mut self, owner: u64) -> Result<(), FabricError> {
        self.owner = owner;
        self.used = self.receives;
        for queue_pair in &mut self.queue_pairs {
            queue_pair.qp.to_reset()?;
            queue_pair.queue = SendQueue::new(self.sends);
            queue_pair.arrived.clear();
        }
        self.prepare()
    }

    /// Most completions that can be in its queue at once.
    #[inline]
    pub(super) fn entries(&self) -> usize {
        self.queue_pairs.len() * (self.sends + self.receives) as usize
    }

    /// How many messages can be sent now.
    pub(super) fn room(&self) -> usize {
        let room = self.queue_pairs.iter().map(|it| it.queue.room());
        room.min().unwrap_or_default() as usize
    }

    /// Returns whether another message can be sent now.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.queue_pairs
            .iter()
            .all(|queue_pair| queue_pair.queue.has_room())
    }

    /// Has the next message in the slot of `send`, a token of `sends`, be made in `remote` itself,
    /// if that is possible.
    #[inline]
    pub(super) fn renew(&mut self, sends: &Ring, send: &mut SlotToken, remote: &RemoteRings) {
        if self.may_place {
            self.place(sends, remote);
        }
        sends.renew(send);
    }

    /// Asks the fabric for the peer's rings until it can map them, which it does once something was
    /// sent there.
    #[cold]
    fn place(&mut self, sends: &Ring, remote: &RemoteRings) {
        let qp = &mut self.queue_pairs[0].qp;
        let rings = [(false, Some(remote.first())), (true, remote.grown())];
        self.may_place = false;
        for (is_large, ring) in rings {
            let Some(ring) = ring.filter(|_| !sends.is_placed(is_large)) else {
                continue;
            };
            match qp.place(ring.slot(0), ring.geometry.len()) {
                Some(peers) => sends.place(peers, is_large),
                None => self.may_place = true,
            }
        }
    }

    /// Has messages be made in the peer's ring again where that is possible, now that an end has
    /// grown.
    pub(super) fn place_again(&mut self) {
        self.may_place = self.can_place;
    }

    /// Sends a message if there is room, and returns whether there was.
    #[inline]
    pub(super) fn write(&mut self, message: &WriteRequest<'_>) -> Result<bool, FabricError> {
        if let [queue_pair] = &mut *self.queue_pairs
            && queue_pair.write_now(message)
        {
            return Ok(true);
        }
        if !self.has_room() {
            return Ok(false);
        }
        self.post(std::slice::from_ref(message)).map(|()| true)
    }

    /// Sends messages, for which there must be [room](Self::room), with one doorbell.
    pub(super) fn write_all<'a>(
        &mut self,
        mut messages: impl Iterator<Item = WriteRequest<'a>>,
    ) -> Result<(), FabricError> {
        let first = match &mut *self.queue_pairs {
            [queue_pair] => messages.find(|message| !queue_pair.write_now(message)),
            _ => messages.next(),
        };
        match first {
            Some(first) => self.post(&iter::once(first).chain(messages).collect::<Vec<_>>()),
            None => Ok(()),
        }
    }

    /// Posts messages, a stripe of each on each queue pair.
    #[inline(never)]
    fn post(&mut self, messages: &[WriteRequest<'_>]) -> Result<(), FabricError> {
        let count = self.queue_pairs.len();
        let (owner, inline) = (self.owner, self.inline);
        for (at, Member { qp, queue, .. }) in self.queue_pairs.iter_mut().enumerate() {
            let mut stripe = |message| {
                let retires = queue.admit().unwrap_or_default(); // There is room.
                message_stripe(message, (at, count), send_id(owner, at, retires), inline)
            };
            match messages {
                [message] => qp.post_send(&stripe(message))?,
                _ => qp.post_sends(&messages.iter().map(stripe).collect::<Vec<_>>())?,
            }
        }
        Ok(())
    }

    /// Returns whether everything that was sent has arrived. If not, a completion will show it, so
    /// call this again after each; an empty write to `to` requests one.
    pub(super) fn flush(&mut self, to: RemoteSlice) -> Result<bool, FabricError> {
        self.write_nothing(to, SendQueue::admit_last)?;
        Ok(self
            .queue_pairs
            .iter()
            .all(|queue_pair| queue_pair.queue.is_empty()))
    }

    /// Makes sure that it is noticed if the queue pairs of the peer are gone: by an empty write to
    /// `to`, unless something under way does that, or the device itself.
    pub(super) fn probe(&mut self, to: RemoteSlice) -> Result<(), FabricError> {
        if self.queue_pairs.iter().all(|it| it.qp.notices_end()) {
            return Ok(());
        }
        self.write_nothing(to, SendQueue::admit_probe)
    }

    fn write_nothing(
        &mut self,
        to: RemoteSlice,
        admit: impl Fn(&mut SendQueue) -> Option<u32>,
    ) -> Result<(), FabricError> {
        for (at, queue_pair) in self.queue_pairs.iter_mut().enumerate() {
            let Some(retires) = admit(&mut queue_pair.queue) else {
                continue;
            };
            queue_pair.qp.post_send(&SendRequest {
                wr_id: send_id(self.owner, at, retires).to_bits(),
                operation: Operation::Write,
                local: Payload::Inline(&[]),
                remote: to,
                signalled: true,
                solicited: true,
            })?;
        }
        Ok(())
    }

    /// Returns whether a completion belongs to these queue pairs since their last reset.
    #[inline]
    pub(super) fn owns(&self, id: WorkId) -> bool {
        id.owner == self.owner
    }

    /// Handles the completion of a send.
    #[inline]
    pub(super) fn retire(&mut self, id: WorkId) {
        if let Some(queue_pair) = self.queue_pairs.get_mut(id.queue_pair) {
            queue_pair.queue.retire(id.retires);
        }
    }

    /// Handles a message that has arrived on the only queue pair, and returns its immediate; `None`
    /// for any other completion.
    #[inline]
    pub(super) fn receive_alone(&mut self, completion: &Completion) -> Option<u32> {
        let is_message =
            completion.status.is_success() && completion.wr_id == receive_id(self.owner, 0);
        if !is_message || self.queue_pairs.len() != 1 {
            return None;
        }
        self.used += 1;
        Some(completion.imm.unwrap_or_default())
    }

    /// Handles the arrival on a queue pair. Returns the immediate of a message that is complete
    /// with it. Its receives are to be [posted](Self::post_receives) again.
    #[inline]
    pub(super) fn receive(&mut self, id: WorkId, imm: u32) -> Option<u32> {
        if self.queue_pairs.len() == 1 {
            self.used += 1;
            return Some(imm);
        }
        self.queue_pairs
            .get_mut(id.queue_pair)?
            .arrived
            .push_back(imm);
        if self
            .queue_pairs
            .iter()
            .any(|queue_pair| queue_pair.arrived.is_empty())
        {
            return None;
        }
        self.used += 1;
        let arrived = |queue_pair: &mut Member| queue_pair.arrived.pop_front();
        self.queue_pairs
            .iter_mut()
            .filter_map(arrived)
            .reduce(|first, _| first)
    }

    /// Posts the receives again that were used up, once they are more than can be spared.
    #[inline]
    pub(super) fn post_receives(&mut self) -> Result<(), FabricError> {
        match self.used > self.spare_receives {
            true => self.post_used(),
            false => Ok(()),
        }
    }

    #[inline(never)]
    fn post_used(&mut self) -> Result<(), FabricError> {
        let count = std::mem::take(&mut self.used);
        for (at, queue_pair) in self.queue_pairs.iter_mut().enumerate() {
            let wr_id = receive_id(self.owner, at);
            queue_pair.qp.post_recvs(RecvRequest { wr_id }, count)?;
        }
        Ok(())
    }

    /// Moves all queue pairs to ERR.
    pub(super) fn fail(&mut self) {
        for queue_pair in &mut self.queue_pairs {
            if let Err(error) = queue_pair.qp.to_error() {
                tracing::warn!(%error, "the queue pair of a closed channel does not go to error");
            }
        }
    }

    /// Moves all queue pairs to ERR and drops them, which drains them. What is sent from then on
    /// goes nowhere, and nothing arrives.
    pub(super) fn end(&mut self) {
        self.fail();
        self.queue_pairs = Box::default();
    }
}

/// The `wr_id` of the receives of a queue pair.
#[inline]
fn receive_id(owner: u64, queue_pair: usize) -> u64 {
    let id = WorkId {
        receive: true,
        owner,
        queue_pair,
        retires: 0,
    };
    id.to_bits()
}

/// The `wr_id` of what a queue pair sends.
#[inline]
fn send_id(owner: u64, queue_pair: usize, retires: u32) -> WorkId {
    WorkId {
        receive: false,
        owner,
        queue_pair,
        retires,
    }
}

impl Member {
    #[inline]
    fn write_now(&mut self, message: &WriteRequest<'_>) -> bool {
        self.qp.write_now(message.imm, message.bytes, message.to)
    }
}

/// The stripe of `message` for a queue pair, which is the first of the two numbers of so many.
#[inline]
fn message_stripe<'a>(
    message: &WriteRequest<'a>,
    (at, count): (usize, usize),
    id: WorkId,
    inline: usize,
) -> SendRequest<'a> {
    let (bytes, len) = (message.bytes, message.bytes.len().div_ceil(count));
    let begin = (at * len).min(bytes.len());
    let bytes = &bytes[begin..(begin + len).min(bytes.len())];
    let local = if bytes.len() <= inline {
        Payload::Inline(bytes)
    } else {
        Payload::Region(Sge {
            addr: bytes.as_ptr() as u64,
            length: bytes.len() as u32,
            lkey: message.lkey,
        })
    };
    SendRequest {
        wr_id: id.to_bits(),
        operation: Operation::WriteWithImm(message.imm),
        local,
        remote: RemoteSlice {
            addr: message.to.addr.wrapping_add(begin as u64),
            rkey: message.to.rkey,
        },
        signalled: id.retires > 0,
        solicited: true,
    }
}

//! The mailbox of a service: one completion queue over the request rings of all its callers.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::bulk::Bulk;
use super::inbound::{Inbound, RequestId};
use super::lend::{RemoteRing, Ring, SlotToken};
use super::peer_channel::PeerChannel;
use super::queue_pair_group::{QueuePairGroup, QueuePairGroupInit};
use super::work_id::WorkId;
use super::{
    BufferPool, ConnectError, Endpoint, Geometries, Geometry, LossCause, Profile, QueuePairInfo,
    RingAddress, ServiceInfo, Violations,
};
use crate::fabric::{
    Completion, CompletionEvents, CompletionQueue, FabricError, Poller, RetryPolicy,
};

const BATCH: usize = 16;
/// Sends for each slot: its answer, and as many again, so that signalling every half queue is enough.
const SENDS: u32 = 2;
/// Receives for each slot. We may not have looked at a cancel, the release of an answer, the next request in the slot and
/// its cancel; what comes after those is sent only when that request was answered, and so everything before it seen.
const RECEIVES: u32 = 4;
/// Callers that the completion queue is sized for, as far as the device allows.
const CALLERS: u32 = 1024;

/// Where the requests of all callers of one service instance arrive. Lives on one thread; the requests may be answered
/// on others.
#[derive(Debug)]
pub struct Mailbox {
    memory: Arc<BufferPool>,
    cq: Arc<dyn CompletionQueue>,
    poller: Box<dyn Poller>,
    geometries: Geometries,
    retry: RetryPolicy,
    service: Arc<ServiceInfo>,
    places: Vec<CallerEntry>,
    /// DLSlime callers whose rings are not known yet.
    arriving: Vec<Arriving>,
    /// Entries of the completion queue that are still to be given to callers.
    entries_left: u32,
    /// Where completions are polled into.
    batch: Box<[Completion]>,
}

/// A place for a caller. The generation tells the completions of its earlier occupants apart.
#[derive(Debug, Default)]
struct CallerEntry {
    generation: u32,
    channel: Option<Arc<PeerChannel>>,
    /// Completion queue entries that it has been given.
    entries: u32,
}

/// A DLSlime caller with queue pairs only.
#[derive(Debug)]
struct Arriving {
    peer: String,
    queue_pairs: QueuePairGroup,
    key: Key,
    is_reached: bool,
}

/// What a mailbox delivers.
#[derive(Debug)]
pub enum Delivery {
    /// A request.
    Request(Inbound),
    /// The caller of this request no longer wants its answer.
    Cancel(RequestId),
    /// A caller is gone; its requests may still be handled, their answers go nowhere.
    Lost {
        /// Its alias.
        peer: String,
        /// Why.
        cause: LossCause,
    },
}

impl Mailbox {
    /// A mailbox without callers. Payloads beyond a slot go to `memory`.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(
        memory: Arc<BufferPool>,
        geometries: Geometries,
        retry: RetryPolicy,
        service: ServiceInfo,
    ) -> Result<Self, ConnectError> {
        let wanted = CALLERS.saturating_mul(entries(geometries.native));
        let depth = wanted.min(memory.device().limits().max_cqe);
        let (cq, poller) = memory.device().create_completion_queue(depth)?;
        Ok(Self {
            memory,
            cq,
            poller,
            geometries,
            retry,
            service: Arc::new(service),
            places: Vec::new(),
            arriving: Vec::new(),
            entries_left: depth,
            batch: Box::new([Completion::EMPTY; BATCH]),
        })
    }

    /// Makes room for a caller and connects to its end. `life` tells its lives under one alias apart. What is given back
    /// must be told to it; only then may it write.
    ///
    /// # Errors
    /// The caller's endpoint is not acceptable, the completion queue is given away, or the device refuses.
    pub fn accept(
        &mut self,
        peer: &str,
        life: u64,
        theirs: &Endpoint,
    ) -> Result<Endpoint, ConnectError> {
        let remote = theirs.remote_ring(self.geometries.native)?;
        let geometry = self.geometries.native;
        let (key, mut queue_pairs) = self.queue_pairs(1, Profile::Native)?;
        let connected = queue_pairs.connect(&[theirs.qp]).and_then(|()| {
            let device = self.memory.device();
            let mut bulk = Bulk::new(&**device, &self.cq, key.to_owner(), self.retry)?;
            bulk.connect(theirs.bulk)?;
            Ok((bulk, self.rings(geometry)?))
        });
        match connected {
            Ok((bulk, rings)) => {
                let (qp, bulk_qp) = (queue_pairs.addresses()[0], bulk.address());
                let bulk = Some((bulk, self.memory.clone()));
                let profile = Profile::Native;
                let who = (peer, Some(life));
                let channel = self.occupy(key, who, queue_pairs, bulk, rings, remote, profile);
                Ok(channel.endpoint(qp, bulk_qp))
            }
            Err(error) => {
                drop(queue_pairs);
                self.vacate(key);
                Err(error)
            }
        }
    }

    /// The queue pairs for a DLSlime caller, made if there are none yet. It must be told them.
    ///
    /// # Errors
    /// Their number is not possible, the completion queue is given away, or the device refuses.
    pub fn prepare(
        &mut self,
        peer: &str,
        queue_pairs: usize,
    ) -> Result<Vec<QueuePairInfo>, ConnectError> {
        let found = self.arriving.iter().find(|arriving| arriving.peer == peer);
        if let Some(arriving) = found {
            return Ok(arriving.queue_pairs.addresses());
        }
        let (key, queue_pairs) = match self.take_over(peer)? {
            Some(taken) => taken,
            None => self.queue_pairs(queue_pairs, Profile::Compatible)?,
        };
        let addresses = queue_pairs.addresses();
        self.arriving.push(Arriving {
            peer: peer.to_owned(),
            queue_pairs,
            key,
            is_reached: false,
        });
        Ok(addresses)
    }

    /// Connects the queue pairs [prepared](Self::prepare) for `peer` to its own, anew if they were connected to
    /// those of an earlier life of it.
    ///
    /// # Errors
    /// The peer's queue pairs are not acceptable, or the device refuses. They can be tried again.
    pub fn reach(&mut self, peer: &str, theirs: &[QueuePairInfo]) -> Result<(), ConnectError> {
        let at = self
            .arriving
            .iter()
            .position(|arriving| arriving.peer == peer);
        let Some(at) = at else {
            return Err(not_prepared(peer));
        };
        let arriving = &self.arriving[at];
        if arriving.is_reached {
            let key = arriving.key;
            let place = &mut self.places[key.at];
            place.generation = (place.generation + 1) & GENERATION;
            let key = Key {
                generation: place.generation,
                ..key
            };
            let arriving = &mut self.arriving[at];
            arriving.key = key;
            arriving.queue_pairs.reset(key.to_owner())?;
        }
        let arriving = &mut self.arriving[at];
        arriving.is_reached = true;
        arriving.queue_pairs.connect(theirs)
    }

    /// Makes a channel of the queue pairs [reached](Self::reach), now that the mailbox of `peer` is known to be
    /// `ring`. What is given back must be told to it; only then may it write.
    ///
    /// # Errors
    /// The mailbox does not fit our geometry, or the device refuses.
    pub fn admit(&mut self, peer: &str, ring: &RingAddress) -> Result<RingAddress, ConnectError> {
        let geometry = self.geometries.compatible;
        let remote = ring.compatible_ring(geometry)?;
        if remote.geometry.slots() > geometry.slots() {
            return Err(ConnectError::BadEndpoint {
                field: "mailbox length".into(),
                reason: format!(
                    "{} bytes are {} slots, and a caller may not have more than ours, {}; raise max_inflight here",
                    ring.length,
                    remote.geometry.slots(),
                    geometry.slots()
                ),
            });
        }
        let at = self
            .arriving
            .iter()
            .position(|arriving| arriving.peer == peer && arriving.is_reached);
        let Some(at) = at else {
            return Err(not_prepared(peer));
        };
        let rings = self.rings(geometry)?;
        let Arriving {
            queue_pairs, key, ..
        } = self.arriving.swap_remove(at);
        let profile = Profile::Compatible;
        let channel = self.occupy(key, (peer, None), queue_pairs, None, rings, remote, profile);
        Ok(channel.ring())
    }

    /// New queue pairs in a new place.
    fn queue_pairs(
        &mut self,
        count: usize,
        profile: Profile,
    ) -> Result<(Key, QueuePairGroup), ConnectError> {
        let geometry = self.geometries.of(profile);
        let slots = geometry.slots() as u32;
        let taken = entries(geometry).saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        let Some(left) = self.entries_left.checked_sub(taken) else {
            return Err(ConnectError::Fabric(FabricError::Limit {
                what: "the completion queue entries that one more caller needs",
                given: taken.into(),
                allowed: format!("{} more", self.entries_left),
                device: self.memory.device().name().to_owned(),
            }));
        };
        let key = self.free_place();
        let queue_pairs = QueuePairGroup::new(
            &**self.memory.device(),
            &QueuePairGroupInit {
                cq: self.cq.clone(),
                count,
                sends: SENDS * slots,
                receives: RECEIVES * slots,
                owner: key.to_owner(),
                retry: self.retry,
                profile,
            },
        )?;
        self.entries_left = left;
        self.places[key.at].entries = taken;
        Ok((key, queue_pairs))
    }

    /// The queue pairs of the channel of `peer`, which ends, and its place.
    fn take_over(&mut self, peer: &str) -> Result<Option<(Key, QueuePairGroup)>, ConnectError> {
        for (at, place) in self.places.iter_mut().enumerate() {
            let Some(channel) = place.channel.take_if(|channel| channel.is_compatible(peer)) else {
                continue;
            };
            place.generation = (place.generation + 1) & GENERATION;
            let key = Key {
                at,
                generation: place.generation,
            };
            let Some(mut queue_pairs) = channel.take_lanes() else {
                continue;
            };
            queue_pairs.reset(key.to_owner())?;
            return Ok(Some((key, queue_pairs)));
        }
        Ok(None)
    }

    fn rings(&self, geometry: Geometry) -> Result<[(Ring, Vec<SlotToken>); 2], ConnectError> {
        let device = &**self.memory.device();
        Ok([
            Ring::receive(device, geometry)?,
            Ring::send(device, geometry)?,
        ])
    }

    #[allow(clippy::too_many_arguments)]
    fn occupy(
        &mut self,
        key: Key,
        who: (&str, Option<u64>),
        queue_pairs: QueuePairGroup,
        bulk: Option<(Bulk, Arc<BufferPool>)>,
        rings: [(Ring, Vec<SlotToken>); 2],
        remote: RemoteRing,
        profile: Profile,
    ) -> Arc<PeerChannel> {
        let geometry = self.geometries.of(profile);
        let service = self.service.clone();
        let channel = PeerChannel::new(
            who,
            service,
            queue_pairs,
            bulk,
            rings,
            geometry,
            remote,
            profile,
        );
        let channel = Arc::new(channel);
        self.places[key.at].channel = Some(channel.clone());
        channel
    }

    /// Frees a place that nobody occupies.
    fn vacate(&mut self, key: Key) {
        let place = &mut self.places[key.at];
        place.generation = (place.generation + 1) & GENERATION;
        self.entries_left += std::mem::take(&mut place.entries);
    }

    /// Appends what has arrived to `deliveries`. Says whether anything had.
    ///
    /// # Errors
    /// The completion queue has failed; the mailbox is of no use any more.
    pub fn poll(&mut self, deliveries: &mut VecDeque<Delivery>) -> Result<bool, FabricError> {
        let count = self.poller.poll(&mut self.batch)?;
        let batch = std::mem::take(&mut self.batch);
        // What has arrived on one queue pair is taken in together.
        let is_like = |one: &Completion, next: &Completion| {
            one.wr_id == next.wr_id && one.status == next.status
        };
        for run in batch[..count].chunk_by(is_like) {
            self.complete(run, deliveries);
        }
        self.batch = batch;
        Ok(count > 0)
    }

    /// Whether [`poll`](Self::poll) would find nothing, by a look that is cheaper than that one.
    pub fn is_quiet(&self) -> bool {
        self.poller.is_quiet()
    }

    /// Takes in completions that differ in their immediates at most.
    fn complete(&mut self, run: &[Completion], deliveries: &mut VecDeque<Delivery>) {
        let Some(&Completion { wr_id, status, .. }) = run.first() else {
            return;
        };
        let id = WorkId::from_bits(wr_id);
        let Some(channel) = occupant(&self.places, id) else {
            return;
        };
        let completed = if !status.is_success() {
            Err(status.into())
        } else if id.receive {
            channel.receive(id, run, deliveries)
        } else {
            run.iter()
                .try_for_each(|_| channel.complete(id, deliveries))
        };
        if let Err(cause) = completed {
            self.lose(id, cause, deliveries);
        }
    }

    /// Whether all answers have arrived at their callers, or never will. If not, ask again after each [`poll`](Self::poll):
    /// those that are given later are looked after too.
    pub fn flush(&self) -> bool {
        let mut flushed = true;
        for channel in self.channels() {
            flushed &= channel.flush();
        }
        flushed
    }

    /// Whether every request of a connected caller is answered.
    pub fn is_idle(&self) -> bool {
        self.channels().all(|channel| channel.is_idle())
    }

    /// Closes the channels of `peer`, or of one life of it: it has left, or come back as another.
    pub fn dismiss(&mut self, peer: &str, life: Option<u64>, cause: &LossCause) {
        let is_arriving = |arriving: &Arriving| life.is_none() && arriving.peer == peer;
        while let Some(at) = self.arriving.iter().position(is_arriving) {
            let arriving = self.arriving.swap_remove(at);
            drop(arriving.queue_pairs);
            self.vacate(arriving.key);
        }
        for at in 0..self.places.len() {
            let place = &self.places[at];
            let is_of = |channel: &Arc<PeerChannel>| {
                channel.peer == peer && (life.is_none() || channel.life == life)
            };
            if place.channel.as_ref().is_some_and(is_of) {
                let generation = place.generation;
                self.close(Key { at, generation }, cause);
            }
        }
    }

    /// Sends something empty to the DLSlime callers that were not sent anything lately, so that one that is gone is
    /// noticed.
    pub fn probe(&self) {
        let compatible = |channel: &&Arc<PeerChannel>| channel.profile == Profile::Compatible;
        for channel in self.channels().filter(compatible) {
            channel.probe();
        }
    }

    /// Asks for an event at the next arrival. Poll once more before waiting for it.
    ///
    /// # Errors
    /// The device refuses.
    pub fn arm(&self) -> Result<(), FabricError> {
        self.cq.arm()
    }

    /// The events of the mailbox, for the current runtime.
    ///
    /// # Errors
    /// As [`CompletionEvents::new`].
    pub fn events(&self) -> io::Result<CompletionEvents> {
        CompletionEvents::new(self.cq.clone())
    }

    /// Number of connected callers.
    pub fn callers(&self) -> usize {
        self.channels().count()
    }

    /// What connected callers did that they should not have done: alias and counts.
    pub fn violations(&self) -> Vec<(String, Violations)> {
        self.channels()
            .map(|channel| (channel.peer.clone(), channel.violations()))
            .collect()
    }

    fn channels(&self) -> impl Iterator<Item = &Arc<PeerChannel>> {
        self.places
            .iter()
            .filter_map(|place| place.channel.as_ref())
    }

    fn lose(&mut self, id: WorkId, cause: LossCause, deliveries: &mut VecDeque<Delivery>) {
        if let Some(channel) = self.close(Key::of(id.owner), &cause) {
            let peer = channel.peer.clone();
            deliveries.push_back(Delivery::Lost { peer, cause });
        }
    }

    /// Closes a channel, whose place is free then.
    fn close(&mut self, key: Key, cause: &LossCause) -> Option<Arc<PeerChannel>> {
        let channel = self.places[key.at].channel.take()?;
        self.vacate(key);
        channel.close(cause.clone());
        Some(channel)
    }

    fn free_place(&mut self) -> Key {
        let is_free = |place: &CallerEntry| place.channel.is_none() && place.entries == 0;
        let free = self.places.iter().position(is_free);
        let at = free.unwrap_or_else(|| {
            self.places.push(CallerEntry::default());
            self.places.len() - 1
        });
        Key {
            at,
            generation: self.places[at].generation,
        }
    }
}

impl Drop for Mailbox {
    /// Closes every channel: callers learn at once that nobody answers any more.
    fn drop(&mut self) {
        for channel in self.channels() {
            channel.close(LossCause::ShutDown);
        }
    }
}

/// The channel that a work request is of.
#[inline]
fn occupant(places: &[CallerEntry], id: WorkId) -> Option<&Arc<PeerChannel>> {
    let key = Key::of(id.owner);
    let place = places.get(key.at)?;
    place
        .channel
        .as_ref()
        .filter(|_| place.generation == key.generation)
}

/// Completion queue entries of one caller: its receives, our sends, and what we read of it.
fn entries(geometry: Geometry) -> u32 {
    (SENDS + RECEIVES) * geometry.slots() as u32 + Bulk::ENTRIES
}

fn not_prepared(peer: &str) -> ConnectError {
    ConnectError::BadEndpoint {
        field: "alias".into(),
        reason: format!("no queue pairs have been prepared for `{peer}`"),
    }
}

/// A place and its generation: the owner of a work request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    at: usize,
    generation: u32,
}

const PLACE_BITS: u32 = 16;
const GENERATION: u32 = (1 << (WorkId::OWNER_BITS - PLACE_BITS)) - 1;

impl Key {
    fn of(owner: u64) -> Self {
        Self {
            at: owner as usize & ((1 << PLACE_BITS) - 1),
            generation: (owner >> PLACE_BITS) as u32,
        }
    }

    fn to_owner(self) -> u64 {
        u64::from(self.generation) << PLACE_BITS | self.at as u64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use super::*;
    use crate::channel::loopback::{DRIVER, LONG, Loopback};
    use crate::fabric::{CompletionStatus, Opcode};
    use crate::wire::EncodeError;

    #[test]
    fn fence_1_the_end_of_an_earlier_life_closes_no_channel_of_the_new_one() {
        let mut ends = Loopback::new(2);
        let second = ends.dial(2);
        ends.mailbox.dismiss(DRIVER, Some(1), &LossCause::Gone);
        assert_eq!(ends.mailbox.callers(), 1);
        ends.serve(&second);
        // Nor does that of another caller.
        ends.mailbox.dismiss("another", None, &LossCause::Left);
        ends.mailbox.dismiss("another", Some(2), &LossCause::Left);
        ends.serve(&second);
        ends.mailbox.dismiss(DRIVER, Some(2), &LossCause::Gone);
        assert_eq!(ends.mailbox.callers(), 0);
    }

    #[test]
    fn fence_1_completions_of_an_earlier_caller_in_a_place_do_nothing() {
        let mut ends = Loopback::new(2);
        ends.mailbox.dismiss(DRIVER, Some(1), &LossCause::Gone);
        let second = ends.dial(2);
        assert_eq!(ends.mailbox.places.len(), 1, "the place is used again");
        let completion = |generation, queue_pair, status| {
            let id = WorkId {
                receive: queue_pair == 0,
                owner: Key { at: 0, generation }.to_owner(),
                queue_pair,
                retires: 0,
            };
            Completion {
                wr_id: id.to_bits(),
                status,
                opcode: Opcode::RecvWriteWithImm,
                imm: Some(0),
                ..Completion::EMPTY
            }
        };
        let mut deliveries = VecDeque::new();
        for queue_pair in [0, WorkId::BULK] {
            for status in [CompletionStatus::Success, CompletionStatus::Flushed] {
                let early = completion(0, queue_pair, status);
                ends.mailbox.complete(&[early], &mut deliveries);
                assert!(deliveries.is_empty(), "{deliveries:?}");
                let [(_, violations)] = &ends.mailbox.violations()[..] else {
                    panic!("the caller of now is gone")
                };
                assert_eq!(violations.total(), 0);
            }
        }
        ends.serve(&second);
        // Those of now count.
        let generation = ends.mailbox.places[0].generation;
        let lost = completion(generation, 0, CompletionStatus::Flushed);
        ends.mailbox.complete(&[lost], &mut deliveries);
        assert!(matches!(
            deliveries.pop_front(),
            Some(Delivery::Lost { .. })
        ));
    }

    #[test]
    fn a_request_that_is_cancelled_before_its_payload_is_read_is_not_delivered() {
        let mut ends = Loopback::new(2);
        let encode = |room: &mut [u8]| match room.get(..4096) {
            Some(_) => Ok(4096),
            None => Err(EncodeError::TooLarge {
                size: 4096,
                limit: room.len(),
            }),
        };
        // Both have arrived before the mailbox looks.
        drop(ends.channel.call(0, None, encode).unwrap());
        let channel = ends.channel.clone();
        ends.serve(&channel);
        let until = Instant::now() + LONG;
        while channel.credits().free < 2 {
            assert!(Instant::now() < until, "SLOT-2: it is answered");
            ends.poll_in_vain();
        }
    }

    #[test]
    fn a_key_survives_its_owner_number() {
        for (at, generation) in [(0, 0), (1, 2), ((1 << PLACE_BITS) - 1, GENERATION)] {
            let key = Key { at, generation };
            assert_eq!(Key::of(key.to_owner()), key);
            assert!(key.to_owner() < 1 << WorkId::OWNER_BITS);
        }
    }
}

//! The mailbox of a service: one completion queue over the request rings of all its callers.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::bulk::Bulk;
use super::callers::{Callers, Key};
use super::dlslime::Arriving;
use super::geometry::RingShape;
use super::inbound::{Inbound, RequestId};
use super::lend::{RemoteRing, Ring, SlotToken};
use super::peer_channel::PeerChannel;
use super::queue_pair_group::{QueuePairGroup, QueuePairGroupInit};
use super::{
    BufferPool, ConnectError, Endpoint, Geometries, Geometry, LossCause, Profile, ServiceInfo,
    Violations,
};
use crate::fabric::{
    Completion, CompletionEvents, CompletionQueue, FabricError, Poller, RetryPolicy,
};

const BATCH: usize = 16;
/// Sends for each slot: its answer, and as many again, so that signalling every half queue is
/// enough.
const SENDS: u32 = 2;
/// Receives for each slot. A cancel, the release of an answer, the next request in the slot and its
/// cancel may wait to be polled; what comes after those is sent only when that request was
/// answered, and so everything before it polled.
const RECEIVES: u32 = 4;
/// Slots per spare receive: so many receives may be used up for a while before they are posted
/// again.
const SLOTS_OF_SPARE: u32 = 2;
/// Number of callers that the completion queue is sized for, as far as the device allows.
const CALLERS: u32 = 1024;

/// Receives the requests of all callers of one service instance. It lives on one thread; the
/// requests may be answered on others.
#[derive(Debug)]
pub struct Mailbox {
    pub(super) memory: Arc<BufferPool>,
    cq: Arc<dyn CompletionQueue>,
    poller: Box<dyn Poller>,
    pub(super) geometries: Geometries,
    retry: RetryPolicy,
    service: Arc<ServiceInfo>,
    pub(super) callers: Callers,
    /// DLSlime callers whose rings are not known yet.
    pub(super) arriving: Vec<Arriving>,
    /// Completions are polled into this.
    batch: Box<[Completion]>,
}

/// An event that a mailbox delivers.
#[derive(Debug)]
pub enum Delivery {
    /// A request.
    Request(Inbound),
    /// The caller of this request no longer wants its answer.
    Cancel(RequestId),
    /// A caller is gone. Its requests may still be handled; their answers are discarded.
    Lost {
        /// Alias of the caller.
        peer: String,
        /// Why the caller is gone.
        cause: LossCause,
    },
}

impl Mailbox {
    /// Makes a mailbox without callers. Payloads beyond a slot go to `memory`.
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
            callers: Callers::new(depth),
            arriving: Vec::new(),
            batch: Box::new([Completion::EMPTY; BATCH]),
        })
    }

    /// Makes room for a caller and connects to its end. `life` is the caller's incarnation. The
    /// returned endpoint must be sent to the caller, which may write only then.
    ///
    /// # Errors
    /// The caller's endpoint is not acceptable, the completion queue is full, or the device
    /// refuses.
    pub fn accept(
        &mut self,
        peer: &str,
        life: u64,
        theirs: &Endpoint,
    ) -> Result<Endpoint, ConnectError> {
        let remote = theirs.remote_ring(self.geometries.native)?;
        let geometry = self.geometries.native;
        let (key, mut queue_pairs) = self.queue_pairs(1, Profile::Native)?;
        queue_pairs.expect_peer(peer);
        let connected = queue_pairs.connect(&[theirs.qp]).and_then(|()| {
            let device = self.memory.device();
            let mut bulk = Bulk::new(&**device, &self.cq, key.to_owner(), self.retry)?;
            bulk.expect_peer(peer);
            bulk.connect(theirs.bulk)?;
            Ok((bulk, self.rings(geometry, Profile::Native)?))
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
                self.callers.vacate(key);
                Err(error)
            }
        }
    }

    /// Makes queue pairs in a new place.
    pub(super) fn queue_pairs(
        &mut self,
        count: usize,
        profile: Profile,
    ) -> Result<(Key, QueuePairGroup), ConnectError> {
        let geometry = self.geometries.of(profile);
        let slots = geometry.slots() as u32;
        let taken = entries(geometry).saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        let left = self.callers.completions_left;
        if taken > left {
            return Err(ConnectError::Fabric(FabricError::Limit {
                what: "the completion queue entries that one more caller needs",
                given: taken.into(),
                allowed: format!("{left} more"),
                device: self.memory.device().name().to_owned(),
            }));
        }
        let key = self.callers.free();
        let queue_pairs = QueuePairGroup::new(
            &**self.memory.device(),
            &QueuePairGroupInit {
                cq: self.cq.clone(),
                count,
                sends: SENDS * slots,
                receives: receives(slots),
                spare_receives: slots / SLOTS_OF_SPARE,
                owner: key.to_owner(),
                retry: self.retry,
                profile,
            },
        )?;
        self.callers.reserve(key, taken);
        Ok((key, queue_pairs))
    }

    pub(super) fn rings(
        &self,
        geometry: Geometry,
        profile: Profile,
    ) -> Result<[(Ring, Vec<SlotToken>); 2], ConnectError> {
        let device = &**self.memory.device();
        let shape = RingShape::of(geometry, profile);
        Ok([Ring::receive(device, shape)?, Ring::send(device, shape)?])
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn occupy(
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
        self.callers.occupy(key, channel.clone());
        channel
    }

    /// Appends what has arrived to `deliveries`. Returns whether anything had.
    ///
    /// # Errors
    /// The completion queue has failed; the mailbox is useless.
    pub fn poll(&mut self, deliveries: &mut VecDeque<Delivery>) -> Result<bool, FabricError> {
        let count = self.poller.poll(&mut self.batch)?;
        if count == 0 {
            return Ok(false);
        }
        // Consecutive arrivals on one queue pair are handled together.
        let is_like = |one: &Completion, next: &Completion| {
            one.wr_id == next.wr_id && one.status == next.status
        };
        for run in self.batch[..count].chunk_by(is_like) {
            self.callers.complete(run, deliveries);
        }
        Ok(true)
    }

    /// Returns whether [`poll`](Self::poll) would find nothing, by a check that is cheaper than
    /// `poll`.
    pub fn is_quiet(&self) -> bool {
        self.poller.is_quiet()
    }

    /// Returns whether all answers have arrived at their callers, or never will. If not, ask again
    /// after each [`poll`](Self::poll); later answers count, too.
    pub fn flush(&self) -> bool {
        let mut flushed = true;
        for channel in self.callers.channels() {
            flushed &= channel.flush();
        }
        flushed
    }

    /// Returns whether every request of a connected caller is answered.
    pub fn is_idle(&self) -> bool {
        self.callers.channels().all(|channel| channel.is_idle())
    }

    /// Closes the channels of `peer`, or of one incarnation of it: it has left, or come back as
    /// another.
    pub fn dismiss(&mut self, peer: &str, life: Option<u64>, cause: &LossCause) {
        let is_arriving = |arriving: &Arriving| life.is_none() && arriving.peer == peer;
        while let Some(at) = self.arriving.iter().position(is_arriving) {
            let arriving = self.arriving.swap_remove(at);
            drop(arriving.queue_pairs);
            self.callers.vacate(arriving.key);
        }
        let is_of = |channel: &PeerChannel| {
            channel.peer == peer && (life.is_none() || channel.life == life)
        };
        for key in self.callers.find(is_of) {
            self.callers.close(key, cause);
        }
    }

    /// Requests an event at the next arrival. Poll once more before waiting for it.
    ///
    /// # Errors
    /// The device refuses.
    pub fn arm(&self) -> Result<(), FabricError> {
        self.cq.arm()
    }

    /// The events of the mailbox, for the current runtime.
    ///
    /// # Errors
    /// The errors of [`CompletionEvents::new`].
    pub fn events(&self) -> io::Result<CompletionEvents> {
        CompletionEvents::new(self.cq.clone())
    }

    /// Makes sure that later polls notice which callers are gone: a dropped proxy says nothing, and
    /// not every device does.
    pub fn probe(&self) {
        self.callers.channels().for_each(|channel| channel.probe());
    }

    /// Number of connected callers.
    pub fn callers(&self) -> usize {
        self.callers.channels().count()
    }

    /// Counts of the connected callers' protocol violations, by alias.
    pub fn violations(&self) -> Vec<(String, Violations)> {
        self.callers
            .channels()
            .map(|channel| (channel.peer.clone(), channel.violations()))
            .collect()
    }
}

impl Drop for Mailbox {
    /// Closes every channel: callers learn at once that nobody answers any more.
    fn drop(&mut self) {
        for channel in self.callers.channels() {
            channel.close(LossCause::ShutDown);
        }
    }
}

/// Completion queue entries of one caller: its receives, this side's sends, and its reads.
fn entries(geometry: Geometry) -> u32 {
    let slots = geometry.slots() as u32;
    SENDS * slots + receives(slots) + Bulk::ENTRIES
}

fn receives(slots: u32) -> u32 {
    // And one for the word that the peer's ring has grown.
    RECEIVES * slots + slots / SLOTS_OF_SPARE + 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata};

    use super::*;
    use crate::channel::loopback::{DRIVER, LONG, Loopback};
    use crate::channel::queue_pair_group::WriteRequest;
    use crate::channel::{CallFigures, Violation};
    use crate::panics::contain;
    use crate::wire::{EncodeError, Immediate, Signal};

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

    /// The log is the program's: its code may panic anywhere.
    struct PanickingLog;

    impl tracing::Subscriber for PanickingLog {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {
            panic!("the log is full");
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_panic_in_the_midst_of_a_batch_leaves_a_mailbox_that_works() {
        let mut ends = Loopback::new(2);
        let channel = ends.channel.clone();
        let mut core = channel.lock();
        let beyond = Immediate {
            slot: 9,
            signal: Signal::Message,
        };
        let hostile = WriteRequest {
            imm: beyond.to_bits(),
            bytes: &[],
            lkey: 0,
            to: core.remote.first().slot(0),
        };
        assert!(core.queue_pairs.write(&hostile).unwrap());
        drop(core);
        let until = Instant::now() + LONG;
        let mut look = || {
            while Instant::now() < until {
                ends.poll_in_vain();
            }
        };
        let log = || tracing::subscriber::with_default(PanickingLog, &mut look);
        assert_eq!(contain(log), Err("the log is full".to_owned()));
        ends.serve(&ends.channel.clone());
    }

    #[test]
    fn input_1_a_breach_of_the_protocol_is_counted_at_either_end_by_its_kind() {
        let figures = Arc::new(CallFigures::new("test", &["method"]));
        let mut ends = Loopback::counted(2, &figures);
        let beyond = |slot| Immediate {
            slot,
            signal: Signal::Message,
        };
        let channel = ends.channel.clone();
        let counted = || figures.read_beside().violations.count(Violation::BadSlot);
        let mut core = channel.lock();
        let hostile = WriteRequest {
            imm: beyond(9).to_bits(),
            bytes: &[],
            lkey: 0,
            to: core.remote.first().slot(0),
        };
        assert!(core.queue_pairs.write(&hostile).unwrap());
        drop(core);
        let until = Instant::now() + LONG;
        while counted() == 0 {
            assert!(Instant::now() < until, "the service counts");
            ends.poll_in_vain();
        }
        channel.lock().receive(&channel, beyond(9));
        assert_eq!(
            (counted(), figures.read_beside().violations.total()),
            (2, 2)
        );
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
}

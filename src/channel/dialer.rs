//! The calling end of a channel before it is connected.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use super::bulk::Bulk;
use super::client::{BATCH, ClientState};
use super::completion_watcher::CompletionWatcher;
use super::core::caller::Caller;
use super::geometry::RingShape;
use super::growth::Growth;
use super::lend::{RemoteRing, RemoteRings, Ring, SlotToken};
use super::queue_pair_group::{QueuePairGroup, QueuePairGroupInit};
use super::work_id::WorkId;
use super::{
    BufferPool, ClientChannel, ConnectError, Endpoint, Geometry, Profile, QueuePairInfo,
    RingAddress, Violations, WaitPolicy,
};
use crate::fabric::shm::SpinLock;
use crate::fabric::{Completion, Device, QueueHalves, RetryPolicy};

/// Owner of a client's queue pairs before their first reset.
pub(super) const OWNER: u64 = 0;

/// The calling end of a channel, before the peer's end is known.
#[derive(Debug)]
pub struct Dialer {
    pub(super) queue_pairs: QueuePairGroup,
    queue: QueueHalves,
    /// Used with a native peer only.
    bulk: Option<(Bulk, Arc<BufferPool>)>,
    sends: (Ring, Vec<SlotToken>),
    replies: (Ring, Vec<SlotToken>),
    pub(super) geometry: Geometry,
    shape: RingShape,
    profile: Profile,
    /// How often the queue pairs have been connected.
    reached: u64,
}

impl Dialer {
    /// Creates queue pairs and rings, ready to receive, for a native peer. Payloads beyond a slot
    /// go to `memory`.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(
        memory: &Arc<BufferPool>,
        geometry: Geometry,
        retry: RetryPolicy,
    ) -> Result<Self, ConnectError> {
        let device = &**memory.device();
        let mut dialer = Self::create(device, geometry, retry, 1, Profile::Native)?;
        let bulk = Bulk::new(device, &dialer.queue.0, OWNER, retry)?;
        dialer.bulk = Some((bulk, memory.clone()));
        Ok(dialer)
    }

    pub(super) fn create(
        device: &dyn Device,
        geometry: Geometry,
        retry: RetryPolicy,
        queue_pairs: usize,
        profile: Profile,
    ) -> Result<Self, ConnectError> {
        let slots = geometry.slots() as u32;
        // Room for a request, a cancel and a release for each slot; twice that, so that signalling
        // every half queue is enough.
        let sends = 6 * slots;
        let needed_receives = match profile {
            Profile::Native => slots,
            // A DLSlime peer may call over the connection on which it is called. It should not, but
            // its message needs a receive.
            Profile::Compatible => 2 * slots,
        };
        // And one for the word that the peer's ring has grown.
        let receives = needed_receives + slots + 1;
        let entries =
            (sends + receives).saturating_mul(queue_pairs.clamp(1, WorkId::MAX_QUEUE_PAIRS) as u32);
        let queue = device.create_completion_queue(entries + Bulk::ENTRIES)?;
        let queue_pairs = QueuePairGroup::new(
            device,
            &QueuePairGroupInit {
                cq: queue.0.clone(),
                count: queue_pairs,
                sends,
                receives,
                spare_receives: slots,
                owner: OWNER,
                retry,
                profile,
            },
        )?;
        let shape = RingShape::of(geometry, profile);
        Ok(Self {
            queue_pairs,
            queue,
            bulk: None,
            sends: Ring::send(device, shape)?,
            replies: Ring::receive(device, shape)?,
            geometry,
            shape,
            profile,
            reached: 0,
        })
    }

    /// The endpoint to send to a native peer.
    pub fn endpoint(&self) -> Endpoint {
        let qp = self.queue_pairs.addresses()[0];
        let bulk = self.bulk.as_ref();
        Endpoint {
            qp,
            bulk: bulk.map_or(qp, |(bulk, _)| bulk.address()),
            ring: self.ring(),
            geometry: self.geometry,
        }
    }

    /// The ring that the peer writes replies into.
    pub fn ring(&self) -> RingAddress {
        self.replies.0.address()
    }

    /// Connects the queue pairs to `theirs`, and resets them first if they were connected before.
    ///
    /// # Errors
    /// The peer has another number of queue pairs, their addresses are not acceptable, or the
    /// device refuses.
    pub fn reach(&mut self, theirs: &[QueuePairInfo]) -> Result<(), ConnectError> {
        if self.reached > 0 {
            self.queue_pairs.reset(self.reached)?;
        }
        self.reached += 1;
        self.queue_pairs.connect(theirs)
    }

    /// Connects to a native peer's end, which must be ready to receive.
    ///
    /// # Errors
    /// The peer's endpoint is not acceptable, or the device refuses.
    pub fn connect(
        mut self,
        peer: &str,
        theirs: &Endpoint,
        waiting: WaitPolicy,
    ) -> Result<Arc<ClientChannel>, ConnectError> {
        let remote = theirs.remote_ring(self.geometry)?;
        self.queue_pairs.expect_peer(peer);
        self.reach(&[theirs.qp])?;
        if let Some((bulk, _)) = &mut self.bulk {
            bulk.expect_peer(peer);
            bulk.connect(theirs.bulk)?;
        }
        Ok(self.open(peer, remote, waiting))
    }

    pub(super) fn open(
        self,
        peer: &str,
        remote: RemoteRing,
        waiting: WaitPolicy,
    ) -> Arc<ClientChannel> {
        let ((mut sends, mut claims), (mut replies, mut replied)) = (self.sends, self.replies);
        let growth = Growth::new(self.shape, &mut claims, &mut replied);
        // A slot must exist at both ends.
        let slots = remote.geometry.slots().min(self.geometry.slots());
        sends.retire(claims.split_off(slots));
        replies.retire(replied.split_off(slots));
        let (bulk, memory) = self.bulk.unzip();
        let closing = Arc::<Notify>::default();
        Arc::new(ClientChannel {
            core: SpinLock::new(ClientState {
                queue_pairs: self.queue_pairs,
                queue: Some(self.queue),
                bulk,
                caller: Caller::new(claims, replied),
                remote: RemoteRings::new(remote),
                growth,
                uses_large: false,
                violations: Violations::default(),
                polls: 0,
                closing: closing.clone(),
                batch: Box::new([Completion::EMPTY; BATCH]),
            }),
            memory,
            sends,
            replies,
            geometry: self.geometry,
            shape: self.shape,
            room: AtomicUsize::new(self.shape.first.slot_size()),
            profile: self.profile,
            peer: peer.to_owned(),
            waiting,
            figures: OnceLock::new(),
            listener: OnceLock::new(),
            watcher: CompletionWatcher::default(),
            closing,
        })
    }
}

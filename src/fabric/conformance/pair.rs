//! Two connected ends, and shorthands to work with them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fabric::{
    Access, Completion, CompletionQueue, CompletionStatus, Device, MemoryRegion, Operation,
    Payload, Poller, QueuePair, QueuePairInit, QueuePairState, RecvRequest, RemoteSlice,
    RetryPolicy, SendRequest, Sge,
};

/// Longer than any retry policy used here takes on a slow machine.
pub(super) const SOON: Duration = Duration::from_secs(60);
/// Long enough to see that nothing happens.
pub(super) const A_WHILE: Duration = Duration::from_millis(50);
pub(super) const LEN: usize = 1 << 20;

/// The devices under test.
pub(super) struct Devices {
    pub(super) a: Arc<dyn Device>,
    pub(super) b: Arc<dyn Device>,
}

/// How queue pairs are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) sends: u32,
    pub(super) receives: u32,
    pub(super) inline: u32,
    pub(super) retry: RetryPolicy,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            sends: 64,
            receives: 64,
            inline: 64,
            retry: RetryPolicy::default(),
        }
    }
}

impl Devices {
    /// Two connected ends.
    pub(super) fn pair(&self) -> (PairEnd, PairEnd) {
        self.pair_of(Shape::default())
    }

    pub(super) fn pair_of(&self, shape: Shape) -> (PairEnd, PairEnd) {
        let (mut a, mut b) = (PairEnd::new(&self.a, shape), PairEnd::new(&self.b, shape));
        a.connect(&b);
        b.connect(&a);
        (a, b)
    }
}

/// A queue pair with a completion queue and a region of [`LEN`] bytes.
pub(super) struct PairEnd {
    // Dropped first (DROP-1).
    pub(super) qp: Box<dyn QueuePair>,
    pub(super) cq: Arc<dyn CompletionQueue>,
    pub(super) poller: Box<dyn Poller>,
    pub(super) region: Arc<dyn MemoryRegion>,
}

impl PairEnd {
    pub(super) fn new(device: &Arc<dyn Device>, shape: Shape) -> Self {
        let (cq, poller) = device
            .create_completion_queue(4 * (shape.sends + shape.receives))
            .expect("a completion queue");
        let (qp, region) = Self::queue_pair(device, shape, &cq);
        Self {
            qp,
            cq,
            poller,
            region,
        }
    }

    /// A queue pair in INIT on an existing completion queue, and a region.
    pub(super) fn queue_pair(
        device: &Arc<dyn Device>,
        shape: Shape,
        cq: &Arc<dyn CompletionQueue>,
    ) -> (Box<dyn QueuePair>, Arc<dyn MemoryRegion>) {
        let mut qp = device
            .create_queue_pair(&QueuePairInit {
                send_cq: cq.clone(),
                recv_cq: cq.clone(),
                max_send_wr: shape.sends,
                max_recv_wr: shape.receives,
                max_inline: shape.inline,
                retry: shape.retry,
            })
            .expect("a queue pair");
        qp.to_init().expect("RESET to INIT");
        let region = device.register(LEN, Access::ALL).expect("a region");
        (qp, region)
    }

    pub(super) fn connect(&mut self, peer: &PairEnd) {
        connect(&mut *self.qp, &*peer.qp);
    }

    pub(super) fn receives(&mut self, wr_ids: impl IntoIterator<Item = u64>) {
        for wr_id in wr_ids {
            self.qp.post_recv(RecvRequest { wr_id }).expect("post_recv");
        }
    }

    /// `length` bytes of our region from `offset`.
    pub(super) fn local(&self, offset: usize, length: usize) -> Payload<'static> {
        Payload::Region(Sge {
            addr: self.region.addr() + offset as u64,
            length: length as u32,
            lkey: self.region.lkey(),
        })
    }

    /// Our region from `offset`, as the peer names it.
    pub(super) fn remote(&self, offset: usize) -> RemoteSlice {
        RemoteSlice {
            addr: self.region.addr() + offset as u64,
            rkey: self.region.rkey(),
        }
    }

    pub(super) fn send(
        &mut self,
        wr_id: u64,
        operation: Operation,
        local: Payload<'_>,
        remote: RemoteSlice,
    ) {
        self.post(wr_id, operation, local, remote, true);
    }

    pub(super) fn post(
        &mut self,
        wr_id: u64,
        operation: Operation,
        local: Payload<'_>,
        remote: RemoteSlice,
        signalled: bool,
    ) {
        let request = SendRequest {
            wr_id,
            operation,
            local,
            remote,
            signalled,
            solicited: true,
        };
        self.qp.post_send(&request).expect("post_send");
    }

    /// The next `count` completions; fails if they do not come.
    pub(super) fn poll(&mut self, count: usize) -> Vec<Completion> {
        poll(&mut *self.poller, count)
    }

    /// The next `count` completions, which must be successful.
    pub(super) fn succeed(&mut self, count: usize) -> Vec<Completion> {
        let all = self.poll(count);
        for completion in &all {
            assert_eq!(
                completion.status,
                CompletionStatus::Success,
                "{completion:?}"
            );
            assert_eq!(completion.qp_num, self.qp.number());
        }
        all
    }

    /// The `wr_id` and status of the next `count` completions.
    pub(super) fn outcomes(&mut self, count: usize) -> Vec<(u64, CompletionStatus)> {
        self.poll(count)
            .iter()
            .map(|c| (c.wr_id, c.status))
            .collect()
    }

    /// What is there now, at most `max`.
    pub(super) fn take(&mut self, max: usize) -> Vec<Completion> {
        take(&mut *self.poller, max)
    }

    /// Checks that nothing comes for a while.
    pub(super) fn stays_silent(&mut self) {
        let end = Instant::now() + A_WHILE;
        while Instant::now() < end {
            let none = self.take(4);
            assert!(none.is_empty(), "{none:?}");
            std::thread::yield_now();
        }
    }

    pub(super) fn goes_to_error(&self) {
        let end = Instant::now() + SOON;
        while self.qp.state() != QueuePairState::Error {
            assert!(Instant::now() < end, "still in {}", self.qp.state());
            std::thread::yield_now();
        }
    }

    pub(super) fn fill(&self, offset: usize, bytes: &[u8]) {
        self.region
            .copy_in(offset, bytes)
            .expect("inside the region");
    }

    pub(super) fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.region
            .copy_out(offset, &mut bytes)
            .expect("inside the region");
        bytes
    }
}

/// Connects `qp`, in INIT, with the peer's.
pub(super) fn connect(qp: &mut dyn QueuePair, peer: &dyn QueuePair) {
    qp.to_rtr(&peer.address()).expect("INIT to RTR");
    qp.to_rts().expect("RTR to RTS");
}

/// The next `count` completions; fails if they do not come.
pub(super) fn poll(poller: &mut dyn Poller, count: usize) -> Vec<Completion> {
    let mut all = Vec::new();
    let end = Instant::now() + SOON;
    while all.len() < count {
        assert!(
            Instant::now() < end,
            "{} of {count} completions came: {all:?}",
            all.len()
        );
        all.extend(take(poller, count - all.len()));
        std::thread::yield_now();
    }
    all
}

/// What is there now, at most `max`.
fn take(poller: &mut dyn Poller, max: usize) -> Vec<Completion> {
    let mut out = vec![Completion::EMPTY; max];
    let count = poller.poll(&mut out).expect("poll");
    out.truncate(count);
    out
}

/// `length` bytes that depend on `seed`.
pub(super) fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i.wrapping_mul(31) ^ seed.wrapping_mul(97)) as u8)
        .collect()
}

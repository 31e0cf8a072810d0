//! Reads and writes of a peer's memory, without work by the peer.
//!
//! The end that [dials](OneSidedDialer) reads and writes; the other only [keeps](Exposed) a queue
//! pair. Both use a device that nothing else uses, so a forged key reaches no memory other than
//! what is exported.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::runtime::Handle;

use super::buffer_pool::{BufferPool, MemoryError, PooledBuffer};
use super::bulk::{Bulk, Remote, Transfer};
use super::completion_watcher::{CompletionWatcher, WatchedQueue};
use super::{BufferLocation, ConnectError, LossCause, QueuePairInfo, WaitPolicy};
use crate::fabric::{
    Completion, CompletionQueue, CompletionStatus, Device, FabricError, Poller, QueuePair,
    QueuePairInit, QueuePairState, RetryPolicy,
};
use crate::panics::wake_all;

const BATCH: usize = Bulk::ENTRIES as usize;
/// Polls without a completion before other tasks get a turn.
const SPINS: usize = 32;

/// Why a transfer did not take place, or may not have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// No memory is available to read into, or to write from.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The peer's device refused: the memory is not exported, or is shorter, or does not allow this
    /// access. The connection is closed with it.
    #[error("the peer refuses: the memory is not, or no longer, offered with this range and right")]
    Refused,
    /// The connection was closed; a write may have taken place in part.
    #[error("the connection is closed: {0}")]
    Closed(LossCause),
}

/// The end that reads and writes, before the other end is known.
#[derive(Debug)]
pub struct OneSidedDialer {
    // Dropped before the queue that it completes into.
    bulk: Bulk,
    cq: Arc<dyn CompletionQueue>,
    poller: Box<dyn Poller>,
    memory: Arc<BufferPool>,
}

impl OneSidedDialer {
    /// Creates a queue pair on the device of `memory`, which bytes are read into and written from.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(memory: &Arc<BufferPool>, retry: RetryPolicy) -> Result<Self, ConnectError> {
        let device = &**memory.device();
        let (cq, poller) = device.create_completion_queue(Bulk::ENTRIES + 1)?;
        Ok(Self {
            bulk: Bulk::new(device, &cq, 0, retry)?,
            cq,
            poller,
            memory: memory.clone(),
        })
    }

    /// The address to send to the peer.
    pub fn address(&self) -> QueuePairInfo {
        self.bulk.address()
    }

    /// Connects to the end that `peer` has exposed, who must prove that alias where it can be
    /// proved.
    ///
    /// # Errors
    /// The peer's address is not acceptable, or the device refuses.
    pub fn connect(
        mut self,
        peer: &str,
        theirs: QueuePairInfo,
        waiting: WaitPolicy,
    ) -> Result<Arc<OneSided>, ConnectError> {
        self.bulk.expect_peer(peer);
        self.bulk.connect(theirs)?;
        Ok(Arc::new(OneSided {
            core: Mutex::new(OneSidedState {
                bulk: self.bulk,
                poller: self.poller,
                next: 0,
                pending: HashMap::new(),
                ready: Vec::new(),
                cause: None,
                is_deaf: false,
            }),
            cq: self.cq,
            memory: self.memory,
            waiting,
            watcher: CompletionWatcher::default(),
        }))
    }
}

/// The end whose memory is read and written.
#[derive(Debug)]
pub struct Exposed {
    qp: Box<dyn QueuePair>,
    _cq: Arc<dyn CompletionQueue>,
}

impl Exposed {
    /// Accepts the caller `peer`, who must prove that alias where it can be proved: connects to its
    /// end, and returns the address to send to it.
    ///
    /// # Errors
    /// The caller's address is not acceptable, or the device refuses.
    pub fn accept(
        device: &dyn Device,
        peer: &str,
        theirs: QueuePairInfo,
        retry: RetryPolicy,
    ) -> Result<(Self, QueuePairInfo), ConnectError> {
        let (cq, _) = device.create_completion_queue(2)?;
        let mut qp = device.create_queue_pair(&QueuePairInit {
            send_cq: cq.clone(),
            recv_cq: cq.clone(),
            max_send_wr: 1,
            max_recv_wr: 1,
            max_inline: 0,
            retry,
        })?;
        qp.to_init()?;
        qp.expect_peer(peer);
        qp.to_rtr(&theirs.into())?;
        qp.to_rts()?;
        let ours = qp.address().into();
        Ok((Self { qp, _cq: cq }, ours))
    }

    /// Returns whether the connection has ended.
    pub fn is_over(&self) -> bool {
        self.qp.state() == QueuePairState::Error
    }
}

/// A connection through which a peer's memory is read and written; usable from any thread.
#[derive(Debug)]
pub struct OneSided {
    // Dropped, and so drained, before the memory that it uses (DROP-1).
    core: Mutex<OneSidedState>,
    cq: Arc<dyn CompletionQueue>,
    memory: Arc<BufferPool>,
    waiting: WaitPolicy,
    watcher: CompletionWatcher,
}

#[derive(Debug)]
struct OneSidedState {
    bulk: Bulk,
    poller: Box<dyn Poller>,
    next: u64,
    /// Transfers that a task waits for.
    pending: HashMap<u64, Pending>,
    /// Wakers to wake once the lock is released.
    ready: Vec<Waker>,
    cause: Option<LossCause>,
    /// The completion queue has failed: no completion arrives any more.
    is_deaf: bool,
}

#[derive(Debug)]
enum Pending {
    Underway(Option<Waker>),
    Done(Result<PooledBuffer, TransferError>),
}

impl OneSided {
    /// Returns whether the owner has been met, where that can be told.
    ///
    /// # Errors
    /// Why this side or the owner refuses the other.
    pub fn has_met_peer(&self) -> Result<bool, FabricError> {
        self.lock().bulk.has_met_peer()
    }

    /// Begins to read these ranges of the memory at `place`, offsets and lengths in bytes, one
    /// after the other.
    ///
    /// # Errors
    /// No memory is available, or the connection is closed.
    pub fn read(
        self: &Arc<Self>,
        place: BufferLocation,
        ranges: &[(u64, usize)],
    ) -> Result<PendingTransfer, TransferError> {
        let block = self.memory.take(total(ranges))?;
        self.begin(
            |id| Transfer::read(id, remote(place, ranges), block),
            ranges,
        )
    }

    /// Begins to write to these ranges. `fill` writes the bytes into the memory that it is given,
    /// which has their length.
    ///
    /// # Errors
    /// The errors of [`read`](Self::read).
    pub fn write(
        self: &Arc<Self>,
        place: BufferLocation,
        ranges: &[(u64, usize)],
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<PendingTransfer, TransferError> {
        let mut block = self.memory.take(total(ranges))?;
        fill(&mut block);
        self.begin(
            |id| Transfer::write(id, block, remote(place, ranges)),
            ranges,
        )
    }

    fn begin(
        self: &Arc<Self>,
        transfer: impl FnOnce(u64) -> Transfer,
        ranges: &[(u64, usize)],
    ) -> Result<PendingTransfer, TransferError> {
        debug_assert!(total(ranges) > 0, "there is something to transfer");
        let mut core = self.lock();
        if let Some(cause) = &core.cause {
            return Err(TransferError::Closed(cause.clone()));
        }
        let id = core.next;
        core.next += 1;
        core.pending.insert(id, Pending::Underway(None));
        if let Err(error) = core.bulk.begin(transfer(id)) {
            core.close(LossCause::Fabric(error.to_string()), None);
        }
        self.wake(core);
        Ok(PendingTransfer {
            connection: self.clone(),
            id,
            since: None,
        })
    }

    /// Why the connection is closed; `None` while it is open, as far as is known.
    pub fn closed(&self) -> Option<LossCause> {
        self.progress();
        self.lock().cause.clone()
    }

    /// Closes the connection; transfers that are under way end with `cause`.
    pub fn close(self: &Arc<Self>, cause: LossCause) {
        self.end(cause);
        if self.is_moving() {
            CompletionWatcher::ensure_fallback(self);
        }
    }

    fn end(&self, cause: LossCause) {
        let mut core = self.lock();
        core.close(cause, None);
        self.wake(core);
    }

    fn lock(&self) -> MutexGuard<'_, OneSidedState> {
        // Nothing that can panic runs under the lock.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut core: MutexGuard<'_, OneSidedState>) {
        let ready = std::mem::take(&mut core.ready);
        drop(core);
        wake_all(ready);
    }
}

impl WatchedQueue for OneSided {
    fn watcher(&self) -> &CompletionWatcher {
        &self.watcher
    }

    fn runtime(&self) -> &Handle {
        &self.waiting.runtime
    }

    fn queue(&self) -> Option<Arc<dyn CompletionQueue>> {
        Some(self.cq.clone())
    }

    fn progress(&self) -> bool {
        let mut batch = [Completion::EMPTY; BATCH];
        let mut core = self.lock();
        let any = match core.poller.poll(&mut batch) {
            Ok(count) => {
                batch[..count].iter().for_each(|done| core.complete(done));
                count > 0
            }
            Err(error) => {
                core.close(LossCause::Fabric(error.to_string()), None);
                core.is_deaf = true;
                false
            }
        };
        self.wake(core);
        any
    }

    fn arm(&self) -> bool {
        if let Err(error) = self.cq.arm() {
            self.end(LossCause::Fabric(error.to_string()));
        }
        self.progress()
    }

    fn is_moving(&self) -> bool {
        let core = self.lock();
        !core.bulk.is_idle() && !core.is_deaf
    }

    fn has_sleepers(&self) -> bool {
        self.is_moving()
    }

    fn abandon(&self, cause: LossCause) {
        self.end(cause);
    }
}

impl OneSidedState {
    fn complete(&mut self, completion: &Completion) {
        match completion.status {
            CompletionStatus::Success => {}
            CompletionStatus::RemoteAccess => {
                let refused = self.bulk.first_posted();
                self.close(LossCause::Completion(completion.status), refused);
            }
            status => self.close(status.into(), None),
        }
        // After the last piece of an abandoned transfer, its memory goes back, too.
        match self.bulk.complete() {
            Ok(Some((id, block))) if self.cause.is_none() => self.finish(id, Ok(block)),
            Ok(_) => {}
            Err(error) => self.close(LossCause::Fabric(error.to_string()), None),
        }
    }

    /// Ends a transfer. If nobody waits for it any more, its memory goes back.
    fn finish(&mut self, id: u64, result: Result<PooledBuffer, TransferError>) {
        if let Some(pending) = self.pending.get_mut(&id) {
            let before = std::mem::replace(pending, Pending::Done(result));
            if let Pending::Underway(Some(waker)) = before {
                self.ready.push(waker);
            }
        }
    }

    /// Ends all transfers; `refused` is the one that the peer refused.
    fn close(&mut self, cause: LossCause, refused: Option<u64>) {
        if self.cause.is_some() {
            return;
        }
        self.cause = Some(cause.clone());
        self.bulk.fail();
        let is_underway = |pending: &Pending| matches!(pending, Pending::Underway(_));
        let ids = self.pending.iter().filter(|(_, p)| is_underway(p));
        let ids: Vec<_> = ids.map(|(id, _)| *id).collect();
        for id in ids {
            let error = if refused == Some(id) {
                TransferError::Refused
            } else {
                TransferError::Closed(cause.clone())
            };
            self.finish(id, Err(error));
        }
    }
}

/// A transfer that has begun. It yields the memory that was read into, or written from. Dropping it
/// does not end the transfer, which keeps its memory until it is done.
#[derive(Debug)]
#[must_use = "whether the transfer took place is known when this is awaited"]
pub struct PendingTransfer {
    connection: Arc<OneSided>,
    id: u64,
    /// When busy polling began.
    since: Option<Instant>,
}

impl PendingTransfer {
    fn poll_once(&self, waker: Option<&Waker>) -> Poll<Result<PooledBuffer, TransferError>> {
        let mut core = self.connection.lock();
        match core.pending.remove(&self.id) {
            Some(Pending::Done(result)) => Poll::Ready(result),
            Some(Pending::Underway(held)) => {
                let (next, before) = match (waker, held) {
                    (Some(waker), held) => (Some(waker.clone()), held),
                    (None, held) => (held, None),
                };
                core.pending.insert(self.id, Pending::Underway(next));
                // A waker may hold the last reference to a task with other transfers of this
                // connection: drop it after the lock.
                drop(core);
                drop(before);
                Poll::Pending
            }
            None => panic!("a transfer is polled after it was ready"),
        }
    }
}

impl Future for PendingTransfer {
    type Output = Result<PooledBuffer, TransferError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        for _ in 0..SPINS {
            if let ready @ Poll::Ready(_) = self.poll_once(None) {
                return ready;
            }
            if self.connection.progress() {
                // Pieces are large: other tasks get a turn after each.
                self.since = None;
                break;
            }
            std::hint::spin_loop();
        }
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) < self.connection.waiting.busy_poll {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = self.poll_once(Some(context.waker()));
        if polled.is_pending() {
            CompletionWatcher::ensure(&self.connection);
        }
        polled
    }
}

impl Drop for PendingTransfer {
    fn drop(&mut self) {
        let mut core = self.connection.lock();
        let pending = core.pending.remove(&self.id);
        let is_closed = core.cause.is_some();
        drop(core);
        if is_closed || matches!(pending, Some(Pending::Underway(_))) {
            // A watcher has to see the end of what is under way, so that its memory comes back.
            CompletionWatcher::ensure_fallback(&self.connection);
        }
    }
}

fn total(ranges: &[(u64, usize)]) -> usize {
    ranges.iter().map(|(_, len)| len).sum()
}

fn remote(place: BufferLocation, ranges: &[(u64, usize)]) -> impl Iterator<Item = Remote> {
    let ranges = ranges.iter().filter(|(_, len)| *len > 0);
    ranges.map(move |&(offset, len)| Remote {
        addr: place.addr.wrapping_add(offset),
        rkey: place.rkey,
        len,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::channel::loopback::{LONG, memory, wait_policy};
    use crate::channel::{Buffer, Rights};
    use crate::fabric::drop_order::{DropOrder, Gone};
    use crate::fabric::shm::ShmDevice;

    #[test]
    fn drop_1_memory_that_is_read_into_outlives_the_queue_pair() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let (ours, theirs) = (
            DropOrder::new(ShmDevice::open().unwrap()),
            ShmDevice::open().unwrap(),
        );
        let size = 1 << 20;
        let buffer = Buffer::new(&[memory(&theirs)], size, Rights::Read).unwrap();
        let device: Arc<dyn Device> = ours.clone();
        let retry = RetryPolicy::default();
        let dialer = OneSidedDialer::new(&memory(&device), retry).unwrap();
        let (_exposed, address) = Exposed::accept(&*theirs, "a", dialer.address(), retry).unwrap();
        let connection = dialer.connect("b", address, wait_policy(&runtime)).unwrap();
        let transfer = connection.read(buffer.places()[0], &[(0, size)]).unwrap();
        let until = Instant::now() + LONG;
        while !connection.progress() {
            assert!(Instant::now() < until, "no piece arrives");
        }
        assert!(transfer.poll_once(None).is_pending(), "some are to come");
        // The runtime is not driven any more, so nobody polls.
        drop((transfer, connection));
        assert_eq!(ours.take_gone(), [Gone::QueuePair, Gone::Region]);
    }
}

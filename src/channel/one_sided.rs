//! Reading and writing memory of a peer, which takes no part in it.
//!
//! The end that [dials](OneSidedDialer) reads and writes; the other merely [keeps](Exposed) a queue
//! pair. Both are made on a device that nothing else uses, so a forged key leads to no other memory
//! than what is offered.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::runtime::Handle;

use super::buffer_pool::{BufferPool, MemoryError, PooledBuffer};
use super::bulk::{Bulk, Remote, Transfer};
use super::completion_watcher::{CompletionWatcher, WatchedQueue};
use super::wake::wake_all;
use super::{BufferLocation, ConnectError, LossCause, QueuePairInfo, WaitPolicy};
use crate::fabric::{
    Completion, CompletionQueue, CompletionStatus, Device, Poller, QueuePair, QueuePairInit,
    QueuePairState, RetryPolicy,
};

const BATCH: usize = Bulk::ENTRIES as usize;
/// Polls in a row that find nothing before other tasks get a turn.
const SPINS: usize = 32;

/// A transfer did not take place, or not certainly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// There is no memory to read into, or to write from.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The peer's device refused: the memory is no longer offered, or never was, or not so much of
    /// it, or not with this right. The connection is closed with it.
    #[error("the peer refuses: the memory is not, or no longer, offered with this range and right")]
    Refused,
    /// The connection was closed; a write may have taken place in part.
    #[error("the connection is closed: {0}")]
    Closed(LossCause),
}

/// The end that reads and writes, before the other is known.
#[derive(Debug)]
pub struct OneSidedDialer {
    // Before the queue that it completes into.
    bulk: Bulk,
    cq: Arc<dyn CompletionQueue>,
    poller: Box<dyn Poller>,
    memory: Arc<BufferPool>,
}

impl OneSidedDialer {
    /// Creates a queue pair on the device of `memory`, into which, and out of which, bytes will go.
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

    /// What the peer must be told.
    pub fn address(&self) -> QueuePairInfo {
        self.bulk.address()
    }

    /// Connects to the end that `peer` has exposed.
    ///
    /// # Errors
    /// Its address is not acceptable, or the device refuses.
    pub fn connect(
        mut self,
        theirs: QueuePairInfo,
        waiting: WaitPolicy,
    ) -> Result<Arc<OneSided>, ConnectError> {
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

/// The end whose memory is read and written, without its doing.
#[derive(Debug)]
pub struct Exposed {
    qp: Box<dyn QueuePair>,
    _cq: Arc<dyn CompletionQueue>,
}

impl Exposed {
    /// Connects to the end of a caller, and gives back what it must be told.
    ///
    /// # Errors
    /// Its address is not acceptable, or the device refuses.
    pub fn accept(
        device: &dyn Device,
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
        qp.to_rtr(&theirs.into())?;
        qp.to_rts()?;
        let ours = qp.address().into();
        Ok((Self { qp, _cq: cq }, ours))
    }

    /// Whether the connection has ended.
    pub fn is_over(&self) -> bool {
        self.qp.state() == QueuePairState::Error
    }
}

/// A connection by which memory of a peer is read and written; usable from any thread.
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
    /// Transfers that somebody waits for.
    pending: HashMap<u64, Pending>,
    /// To be woken once the lock is released.
    ready: Vec<Waker>,
    cause: Option<LossCause>,
    /// The completion queue has failed: nothing is heard any more.
    is_deaf: bool,
}

#[derive(Debug)]
enum Pending {
    Underway(Option<Waker>),
    Done(Result<PooledBuffer, TransferError>),
}

impl OneSided {
    /// Begins to read these ranges of the memory at `place`, offsets and lengths in bytes, one
    /// after the other.
    ///
    /// # Errors
    /// There is no memory, or the connection is closed.
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

    /// Begins to write to these ranges what `fill` puts into the memory that it is given, which has
    /// their length.
    ///
    /// # Errors
    /// As [`read`](Self::read).
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

    /// Closes the connection; transfers that are underway end with `cause`.
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
        // After the last piece of a transfer that was closed, too, its memory goes back.
        match self.bulk.complete() {
            Ok(Some((id, block))) if self.cause.is_none() => self.finish(id, Ok(block)),
            Ok(_) => {}
            Err(error) => self.close(LossCause::Fabric(error.to_string()), None),
        }
    }

    /// A transfer is over. If nobody waits for it any more, its memory goes back.
    fn finish(&mut self, id: u64, result: Result<PooledBuffer, TransferError>) {
        if let Some(pending) = self.pending.get_mut(&id) {
            let before = std::mem::replace(pending, Pending::Done(result));
            if let Pending::Underway(Some(waker)) = before {
                self.ready.push(waker);
            }
        }
    }

    /// Ends everything that is underway, `refused` as such.
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

/// A transfer that has begun. Gives the memory that was read into, or written from. Dropping it
/// does not end the transfer, whose memory is lent until it has.
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
                // With a waker may go the last of a task that has other transfers of this
                // connection.
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
                // Pieces are large: others get a turn after each.
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
            // Somebody has to see the end of what is on its way, so that its memory comes back.
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
        let (_exposed, address) = Exposed::accept(&*theirs, dialer.address(), retry).unwrap();
        let connection = dialer.connect(address, wait_policy(&runtime)).unwrap();
        let transfer = connection.read(buffer.places()[0], &[(0, size)]).unwrap();
        let until = Instant::now() + LONG;
        while !connection.progress() {
            assert!(Instant::now() < until, "no piece arrives");
        }
        assert!(transfer.poll_once(None).is_pending(), "some are to come");
        // Nobody drives the runtime, so nobody looks any more.
        drop((transfer, connection));
        assert_eq!(ours.take_gone(), [Gone::QueuePair, Gone::Region]);
    }
}

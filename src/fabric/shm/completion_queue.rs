//! Completion queues of the shm fabric.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::receive_ring::Doorbell;
use super::receiver::Receiver;
use super::segment::{Segment, View};
use crate::fabric::{Completion, CompletionQueue, FabricError, Gid, eventfd};

/// The shared half of a completion queue: its doorbell, and all entries but arrived messages.
#[derive(Debug)]
pub(super) struct ShmCompletionQueue {
    device: Gid,
    event: OwnedFd,
    page: OwnedFd,
    doorbell: View<Doorbell>,
    entries: Mutex<Entries>,
    /// Whether the poller has to look at the entries.
    has_news: AtomicBool,
}

/// All entries of the queue that are not arrived messages.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) sent: VecDeque<Sent>,
    /// Receive queues that had a receive posted.
    pub(super) receivers: Vec<Arc<Receiver>>,
    /// Whether receive queues were added or removed.
    pub(super) are_others: bool,
    /// Whether a receive queue has something to flush.
    pub(super) has_failed: bool,
}

/// A completion of a send, which frees places in its send queue when it is polled.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) completion: Completion,
    pub(super) retires: u32,
    pub(super) retired: Arc<AtomicU32>,
}

/// The doorbell in a completion queue's shared page.
pub(super) fn doorbell_in(page: Segment) -> Option<View<Doorbell>> {
    View::of(&Arc::new(page), 0, 1)
}

impl ShmCompletionQueue {
    pub(super) fn create(device: Gid) -> Result<Self, FabricError> {
        let (page, segment) = Segment::create("slimerpc-doorbell", size_of::<Doorbell>())
            .map_err(FabricError::os("creating a completion queue"))?;
        let doorbell = doorbell_in(segment).expect("the page was made so");
        doorbell[0].set_up();
        Ok(Self {
            device,
            event: eventfd::create().map_err(FabricError::os("creating an eventfd"))?,
            page,
            doorbell,
            entries: Mutex::default(),
            has_news: AtomicBool::new(false),
        })
    }

    /// The device that the queue was created on.
    pub(super) fn device(&self) -> Gid {
        self.device
    }

    /// The descriptors that a peer needs to wake this queue's owner: the page with the doorbell,
    /// and the eventfd.
    pub(super) fn shared(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.page.as_fd(), self.event.as_fd())
    }

    /// Polls this receive queue, too, from now on.
    pub(super) fn attach(&self, receiver: Arc<Receiver>) {
        self.tell(|entries| {
            entries.receivers.push(receiver);
            entries.are_others = true;
        });
    }

    /// Polls this receive queue no longer.
    pub(super) fn detach(&self, number: u32) {
        self.tell(|entries| {
            entries
                .receivers
                .retain(|receiver| receiver.number() != number);
            entries.are_others = true;
        });
    }

    pub(super) fn push(&self, sent: Sent) {
        let is_failure = !sent.completion.status.is_success();
        self.tell(|entries| entries.sent.push_back(sent));
        self.ring(is_failure);
    }

    /// Notes that a receive queue has something to flush.
    pub(super) fn flush(&self) {
        self.tell(|entries| entries.has_failed = true);
    }

    /// Changes the entries and has the poller look at them.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Entries)) {
        change(&mut self.lock());
        self.has_news.store(true, Ordering::Release);
    }

    /// Returns whether there are entries other than arrived messages.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Acquire)
    }

    /// The entries, for the poller to take.
    pub(super) fn news(&self) -> MutexGuard<'_, Entries> {
        // A swap and not a store: its acquire makes entries visible that were added before.
        self.has_news.swap(false, Ordering::AcqRel);
        self.lock()
    }

    /// Raises an event of this kind if the owner has armed the doorbell for it.
    pub(super) fn ring(&self, is_failure: bool) {
        if self.doorbell().needs_ring(is_failure, None) {
            eventfd::raise(&self.event);
        }
    }

    fn doorbell(&self) -> &Doorbell {
        &self.doorbell[0]
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while it is held.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CompletionQueue for ShmCompletionQueue {
    fn arm(&self) -> Result<(), FabricError> {
        self.doorbell().arm();
        Ok(())
    }

    fn arm_solicited(&self) -> Result<(), FabricError> {
        self.doorbell().arm_solicited();
        Ok(())
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn clear_events(&self) {
        eventfd::lower(&self.event);
    }

    fn has_edges(&self) -> bool {
        true
    }
}

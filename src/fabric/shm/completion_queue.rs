//! Completion queues of the shm fabric.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::receive_ring::Bell;
use super::receiver::Receiver;
use super::segment::{Segment, View};
use crate::fabric::{Completion, CompletionQueue, FabricError, Gid, eventfd};

/// A completion queue: completions of our own sends, and the receive queues that peers write into, which are
/// looked at directly.
#[derive(Debug)]
pub(super) struct ShmCompletionQueue {
    device: Gid,
    event: OwnedFd,
    page: OwnedFd,
    bell: View<Bell>,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    sent: VecDeque<Sent>,
    receivers: Vec<Arc<Receiver>>,
    /// Which receiver is looked at first the next time.
    turn: usize,
}

/// A completion of a send, which frees places in its send queue when it is polled.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) completion: Completion,
    pub(super) retires: u32,
    pub(super) retired: Arc<AtomicU32>,
}

/// The bell in a completion queue's shared page.
pub(super) fn bell_in(page: Segment) -> Option<View<Bell>> {
    View::of(&Arc::new(page), 0, 1)
}

impl ShmCompletionQueue {
    pub(super) fn create(device: Gid) -> Result<Self, FabricError> {
        let (page, segment) = Segment::create("slimerpc-bell", size_of::<Bell>())
            .map_err(FabricError::os("creating a completion queue"))?;
        Ok(Self {
            device,
            event: eventfd::create().map_err(FabricError::os("creating an eventfd"))?,
            page,
            bell: bell_in(segment).expect("the page was made so"),
            entries: Mutex::default(),
        })
    }

    /// The device that it was created on.
    pub(super) fn device(&self) -> Gid {
        self.device
    }

    /// What a peer needs to wake us: the page with the bell, and the eventfd.
    pub(super) fn shared(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.page.as_fd(), self.event.as_fd())
    }

    /// Looks at this receive queue, too, from now on.
    pub(super) fn attach(&self, receiver: Arc<Receiver>) {
        self.lock().receivers.push(receiver);
    }

    /// Forgets a receive queue.
    pub(super) fn detach(&self, number: u32) {
        let mut entries = self.lock();
        entries
            .receivers
            .retain(|receiver| receiver.number() != number);
        entries.turn = 0;
    }

    pub(super) fn push(&self, sent: Sent) {
        let is_failure = !sent.completion.status.is_success();
        self.lock().sent.push_back(sent);
        self.ring(is_failure);
    }

    /// Raises an event if one was asked for, of this kind.
    pub(super) fn ring(&self, is_failure: bool) {
        if self.bell().must_ring(is_failure) {
            eventfd::raise(&self.event);
        }
    }

    fn bell(&self) -> &Bell {
        &self.bell[0]
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while it is held.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CompletionQueue for ShmCompletionQueue {
    fn poll(&self, out: &mut [Completion]) -> Result<usize, FabricError> {
        let mut entries = self.lock();
        let entries = &mut *entries;
        let mut count = 0;
        while count < out.len()
            && let Some(sent) = entries.sent.pop_front()
        {
            sent.retired.fetch_add(sent.retires, Ordering::Relaxed);
            out[count] = sent.completion;
            count += 1;
        }
        let (later, first) = entries.receivers.split_at(entries.turn);
        for (step, receiver) in first.iter().chain(later).enumerate() {
            if receiver.is_quiet() {
                continue;
            }
            count += receiver.poll(&mut out[count..]);
            if count == out.len() {
                // The one that filled it comes last the next time, so that none starves.
                entries.turn = (entries.turn + step + 1) % entries.receivers.len();
                break;
            }
        }
        Ok(count)
    }

    fn is_quiet(&self) -> bool {
        let entries = self.lock();
        entries.sent.is_empty() && entries.receivers.iter().all(|receiver| receiver.is_quiet())
    }

    fn arm(&self) -> Result<(), FabricError> {
        self.bell().arm();
        Ok(())
    }

    fn arm_solicited(&self) -> Result<(), FabricError> {
        self.bell().arm_solicited();
        Ok(())
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn clear_events(&self) {
        eventfd::lower(&self.event);
    }
}

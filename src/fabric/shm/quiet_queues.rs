//! Completion queues whose owners are woken by a message on the link, and not by an eventfd that
//! each peer has a descriptor of.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::fabric::eventfd;

/// The eventfds of a port's quiet queues, by the queues' numbers.
#[derive(Debug, Default)]
pub(super) struct QuietQueues(Mutex<HashMap<u64, Weak<OwnedFd>>>);

impl QuietQueues {
    /// Adds a queue. It goes with its eventfd.
    pub(super) fn add(&self, queue: u64, event: &Arc<OwnedFd>) {
        let mut queues = self.lock();
        queues.retain(|_, event| event.strong_count() > 0);
        queues.insert(queue, Arc::downgrade(event));
    }

    /// Wakes the owner of a queue, as a peer asks. Others ask for nothing: such a queue is gone, or
    /// a peer has made it up.
    pub(super) fn ring(&self, queue: u64) {
        let event = self.lock().get(&queue).and_then(Weak::upgrade);
        if let Some(event) = event {
            eventfd::raise(&event);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<OwnedFd>>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

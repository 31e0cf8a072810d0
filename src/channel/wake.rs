//! Waking those who wait.

use std::task::Waker;

use crate::panics::contain;

/// Wakes all of them. A waker is code of whoever waits: one that panics must neither keep the
/// others asleep nor end whoever wakes, which may be a service or the watcher of a queue.
pub(super) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        if let Err(message) = contain(|| waker.wake()) {
            tracing::error!(message, "a waker panicked");
        }
    }
}

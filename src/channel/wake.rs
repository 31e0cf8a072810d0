//! Wakes waiting tasks.

use std::task::Waker;

use crate::panics::contain;

/// Wakes all of them. A waker runs foreign code: its panic must neither keep the others asleep nor
/// end the caller, which may be a service or the watcher of a queue.
pub(super) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        if let Err(message) = contain(|| waker.wake()) {
            tracing::error!(message, "a waker panicked");
        }
    }
}

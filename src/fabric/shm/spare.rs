//! Descriptors that the process keeps back for when it has no others: to accept a dial, and to
//! receive those that come with a message.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::control_socket::MAX_FDS;
use crate::fabric::eventfd;

/// The descriptors kept back for the ports of the process, one beside tests and forks. Each has a
/// share of it, and who uses it does so alone, so that no port takes what another has just freed
/// for itself.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Vec<OwnedFd>>);

impl Spare {
    /// The one that the ports of this process share.
    pub(super) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Spare>> = Mutex::new(Weak::new());
        // Nothing panics while it is held.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let spare = shared.upgrade().unwrap_or_default();
        replenish(&mut spare.lock());
        *shared = Arc::downgrade(&spare);
        spare
    }

    /// Does what needs `count` descriptors, and keeps as many back again as there are. Returns
    /// whether there are any, too.
    pub(super) fn lend<T>(&self, count: usize, work: impl FnOnce() -> T) -> (T, bool) {
        let mut spare = self.lock();
        let kept = spare.len().saturating_sub(count);
        spare.truncate(kept);
        let done = work();
        replenish(&mut spare);
        (done, !spare.is_empty())
    }

    /// Keeps as many back again as there are, unless somebody is about to.
    pub(super) fn refill(&self) {
        if let Ok(mut spare) = self.0.try_lock() {
            replenish(&mut spare);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps back as many descriptors as may be needed at once, or as many as there are.
fn replenish(spare: &mut Vec<OwnedFd>) {
    while spare.len() <= MAX_FDS
        && let Ok(descriptor) = eventfd::create()
    {
        spare.push(descriptor);
    }
}

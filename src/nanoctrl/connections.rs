//! How many connections the server has at once: as many as this process may have descriptors for.
//! Further clients wait until others leave.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::process::{Resource, getrlimit};

use crate::complaints::Complaints;

/// Descriptors that are kept for what is no connection of a client: Redis, files, event loops.
const OTHERS: u64 = 64;
/// Most connections at once, whatever the limit of descriptors.
const MOST: u64 = 50_000;

/// The connections that a server has.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    open: Mutex<(usize, Complaints)>,
}

/// One connection; it is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Connection(Arc<Connections>);

impl Connections {
    /// As many connections as the limit of descriptors leaves room for, a multiple of `workers`,
    /// which share them.
    pub(super) fn within_limit(workers: usize) -> Arc<Self> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = (limit - OTHERS.min(limit / 2)).min(MOST);
        Arc::new(Self {
            most: (most as usize / workers).max(1) * workers,
            open: Mutex::default(),
        })
    }

    /// Most connections at once.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Counts one more, and warns if it is the last one that there is room for.
    pub(super) fn add(self: &Arc<Self>) -> Connection {
        let (open, full) = &mut *self.lock();
        *open += 1;
        if *open >= self.most {
            full.warn(
                Instant::now(),
                format_args!(
                    "there are {open} connections, and further clients wait until others leave; raise the limit of descriptors \
                     (`ulimit -n`, LimitNOFILE= in a systemd unit)"
                ),
            );
        }
        Connection(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, (usize, Complaints)> {
        // Nothing panics while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.lock().0 -= 1;
    }
}

//! Counts what is read and written one-sided.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::OneSidedBytes;

/// Counters of one agent.
#[derive(Debug, Default)]
pub(crate) struct OneSidedCounters {
    read: AtomicU64,
    written: AtomicU64,
}

impl OneSidedCounters {
    pub(crate) fn count_read(&self, len: usize) {
        self.read.fetch_add(len as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_written(&self, len: usize) {
        self.written.fetch_add(len as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> OneSidedBytes {
        OneSidedBytes {
            read: self.read.load(Ordering::Relaxed),
            written: self.written.load(Ordering::Relaxed),
        }
    }
}

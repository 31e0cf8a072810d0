//! What a process has of the system.

use std::fs;
use std::time::{Duration, Instant};

use crate::PATIENCE;

/// The time between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What this process holds: a leak is more of it than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceUsage {
    /// File descriptors.
    pub descriptors: usize,
    /// Mappings of shared memory, which is what shm devices register.
    pub mappings: usize,
    /// Threads.
    pub threads: usize,
    /// KiB that are pinned for an RDMA device, which is what such devices register.
    pub pinned: usize,
}

impl ResourceUsage {
    /// What it holds now.
    pub fn now() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let pinned = status.lines().find_map(|line| line.strip_prefix("VmPin:"));
        let pinned = pinned.and_then(|line| line.split_whitespace().next());
        let count = |folder| fs::read_dir(folder).unwrap().count();
        Self {
            descriptors: count("/proc/self/fd"),
            mappings: maps.lines().filter(|line| line.contains("memfd:")).count(),
            threads: count("/proc/self/task"),
            pinned: pinned.and_then(|kib| kib.parse().ok()).unwrap_or(0),
        }
    }

    /// What it holds when that has not changed for a while.
    pub async fn settled() -> Self {
        let (mut last, mut same) = (Self::now(), 0);
        while same < 20 {
            tokio::time::sleep(PAUSE).await;
            let now = Self::now();
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        last
    }

    /// Waits until the process holds no more than that of anything.
    ///
    /// # Panics
    /// It holds more after [`PATIENCE`].
    pub async fn is_back(self) {
        let is_more = |now: Self| {
            now.descriptors > self.descriptors
                || now.mappings > self.mappings
                || now.threads > self.threads
                || now.pinned > self.pinned
        };
        let began = Instant::now();
        while is_more(Self::now()) {
            let now = Self::now();
            assert!(began.elapsed() < PATIENCE, "{self:?} became {now:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

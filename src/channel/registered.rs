//! The memory that this process has registered with devices, for rings and payloads.

use std::sync::atomic::{AtomicU64, Ordering};

static REGIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// The memory that this process has registered with devices, on behalf of all its agents; see
/// [`RegisteredMemory::now`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisteredMemory {
    /// Number of regions.
    pub regions: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl RegisteredMemory {
    /// The memory that is registered now.
    pub fn now() -> Self {
        Self {
            regions: REGIONS.load(Ordering::Relaxed),
            bytes: BYTES.load(Ordering::Relaxed),
        }
    }
}

/// Counts a region for as long as this lives.
#[derive(Debug)]
pub(super) struct CountedRegion {
    bytes: u64,
}

impl CountedRegion {
    pub(super) fn new(bytes: usize) -> Self {
        let bytes = bytes as u64;
        REGIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes }
    }
}

impl Drop for CountedRegion {
    fn drop(&mut self) {
        REGIONS.fetch_sub(1, Ordering::Relaxed);
        BYTES.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

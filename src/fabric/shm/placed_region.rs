//! Memory of the peer that this process has mapped, to be written in place.

use std::ptr::NonNull;
use std::sync::Arc;

use super::segment::Segment;
use crate::fabric::MemoryRegion;

/// Bytes of a region of the peer's. They are not registered here: their only use in a work request
/// is a WRITE to themselves.
#[derive(Debug)]
pub(super) struct PlacedRegion {
    first: NonNull<u8>,
    len: usize,
    /// Keeps the bytes mapped, whatever happens to the connection and the peer.
    _segment: Arc<Segment>,
}

impl PlacedRegion {
    /// The key of all such regions; no registered memory has it.
    pub(super) const KEY: u32 = 0;

    /// Wraps the `len` bytes of `segment` from `first` on.
    pub(super) fn new(segment: Arc<Segment>, first: NonNull<u8>, len: usize) -> Self {
        Self {
            first,
            len,
            _segment: segment,
        }
    }
}

// SAFETY: this is only an address; users of the memory keep to the contract of `MemoryRegion`.
unsafe impl Send for PlacedRegion {}
// SAFETY: as above.
unsafe impl Sync for PlacedRegion {}

// SAFETY: the `len` bytes from `first` on are part of the mapping, which is readable and writable,
// initialised by the kernel, and lives in `_segment`.
unsafe impl MemoryRegion for PlacedRegion {
    fn as_ptr(&self) -> NonNull<u8> {
        self.first
    }

    fn len(&self) -> usize {
        self.len
    }

    fn lkey(&self) -> u32 {
        Self::KEY
    }

    fn rkey(&self) -> u32 {
        Self::KEY
    }
}

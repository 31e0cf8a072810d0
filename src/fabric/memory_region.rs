//! Registered memory.

use std::any::Any;
use std::fmt;
use std::ops::{BitOr, Range};
use std::ptr::NonNull;

use super::shared_bytes::SharedBytes;

/// Memory that a device may read and write, and, with the right [`Access`], peers too.
///
/// Dropping the last handle deregisters the memory before it is freed (DROP-1): from then on its
/// keys are refused, locally and remotely.
///
/// Devices and peers use its bytes at any time, so no thread may hold a reference to them without
/// further knowledge. `copy_in` and `copy_out` may be called by any thread at any time: bytes that
/// change during a copy arrive as a mixture of old and new ones. A user of the raw pointer must
/// know that no thread of this process accesses those bytes meanwhile.
///
/// # Safety
/// [`as_ptr`](Self::as_ptr) must be valid for reads and writes of [`len`](Self::len) initialised
/// bytes while the region lives, and must not move. The implementation itself must access them only
/// by atomics, or by work requests: those move bytes as a device does, and the poster of one must
/// know that no thread of this process has a reference to bytes that it changes until it has
/// completed.
pub unsafe trait MemoryRegion: Any + Send + Sync + fmt::Debug {
    /// Address of the first byte.
    fn as_ptr(&self) -> NonNull<u8>;

    /// Length of the region in bytes; at least 1.
    fn len(&self) -> usize;

    /// Key for local use, in an [`Sge`](super::Sge).
    fn lkey(&self) -> u32;

    /// Key for peers, in a [`RemoteSlice`](super::RemoteSlice).
    fn rkey(&self) -> u32;

    /// Address of the first byte, as work requests name it.
    fn addr(&self) -> u64 {
        self.as_ptr().as_ptr() as u64
    }

    /// Always false: a region has at least one byte.
    fn is_empty(&self) -> bool {
        false
    }
}

/// A range that exceeds its region.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bytes {}..{} lie outside a region of {len} bytes", .range.start, .range.end)]
pub struct OutOfRange {
    /// The requested range, in bytes.
    pub range: Range<usize>,
    /// Length of the region in bytes.
    pub len: usize,
}

impl dyn MemoryRegion {
    /// Copies `bytes` into the region, from byte `offset` on.
    ///
    /// Threads of this process, peers and devices may read and write there at the same time; as
    /// with any DMA, the bytes are then a mixture.
    ///
    /// # Errors
    /// The range exceeds the region; nothing is written then.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfRange> {
        self.check(offset, bytes.len())?;
        self.shared_bytes().store(offset, bytes);
        Ok(())
    }

    /// Fills `bytes` with a copy of the region from byte `offset` on. Others may write there at the
    /// same time, as with `copy_in`.
    ///
    /// # Errors
    /// The range exceeds the region; nothing is read then.
    pub fn copy_out(&self, offset: usize, bytes: &mut [u8]) -> Result<(), OutOfRange> {
        self.check(offset, bytes.len())?;
        self.shared_bytes().load(offset, bytes);
        Ok(())
    }

    fn shared_bytes(&self) -> SharedBytes<'_> {
        // SAFETY: the trait's contract makes `len` bytes valid and initialised while `self` lives,
        // and obliges every other user of the bytes in this process to exclude concurrent copies.
        unsafe { SharedBytes::new(self.as_ptr(), self.len()) }
    }

    fn check(&self, offset: usize, len: usize) -> Result<(), OutOfRange> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len());
        end.map(drop).ok_or_else(|| OutOfRange {
            range: offset..offset.saturating_add(len),
            len: self.len(),
        })
    }
}

/// Access rights of a registration (`ibv_access_flags`). Local reading is always allowed.
///
/// ```
/// use slimerpc::fabric::Access;
/// let ring = Access::LOCAL_WRITE | Access::REMOTE_WRITE;
/// assert!(ring.contains(Access::REMOTE_WRITE) && !ring.contains(Access::REMOTE_READ));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access(u32);

impl Access {
    /// Allows local reads only.
    pub const LOCAL_READ: Self = Self(0);
    /// Allows this side's device to write here (needed for the target of a read).
    pub const LOCAL_WRITE: Self = Self(1);
    /// Allows peers to write here.
    pub const REMOTE_WRITE: Self = Self(2);
    /// Allows peers to read here.
    pub const REMOTE_READ: Self = Self(4);
    /// Allows everything above.
    pub const ALL: Self = Self(7);

    /// Returns whether every right in `other` is in `self`.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The rights as bits, as `ibv_access_flags` numbers them.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for Access {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread;

    use super::*;
    use crate::fabric::Device;
    use crate::fabric::heap::HeapDevice;

    /// Safe code cannot have a data race: Miri says so.
    #[test]
    fn threads_may_copy_to_and_from_the_same_bytes() {
        const LEN: usize = 61;
        let region = HeapDevice::default().register(LEN, Access::ALL).unwrap();
        let region = &*region;
        thread::scope(|scope| {
            for (number, offset) in [(1, 0), (2, 3), (3, 16)] {
                scope.spawn(move || {
                    let mut back = [0; LEN];
                    for _ in 0..20 {
                        region.copy_in(offset, &[number; 41]).unwrap();
                        region.copy_out(0, &mut back).unwrap();
                        assert!(back.iter().all(|byte| *byte <= 3), "{back:?}");
                    }
                });
            }
        });
    }

    #[test]
    fn what_leaves_the_region_is_refused_and_not_copied() {
        let region = HeapDevice::default().register(16, Access::ALL).unwrap();
        for (offset, len) in [(0, 17), (16, 1), (17, 0), (usize::MAX, 2), (usize::MAX, 0)] {
            let range = offset..offset.saturating_add(len);
            let refused = Err(OutOfRange { range, len: 16 });
            assert_eq!(region.copy_in(offset, &vec![1; len]), refused);
            assert_eq!(region.copy_out(offset, &mut vec![1; len]), refused);
        }
        region.copy_in(16, &[]).unwrap();
        let mut back = [1; 16];
        region.copy_out(0, &mut back).unwrap();
        assert_eq!(back, [0; 16]);
    }
}

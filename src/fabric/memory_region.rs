//! Registered memory.

use std::any::Any;
use std::fmt;
use std::ops::{BitOr, Range};
use std::ptr::NonNull;

/// Memory that a device may read and write, and, with the right [`Access`], peers too.
///
/// Dropping the last handle deregisters the memory before it is freed (DROP-1): from then on its keys are
/// refused, locally and remotely.
///
/// # Safety
/// [`as_ptr`](Self::as_ptr) must be valid for reads and writes of [`len`](Self::len) bytes while the
/// region lives, and must not move.
pub unsafe trait MemoryRegion: Any + Send + Sync + fmt::Debug {
    /// The first byte.
    fn as_ptr(&self) -> NonNull<u8>;

    /// Length in bytes; at least 1.
    fn len(&self) -> usize;

    /// Key for local use, in an [`Sge`](super::Sge).
    fn lkey(&self) -> u32;

    /// Key for peers, in a [`RemoteSlice`](super::RemoteSlice).
    fn rkey(&self) -> u32;

    /// Address of the first byte, as work requests name it.
    fn addr(&self) -> u64 {
        self.as_ptr().as_ptr() as u64
    }

    /// Never: a region has at least one byte.
    fn is_empty(&self) -> bool {
        false
    }
}

/// A range that leaves its region.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bytes {}..{} lie outside a region of {len} bytes", .range.start, .range.end)]
pub struct OutOfRange {
    /// The range asked for, in bytes.
    pub range: Range<usize>,
    /// Length of the region in bytes.
    pub len: usize,
}

impl dyn MemoryRegion {
    /// Copies `bytes` to `offset`.
    ///
    /// A peer may write there at the same time; as with any DMA the bytes are then a mixture.
    ///
    /// # Errors
    /// The range leaves the region; nothing is written then.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfRange> {
        let at = self.checked(offset, bytes.len())?;
        // SAFETY: `checked` keeps the range inside the region, which the trait's contract makes writable;
        // `bytes` is a Rust slice and the region is never lent as `&mut` to the caller of this function.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
        Ok(())
    }

    /// Copies from `offset` into `bytes`.
    ///
    /// # Errors
    /// The range leaves the region; nothing is read then.
    pub fn copy_out(&self, offset: usize, bytes: &mut [u8]) -> Result<(), OutOfRange> {
        let at = self.checked(offset, bytes.len())?;
        // SAFETY: as in `copy_in`, with the roles exchanged.
        unsafe { std::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn checked(&self, offset: usize, len: usize) -> Result<*mut u8, OutOfRange> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len());
        match end {
            // SAFETY: `offset <= end <= self.len()`, so the result stays inside the region (or one past it).
            Some(_) => Ok(unsafe { self.as_ptr().as_ptr().add(offset) }),
            None => Err(OutOfRange {
                range: offset..offset.saturating_add(len),
                len: self.len(),
            }),
        }
    }
}

/// Rights of a registration (`ibv_access_flags`). Local reading is always allowed.
///
/// ```
/// use slimerpc::fabric::Access;
/// let ring = Access::LOCAL_WRITE | Access::REMOTE_WRITE;
/// assert!(ring.contains(Access::REMOTE_WRITE) && !ring.contains(Access::REMOTE_READ));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access(u32);

impl Access {
    /// Local reads only.
    pub const LOCAL_READ: Self = Self(0);
    /// The device may write here for us (needed as the target of a read).
    pub const LOCAL_WRITE: Self = Self(1);
    /// A peer may write here.
    pub const REMOTE_WRITE: Self = Self(2);
    /// A peer may read here.
    pub const REMOTE_READ: Self = Self(4);
    /// Everything above.
    pub const ALL: Self = Self(7);

    /// Whether every right in `other` is in `self`.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits, as `ibv_access_flags` numbers them.
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

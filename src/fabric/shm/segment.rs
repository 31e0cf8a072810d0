//! Memory that two processes share: sealed memfds.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::receive_ring::{Doorbell, Entry, Posted};
use super::region::Validity;
use crate::fabric::limits::{check_file_size, is_memory_promised_strictly};

/// Seals the size, so that a mapping never faults, whatever the other process does.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// A whole memfd, mapped for reading and writing.
pub(super) struct Segment {
    map: MmapRaw,
}

impl Segment {
    /// Creates a memfd of `len` zero bytes and maps it.
    pub(super) fn create(name: &str, len: usize) -> io::Result<(OwnedFd, Self)> {
        static IS_TAKEN_AT_ONCE: LazyLock<bool> = LazyLock::new(is_memory_promised_strictly);
        Self::create_with(name, len, *IS_TAKEN_AT_ONCE)
    }

    /// Creates a memfd, and takes its memory `at_once` or as it is touched. The latter saves what
    /// is never used.
    fn create_with(name: &str, len: usize, at_once: bool) -> io::Result<(OwnedFd, Self)> {
        check_file_size(len as u64)?;
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        if at_once {
            let taken = rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, len as u64);
            // The kernel reports this as a full file system.
            taken.map_err(|error| match error {
                Errno::NOSPC => Errno::NOMEM,
                error => error,
            })?;
        }
        rustix::fs::fcntl_add_seals(&fd, SEALS)?;
        let segment = Self::map(&fd, len)?;
        Ok((fd, segment))
    }

    /// Maps a memfd that a peer handed over.
    pub(super) fn open(fd: &OwnedFd) -> io::Result<Self> {
        // Fails for everything that is not a memfd.
        if !rustix::fs::fcntl_get_seals(fd.as_fd())?.contains(SEALS) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the peer's memory is not sealed",
            ));
        }
        let len = usize::try_from(rustix::fs::fstat(fd)?.st_size).map_err(io::Error::other)?;
        Self::map(fd, len)
    }

    fn map(fd: &OwnedFd, len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw(fd.as_raw_fd())?;
        Ok(Self { map })
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// The byte at `offset`, which must not lie behind the end.
    #[inline]
    pub(super) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.len());
        // SAFETY: a mapping is never at address 0, and `offset` stays inside it (or one past it).
        unsafe { NonNull::new_unchecked(self.map.as_mut_ptr().add(offset)) }
    }

    /// The `count` values at `offset`; `None` if they do not fit or are not aligned.
    #[inline]
    pub(super) fn slice<T: Shared>(&self, offset: usize, count: usize) -> Option<&[T]> {
        let end = count.checked_mul(size_of::<T>())?.checked_add(offset)?;
        if end > self.len() || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: the range lies inside the mapping, which begins at a page and lives as long as
        // `self`; the offset is aligned; `T: Shared` accepts all bytes and any change of them.
        Some(unsafe { std::slice::from_raw_parts(self.at(offset).as_ptr().cast(), count) })
    }
}

/// Values in a segment, located once.
#[derive(Debug)]
pub(super) struct View<T> {
    values: NonNull<[T]>,
    /// Keeps the values mapped.
    segment: Arc<Segment>,
}

impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        Self {
            values: self.values,
            segment: self.segment.clone(),
        }
    }
}

impl<T: Shared> View<T> {
    /// Locates values as [`Segment::slice`] does.
    pub(super) fn of(segment: &Arc<Segment>, offset: usize, count: usize) -> Option<Self> {
        let values = NonNull::from(segment.slice(offset, count)?);
        Some(Self {
            values,
            segment: segment.clone(),
        })
    }
}

impl<T: Shared> Deref for View<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: made from a `&[T]` that `Segment::slice` gave, which is valid as long as the
        // segment, held here.
        unsafe { self.values.as_ref() }
    }
}

// SAFETY: it is a `&[T]` that brings its lifetime along.
unsafe impl<T: Shared + Sync> Send for View<T> {}
// SAFETY: as above.
unsafe impl<T: Shared + Sync> Sync for View<T> {}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({} bytes)", self.len())
    }
}

/// A type that may lie in memory which another process writes.
///
/// # Safety
/// Every bit pattern is a value, and it is made of atomics only, so that a change under a `&T` is
/// no data race.
pub(super) unsafe trait Shared {}

// SAFETY: an `AtomicU32`.
unsafe impl Shared for Posted {}
// SAFETY: `AtomicU32`s.
unsafe impl Shared for Entry {}
// SAFETY: an `AtomicU32`.
unsafe impl Shared for Doorbell {}
// SAFETY: an `AtomicU32`.
unsafe impl Shared for Validity {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_taken_when_it_is_touched_unless_that_may_fail_then() {
        const LEN: usize = 1 << 20;
        let taken = |at_once| {
            let (fd, _segment) = Segment::create_with("test", LEN, at_once).expect("a memfd");
            rustix::fs::fstat(&fd).expect("it is open").st_blocks * 512
        };
        assert_eq!((taken(false), taken(true)), (0, LEN as i64));
    }
}

//! Memory that two processes share: sealed memfds.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::SealFlags;
use rustix::param::page_size;

use super::arena::Lot;
use super::borrowed_lot::BorrowedLot;
use super::queue_page::QueuePage;
use super::receive_ring::Entry;
use super::receiver::RingHeader;
use super::region::Validity;

/// Seals the size, so that a mapping never faults, whatever the other process does.
pub(super) const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// A range of a memfd, mapped for reading and writing.
pub(super) struct Segment {
    // Unmapped before its lot is freed or given back.
    map: MmapRaw,
    _origin: Origin,
}

/// Where the memory of a segment is from.
enum Origin {
    /// A lot of this process.
    Own { _lot: Arc<Lot> },
    /// A lot of a peer, which is to be told when it is not mapped any more.
    Peer { _lot: Option<BorrowedLot> },
}

impl Segment {
    /// Maps the first `len` bytes of a lot, which is at least so long.
    pub(super) fn of(lot: &Arc<Lot>, len: usize) -> io::Result<Self> {
        let map = Self::map(lot.as_fd(), lot.offset(), len)?;
        let _lot = lot.clone();
        Ok(Self {
            map,
            _origin: Origin::Own { _lot },
        })
    }

    /// Maps a range of a memfd that a peer handed over, which is (part of) that lot.
    pub(super) fn open(
        fd: &OwnedFd,
        offset: u64,
        len: usize,
        lot: Option<BorrowedLot>,
    ) -> io::Result<Self> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        // Fails for everything that is not a memfd.
        if !rustix::fs::fcntl_get_seals(fd.as_fd())?.contains(SEALS) {
            return invalid("the peer's memory is not sealed");
        }
        // A hole in huge pages that the peer makes later need not be filled again: a mapping
        // faults.
        if rustix::fs::fstatfs(fd)?.f_type == libc::HUGETLBFS_MAGIC {
            return invalid("the peer's memory is of huge pages");
        }
        let size = u64::try_from(rustix::fs::fstat(fd)?.st_size).map_err(io::Error::other)?;
        let is_inside = offset
            .checked_add(len as u64)
            .is_some_and(|end| end <= size);
        if len == 0 || !is_inside || !offset.is_multiple_of(page_size() as u64) {
            return invalid("the peer's memory is not where it says");
        }
        let map = Self::map(fd.as_fd(), offset, len)?;
        Ok(Self {
            map,
            _origin: Origin::Peer { _lot: lot },
        })
    }

    fn map(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<MmapRaw> {
        MmapOptions::new()
            .offset(offset)
            .len(len)
            .map_raw(fd.as_raw_fd())
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

/// A value in a segment, or several, located once.
#[derive(Debug)]
pub(super) struct View<T: ?Sized> {
    values: NonNull<T>,
    /// Keeps the values mapped.
    segment: Arc<Segment>,
}

impl<T: ?Sized> Clone for View<T> {
    fn clone(&self) -> Self {
        Self {
            values: self.values,
            segment: self.segment.clone(),
        }
    }
}

impl<T: Shared> View<T> {
    /// Locates one value as [`Segment::slice`] does.
    pub(super) fn of(segment: &Arc<Segment>, offset: usize) -> Option<Self> {
        let value = segment.slice(offset, 1)?.first()?;
        Some(Self {
            values: NonNull::from(value),
            segment: segment.clone(),
        })
    }
}

impl<T: Shared> View<[T]> {
    /// Locates values as [`Segment::slice`] does.
    pub(super) fn of_many(segment: &Arc<Segment>, offset: usize, count: usize) -> Option<Self> {
        let values = NonNull::from(segment.slice(offset, count)?);
        Some(Self {
            values,
            segment: segment.clone(),
        })
    }
}

impl<T: ?Sized> Deref for View<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: made from values that `Segment::slice` gave, which are valid as long as the
        // segment, held here.
        unsafe { self.values.as_ref() }
    }
}

// SAFETY: it is a `&T` that brings its lifetime along.
unsafe impl<T: ?Sized + Sync> Send for View<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync> Sync for View<T> {}

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

// SAFETY: `AtomicU32`s.
unsafe impl Shared for RingHeader {}
// SAFETY: `AtomicU32`s.
unsafe impl Shared for Entry {}
// SAFETY: `AtomicU32`s and `AtomicU64`s.
unsafe impl Shared for QueuePage {}
// SAFETY: an `AtomicU32`.
unsafe impl Shared for Validity {}

//! Shared memory without a descriptor of its own: lots of a memfd that is larger than all of them
//! together.
//!
//! A lot is never handed out again, so that nobody else's bytes are where a peer takes it to be.
//! The file has room for every lot that there will ever be, as only memory that is in use takes
//! any.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::io::Errno;
use rustix::param::page_size;
use rustix::process::{Pid, Resource, getpid, getrlimit};

use super::message::LotAddress;
use super::segment::{SEALS, Segment};
use crate::fabric::limits::{check_file_size, is_memory_promised_strictly};

/// Size of a file in bytes, unless the process may not have such files. A million lots of a MiB a
/// second use it up in half a century.
const FILE: u64 = 1 << 60;

/// Hands out shared memory.
#[derive(Debug)]
pub(super) struct Arena {
    name: &'static str,
    /// Whether each lot gets a file of its own and takes its memory at once, which may be missing
    /// later.
    is_strict: bool,
    filling: Mutex<Option<Filling>>,
    is_closed: Arc<AtomicBool>,
}

/// The file that lots are taken from at present.
#[derive(Debug)]
struct Filling {
    file: Arc<OwnedFd>,
    next: u64,
    len: u64,
}

/// A range of an arena's file. Its memory goes back to the system with it, or with the file.
#[derive(Debug)]
pub(super) struct Lot {
    number: u64,
    file: Arc<OwnedFd>,
    offset: u64,
    len: u64,
    /// Whether its memory goes with the file.
    goes_with_file: Arc<AtomicBool>,
    /// The process that it belongs to.
    owner: Pid,
}

impl Arena {
    /// Makes an arena whose files have this name.
    pub(super) fn new(name: &'static str) -> Self {
        static IS_STRICT: LazyLock<bool> = LazyLock::new(is_memory_promised_strictly);
        Self::with(name, *IS_STRICT)
    }

    fn with(name: &'static str, is_strict: bool) -> Self {
        Self {
            name,
            is_strict,
            filling: Mutex::default(),
            is_closed: Arc::default(),
        }
    }

    /// Hands out `len` zero bytes, and maps them.
    pub(super) fn create(&self, len: usize) -> io::Result<(Arc<Lot>, Segment)> {
        check_file_size(len as u64)?;
        let lot = if self.is_strict {
            self.whole(len as u64)?
        } else {
            self.next(len as u64)?
        };
        let lot = Arc::new(lot);
        let segment = Segment::of(&lot, len)?;
        Ok((lot, segment))
    }

    /// Leaves the memory that is in use to those who have it mapped: it goes with the last of them.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    fn whole(&self, len: u64) -> io::Result<Lot> {
        let file = self.file(len)?;
        let taken = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len);
        // The kernel reports this as a full file system.
        taken.map_err(|error| match error {
            Errno::NOSPC => Errno::NOMEM,
            error => error,
        })?;
        Ok(Lot::new(Arc::new(file), 0, len, Arc::new(true.into())))
    }

    fn next(&self, len: u64) -> io::Result<Lot> {
        let page = page_size() as u64;
        // A page that belongs to no lot keeps the mappings of neighbours apart.
        let taken = len.checked_next_multiple_of(page);
        let taken = taken.and_then(|taken| taken.checked_add(page));
        let taken = taken.filter(|taken| *taken <= FILE).ok_or(Errno::NOMEM)?;
        // Nothing panics while it is held.
        let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = |filling: &Filling| filling.len - filling.next >= len;
        let filling = match filling.as_mut().filter(|filling| has_room(filling)) {
            Some(filling) => filling,
            None => {
                let most = getrlimit(Resource::Fsize).current.unwrap_or(FILE);
                let size = most.min(FILE);
                let file = Arc::new(self.file(size)?);
                let (next, len) = (0, size);
                filling.insert(Filling { file, next, len })
            }
        };
        let offset = filling.next;
        filling.next = filling.len.min(offset + taken);
        let file = filling.file.clone();
        Ok(Lot::new(file, offset, len, self.is_closed.clone()))
    }

    fn file(&self, len: u64) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(self.name, flags)?;
        rustix::fs::ftruncate(&file, len)?;
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
        Ok(file)
    }
}

impl Lot {
    fn new(file: Arc<OwnedFd>, offset: u64, len: u64, goes_with_file: Arc<AtomicBool>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            file,
            offset,
            len,
            goes_with_file,
            owner: getpid(),
        }
    }

    /// Where a peer finds it, in the file whose descriptor comes along.
    pub(super) fn address(&self) -> LotAddress {
        LotAddress {
            lot: self.number,
            offset: self.offset,
        }
    }

    /// Number of the lot, which no other lot of the process has.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}

impl AsFd for Lot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Lot {
    fn drop(&mut self) {
        // A child of `fork` shares the memory, and has no right to end what its parent uses.
        if !self.goes_with_file.load(Ordering::Relaxed) && self.owner == getpid() {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // The system takes back whole pages only, and the rest of the last one is nobody's.
            let len = self.len.next_multiple_of(page_size() as u64);
            // Where a policy forbids the call, the memory goes with the file.
            let _ = rustix::fs::fallocate(&*self.file, flags, self.offset, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::WaitOptions;

    use super::*;

    const LEN: usize = 1 << 20;

    fn taken(lot: &Lot) -> i64 {
        rustix::fs::fstat(lot).expect("it is open").st_blocks * 512
    }

    fn write(segment: &Segment, byte: u8) {
        // SAFETY: the mapping is `len` bytes long and nobody has a reference to them.
        unsafe { segment.at(0).as_ptr().write_bytes(byte, segment.len()) };
    }

    fn first(segment: &Segment) -> u8 {
        // SAFETY: as in `write`.
        unsafe { segment.at(0).as_ptr().read_volatile() }
    }

    #[test]
    fn memory_is_taken_when_it_is_touched_unless_that_may_fail_then() {
        let taken = |is_strict| {
            let arena = Arena::with("test", is_strict);
            let (lot, _segment) = arena.create(LEN).expect("a lot");
            taken(&lot)
        };
        assert_eq!((taken(false), taken(true)), (0, LEN as i64));
    }

    #[test]
    fn lots_share_a_descriptor_and_no_byte() {
        let arena = Arena::with("test", false);
        let lots = [1, 4096, 4097, LEN].map(|len| arena.create(len).expect("a lot"));
        for (at, (lot, segment)) in lots.iter().enumerate() {
            assert!(Arc::ptr_eq(&lot.file, &lots[0].0.file));
            write(segment, at as u8 + 1);
        }
        for (at, (_, segment)) in lots.iter().enumerate() {
            assert_eq!(first(segment), at as u8 + 1);
        }
    }

    #[test]
    fn memory_goes_back_with_its_lot_and_no_other_gets_it() {
        let arena = Arena::with("test", false);
        let (kept, _segment) = arena.create(1).expect("a lot");
        let open = |lot: &Lot| {
            let theirs = lot.as_fd().try_clone_to_owned().expect("a descriptor");
            Segment::open(&theirs, lot.offset(), LEN, None).expect("it can be mapped")
        };
        let (lot, segment) = arena.create(LEN).expect("a lot");
        write(&segment, 1);
        let late = open(&lot);
        drop(lot);
        assert_eq!(taken(&kept), LEN as i64, "it is mapped");
        drop(segment);
        assert_eq!(taken(&kept), 0);
        // A peer that has no right to it any more reaches nobody else's.
        write(&late, 2);
        let (lot, segment) = arena.create(LEN).expect("a lot");
        assert_eq!(first(&segment), 0);
        // What peers have mapped outlives the arena.
        write(&segment, 3);
        let theirs = open(&lot);
        arena.close();
        drop((arena, lot, segment));
        assert_eq!(first(&theirs), 3);
    }

    #[test]
    fn a_forked_child_takes_no_memory_from_its_parent() {
        let arena = Arena::with("test", false);
        let (lot, segment) = arena.create(LEN).expect("a lot");
        write(&segment, 1);
        // SAFETY: the child frees memory and ends; the C library lets it do that after a fork of a
        // process with several threads.
        match unsafe { libc::fork() } {
            0 => {
                drop((lot, segment));
                // SAFETY: it ends the process.
                unsafe { libc::_exit(0) }
            }
            child => {
                let child = Pid::from_raw(child).expect("a child");
                let ended = rustix::process::waitpid(Some(child), WaitOptions::empty());
                assert!(ended.expect("it is a child").is_some());
            }
        }
        assert_eq!((taken(&lot), first(&segment)), (LEN as i64, 1));
    }

    #[test]
    fn memory_of_every_length_goes_back() {
        let arena = Arena::with("test", false);
        let (kept, _segment) = arena.create(1).expect("a lot");
        for len in [1, 128, 4095, 4096, 4097, LEN + 1] {
            let (lot, segment) = arena.create(len).expect("a lot");
            write(&segment, 1);
            assert!(taken(&kept) >= len as i64);
            drop((lot, segment));
            assert_eq!(taken(&kept), 0, "of {len} bytes");
        }
    }

    #[test]
    fn what_is_too_long_for_any_file_is_refused() {
        let arena = Arena::with("test", false);
        for len in [usize::MAX, usize::MAX - 4096, 1 << 62] {
            arena
                .create(len)
                .expect_err("there is no such address space");
        }
        arena.create(LEN).expect("it works as before");
    }
}

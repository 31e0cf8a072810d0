//! Two cache lines that two processes share: how fast they can say anything to each other at all.

use std::fs::File;
use std::hint::spin_loop;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use memmap2::MmapRaw;
use rustix::fs::{MemfdFlags, memfd_create};

use super::{PATIENCE, Result};

/// Of 64 bytes, and its neighbour, which processors like to fetch with it.
#[repr(C, align(128))]
struct Line([AtomicU64; 8]);

/// A line for each direction.
pub(crate) struct SharedLines {
    map: MmapRaw,
    file: File,
    is_creator: bool,
    /// Messages so far, each way.
    turn: u64,
}

impl SharedLines {
    pub(crate) fn create() -> Result<Self> {
        let file = File::from(memfd_create("slimerpc-bench", MemfdFlags::CLOEXEC)?);
        file.set_len(size_of::<[Line; 2]>() as u64)?;
        Ok(Self::map(file, true)?)
    }

    /// Those that another process has created.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        if file.metadata()?.len() < size_of::<[Line; 2]>() as u64 {
            return Err(format!("{} is too short", path.display()).into());
        }
        Ok(Self::map(file, false)?)
    }

    fn map(file: File, is_creator: bool) -> io::Result<Self> {
        Ok(Self {
            map: MmapRaw::map_raw(&file)?,
            file,
            is_creator,
            turn: 0,
        })
    }

    /// Where another process of the same user finds them while we live.
    pub(crate) fn path(&self) -> PathBuf {
        let (process, fd) = (std::process::id(), self.file.as_raw_fd());
        format!("/proc/{process}/fd/{fd}").into()
    }

    fn lines(&self) -> &[Line; 2] {
        // SAFETY: the mapping is page aligned, at least as long as two lines (`create` and `open`
        // see to that, and nobody shortens the file), writable, and lives as long as `self`. Any
        // bits are an `AtomicU64`, and both processes access the memory only through these.
        unsafe { &*self.map.as_mut_ptr().cast::<[Line; 2]>() }
    }

    /// Says 64 bytes: the number of the message, and `word` seven times.
    pub(crate) fn send(&mut self, word: u64) {
        // The creator begins each turn.
        if self.is_creator {
            self.turn += 1;
        }
        let Line([number, words @ ..]) = &self.lines()[usize::from(self.is_creator)];
        for each in words {
            each.store(word, Ordering::Relaxed);
        }
        number.store(self.turn, Ordering::Release);
    }

    /// Spins until the other has said its next message.
    pub(crate) fn receive(&mut self) -> Result<u64> {
        if !self.is_creator {
            self.turn += 1;
        }
        let Line([number, words @ ..]) = &self.lines()[usize::from(!self.is_creator)];
        let mut spins = 0_u32;
        let mut since = None;
        while number.load(Ordering::Acquire) != self.turn {
            spin_loop();
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(1 << 20)
                && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
            {
                return Err(format!("the other process has said nothing for {PATIENCE:?}").into());
            }
        }
        Ok(words
            .iter()
            .fold(0, |word, each| word | each.load(Ordering::Relaxed)))
    }
}

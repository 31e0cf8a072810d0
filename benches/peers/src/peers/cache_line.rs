//! The machine's floor: two processes that share memory and spin, each on the line that the other
//! writes.

use std::fs::File;
use std::hint;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::MmapRaw;
use rustix::fs::{MemfdFlags, memfd_create};

use super::Peer;
use crate::child::{self, Child};
use crate::measure::{self, Echo, Job, Missing, Window};
use crate::support::Result;
use crate::table::Report;

pub(super) const PEER: Peer = Peer {
    name: "cache-line",
    bytes: "no codec; copied once each way, the reply is left where it is; a message's first 8 bytes say that it is there; both spin",
    serve: Some(serve),
    measure,
};

/// Bytes of a message that say its number and length.
const HEAD: usize = 8;
/// Each side's message begins on a page of its own, so no line is shared and none is fetched along.
const PAGE: usize = 4096;
/// Without an answer for so long the other process is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Looks at a line between two at the clock.
const SPINS: u32 = 1 << 20;

/// Both messages, mapped by both.
struct Pair {
    map: MmapRaw,
    /// Bytes of one side.
    side: usize,
    /// Which side is ours.
    ours: usize,
    number: u32,
}

impl Pair {
    fn new(file: &File, ours: usize) -> Result<Self> {
        let map = MmapRaw::map_raw(file)?;
        let side = map.len() / 2;
        Ok(Self {
            map,
            side,
            ours,
            number: 0,
        })
    }

    fn head(&self, side: usize) -> &AtomicU64 {
        // SAFETY: a side begins on a page within the mapping, so the word is aligned and mapped for
        // as long as `self` is, and it is only ever accessed as an atomic, by both processes.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(side * self.side).cast()) }
    }

    fn payload(&self, side: usize) -> *mut u8 {
        // SAFETY: stays within the mapping, of which `side` is 0 or 1 halves.
        unsafe { self.map.as_mut_ptr().add(side * self.side + HEAD) }
    }

    /// Copies the bytes into our message and says that it is there.
    ///
    /// # Safety
    /// `bytes` are valid for reads of `length`, and none of them is ours to write.
    unsafe fn send(&mut self, bytes: *const u8, length: usize) {
        assert!(length <= self.side - HEAD, "a message fits its side");
        // SAFETY: the other process reads our side only between our word and its own, and it has
        // answered our last one.
        unsafe { std::ptr::copy_nonoverlapping(bytes, self.payload(self.ours), length) };
        self.number = self.number.wrapping_add(1);
        let word = u64::from(self.number) << 32 | length as u64;
        self.head(self.ours).store(word, Ordering::Release);
    }

    /// Waits for the message with that number; gives its length.
    fn receive(&self, number: u32, patience: Option<Duration>) -> Result<usize> {
        let head = self.head(1 - self.ours);
        let began = Instant::now();
        loop {
            for _ in 0..SPINS {
                let word = head.load(Ordering::Acquire);
                if (word >> 32) as u32 == number {
                    return Ok((word & u64::from(u32::MAX)) as usize);
                }
                hint::spin_loop();
            }
            if patience.is_some_and(|patience| began.elapsed() > patience) {
                return Err("the other process does not answer".into());
            }
        }
    }
}

impl Echo for Pair {
    const HEAD: usize = HEAD;

    fn echo(&mut self, request: &[u8]) -> Result<impl AsRef<[u8]>> {
        // SAFETY: a slice of ours, outside of the mapping.
        unsafe { self.send(request.as_ptr(), request.len()) };
        let length = self.receive(self.number, Some(PATIENCE))?;
        if length > self.side - HEAD {
            return Err("a reply is longer than its side".into());
        }
        // SAFETY: within the mapping, and the other process writes there only after our next
        // message, for which `self` must not be borrowed any more.
        Ok(unsafe { std::slice::from_raw_parts(self.payload(1 - self.ours), length) })
    }

    fn many(&mut self, _request: &[u8], _window: &mut Window) -> Result<()> {
        Err(Missing("a line holds one message".to_owned()).into())
    }
}

fn serve(at: &str) -> Result<()> {
    let file = File::options().read(true).write(true).open(at)?;
    let mut pair = Pair::new(&file, 1)?;
    child::ready();
    loop {
        // The parent may rest; this process ends with it.
        let length = pair.receive(pair.number.wrapping_add(1), None)?;
        let request = pair.payload(0);
        // SAFETY: the parent's side is not ours, and it has checked the length; it writes there
        // again once we answered.
        unsafe { pair.send(request, length) };
    }
}

fn measure(job: &Job, report: &mut Report) -> Result<()> {
    let file = File::from(memfd_create("slimerpc-bench-lines", MemfdFlags::CLOEXEC)?);
    let side = job.largest().next_multiple_of(PAGE);
    file.set_len(2 * side as u64)?;
    let at = format!("/proc/{}/fd/{}", std::process::id(), {
        use std::os::fd::AsRawFd as _;
        file.as_raw_fd()
    });
    let mut child = Child::serving(PEER.name, &at, job.limit())?;
    child.line()?;
    measure::all(job, &mut Pair::new(&file, 0)?, report)
}

//! What a process takes, as its kernel has it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::param::page_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Name of the memory that the shared memory fabric registers.
const REGION: &str = "/memfd:slimerpc-region";

/// In bytes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Footprint {
    /// Registered by this process: what devices have pinned for it (`VmPin`), and its regions of
    /// shared memory, of which a page each is for their validity.
    pub(crate) registered: u64,
    /// Those pages.
    pub(crate) validity: u64,
    /// In memory (`VmRSS`), what it only maps of its peers included.
    pub(crate) resident: u64,
}

impl Footprint {
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let (regions, bytes) = regions()?;
        Ok(Self {
            registered: kib(&status, "VmPin:") * 1024 + bytes,
            validity: regions * page_size() as u64,
            resident: kib(&status, "VmRSS:") * 1024,
        })
    }

    /// What each of `count` things took that are here now and were not `before`.
    pub(crate) fn each(self, before: Self, count: usize) -> Self {
        let each = |now: u64, before: u64| now.saturating_sub(before) / count.max(1) as u64;
        Self {
            registered: each(self.registered, before.registered),
            validity: each(self.validity, before.validity),
            resident: each(self.resident, before.resident),
        }
    }
}

/// The field of that name in a `/proc/PID/status`.
fn kib(status: &str, name: &str) -> u64 {
    let field = status.lines().find_map(|line| line.strip_prefix(name));
    let number = field.and_then(|field| field.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// How many there are, and their bytes. Those of peers are mapped too, but only the files of our
/// own are open.
fn regions() -> io::Result<(u64, u64)> {
    let mut own = HashSet::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        // The descriptor by which the directory is read is gone by now.
        if fs::read_link(&path).is_ok_and(|target| target.to_string_lossy().starts_with(REGION)) {
            own.insert(fs::metadata(&path)?.ino().to_string());
        }
    }
    // A peer in this process maps the same ranges.
    let mut ranges = HashMap::new();
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let [addresses, _, offset, _, inode, ..] = words[..]
            && own.contains(inode)
            && let Some((from, to)) = addresses.split_once('-')
        {
            let address = |text| u64::from_str_radix(text, 16).unwrap_or(0);
            ranges.insert(
                (inode.to_owned(), offset.to_owned()),
                address(to) - address(from),
            );
        }
    }
    Ok((ranges.len() as u64, ranges.values().sum()))
}

/// Lets this process, and those that it starts, have as many files open as they may have at all.
pub(crate) fn allow_many_files() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

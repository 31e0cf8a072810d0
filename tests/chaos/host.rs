//! What processes hold of their host, and what is there of those that have died.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What a living process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessUsage {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// Resident memory of its own: of rings, more is resident the longer they are in use.
    pub(crate) kib: usize,
    /// Shared memory that is mapped, in KiB: rings, its own and those of its peers.
    pub(crate) rings: usize,
}

impl ProcessUsage {
    pub(crate) fn by(pid: u32) -> Self {
        let count =
            |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = resident.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            kib: kib.unwrap_or(0),
            rings: mapped(pid) >> 10,
        }
    }

    /// It, and so many times another.
    pub(crate) fn and(self, other: Self, times: usize) -> Self {
        Self {
            descriptors: self.descriptors + other.descriptors * times,
            threads: self.threads + other.threads * times,
            kib: self.kib + other.kib * times,
            rings: self.rings + other.rings * times,
        }
    }

    /// Whether it is no more than `before`, but for `slack` of each, and as many MiB.
    pub(crate) fn is_within(&self, before: &Self, slack: usize) -> bool {
        self.holds_no_more(before, slack) && self.kib <= before.kib + slack * 1024
    }

    /// The same without resident memory, of which an allocator keeps some.
    pub(crate) fn holds_no_more(&self, before: &Self, slack: usize) -> bool {
        self.descriptors <= before.descriptors + slack
            && self.threads <= before.threads + slack
            && self.rings <= before.rings + slack * 1024
    }
}

/// Bytes of shared memory that a process has mapped.
fn mapped(pid: u32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let regions = maps
        .lines()
        .filter(|line| line.contains("/memfd:slimerpc-"));
    let length = |line: &str| {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        address(to)?.checked_sub(address(from)?)
    };
    regions.filter_map(length).sum()
}

/// Inodes of a process's unix sockets.
pub(crate) fn sockets_of(pid: u32) -> BTreeSet<u64> {
    let held: BTreeSet<u64> = descriptors_of(pid)
        .iter()
        .filter_map(|name| {
            name.strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
        .collect();
    unix_sockets().intersection(&held).copied().collect()
}

/// Inodes of all unix sockets of the host.
pub(crate) fn unix_sockets() -> BTreeSet<u64> {
    let list = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let inode = |line: &str| line.split_whitespace().nth(6)?.parse().ok();
    list.lines().skip(1).filter_map(inode).collect()
}

fn descriptors_of(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}

/// Names in a directory.
pub(crate) fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

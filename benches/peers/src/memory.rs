//! Whether there is memory enough.

use std::fs;

use crate::measure::Missing;

/// Copies of a message that may exist at once, counting generously: buffers of both processes and
/// of sockets between.
const COPIES: u64 = 16;

/// # Errors
/// Messages of `size` bytes, so many under way, need more than is free.
pub(crate) fn check(size: usize, inflight: usize) -> Result<(), Missing> {
    let needed = size as u64 * inflight as u64 * COPIES;
    match available() {
        Some(bytes) if bytes < needed => Err(Missing(format!(
            "needs about {} MiB of memory, {} are available",
            needed >> 20,
            bytes >> 20
        ))),
        _ => Ok(()),
    }
}

fn available() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

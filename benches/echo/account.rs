//! What a process has used up to now.

use std::fs;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::ALLOCATOR;
use crate::support::Result;
use crate::support::footprint::Footprint;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Account {
    /// Seconds of processor time.
    pub(crate) cpu: f64,
    /// Allocations and reallocations on the heap.
    pub(crate) allocations: u64,
    /// Context switches of the threads that live, because they waited for something.
    pub(crate) voluntary: u64,
    /// Because the processor was wanted by others.
    pub(crate) involuntary: u64,
    pub(crate) footprint: Footprint,
}

impl Account {
    pub(crate) fn of_this_process() -> Result<Self> {
        let heap = ALLOCATOR.stats();
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let (mut voluntary, mut involuntary) = (0, 0);
        for task in fs::read_dir("/proc/self/task")? {
            // A thread may have ended meanwhile.
            let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
            voluntary += number(&status, "voluntary_ctxt_switches:");
            involuntary += number(&status, "nonvoluntary_ctxt_switches:");
        }
        Ok(Self {
            cpu: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            allocations: (heap.allocations + heap.reallocations) as u64,
            voluntary,
            involuntary,
            footprint: Footprint::of_this_process()?,
        })
    }

    /// Share of a core since `before`, in percent.
    pub(crate) fn cpu_percent(&self, before: &Self, seconds: f64) -> f64 {
        100.0 * (self.cpu - before.cpu) / seconds
    }
}

/// The field of that name in a status of the kernel's.
fn number(status: &str, name: &str) -> u64 {
    let field = status.lines().find_map(|line| line.strip_prefix(name));
    field
        .and_then(|field| field.trim().parse().ok())
        .unwrap_or(0)
}

//! Whether the machine is quiet enough for figures that mean something.

use std::fs;
use std::thread;

/// What to say if it is not: who polls takes turns with other programs then, some milliseconds
/// each.
pub(crate) fn note() -> Option<String> {
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = load.split_whitespace().next()?.parse().ok()?;
    let cores = thread::available_parallelism().ok()?.get();
    (load > 0.5 && load + 2.0 > cores as f64).then(|| {
        format!(
            "note: the load is {load} on {cores} cores; slimerpc, cache-line and dlslime poll at both ends, and need two \
             cores that are idle: what they take beside other programs is the scheduler's time"
        )
    })
}

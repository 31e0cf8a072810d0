//! The types by which threads and processes share memory: the standard ones, or loom's when it
//! explores interleavings.

#[cfg(slime_loom)]
pub(super) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};
#[cfg(not(slime_loom))]
pub(super) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};

/// Lets other threads run, after so many `looks` for something.
#[cfg(not(slime_loom))]
pub(super) fn pause(looks: &mut u32) {
    const SHORT: u32 = 100;
    *looks += 1;
    match looks.checked_sub(SHORT) {
        None => std::thread::yield_now(),
        // Ever longer, up to 1.6 ms.
        Some(sleeps) => std::thread::sleep(std::time::Duration::from_micros(50 << sleeps.min(5))),
    }
}

/// Lets other threads run.
#[cfg(slime_loom)]
pub(super) fn pause(_: &mut u32) {
    loom::thread::yield_now();
}

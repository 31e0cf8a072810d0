//! What threads and processes share memory by: the standard types, or loom's when it explores interleavings.

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

/// Lets others go on who have been waited for so many `looks`.
#[cfg(not(slime_loom))]
pub(super) fn pause(looks: &mut u32) {
    const SHORT: u32 = 100;
    *looks += 1;
    if *looks < SHORT {
        std::thread::yield_now();
    } else {
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
}

/// Lets others go on.
#[cfg(slime_loom)]
pub(super) fn pause(_: &mut u32) {
    loom::thread::yield_now();
}

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

/// Uses what a lock guards, for a moment; `is_used` is true while a thread does.
#[cfg(all(test, slime_loom))]
pub(super) fn use_alone(is_used: &AtomicBool) {
    assert!(!is_used.load(Ordering::Relaxed), "two are inside");
    is_used.store(true, Ordering::Relaxed);
    loom::thread::yield_now();
    is_used.store(false, Ordering::Relaxed);
}

/// Counts in what a lock guards; both numbers are equal unless another thread is inside. Now and
/// then others get a chance to come in.
#[cfg(all(test, not(slime_loom)))]
pub(super) fn add_alone(value: &mut (u64, u64)) {
    assert_eq!(value.0, value.1, "two are inside");
    value.0 += 1;
    match value.0 % 64 {
        0 => std::thread::yield_now(),
        _ => _ = std::hint::black_box(&mut *value),
    }
    value.1 += 1;
}

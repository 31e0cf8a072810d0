//! The atomics of shared memory: the standard ones, or loom's when it explores interleavings.

#[cfg(slime_loom)]
pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(slime_loom))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

//! Fences of which one side pays for both: a store before a load, on either side of a decision that two sides take.
//!
//! The side that is often there uses [`light`], which costs nothing; the one that is seldom there uses [`heavy`], a system
//! call that fences all threads of this process. A kernel without `membarrier`, or one that forbids it, gets an ordinary
//! fence on both sides; so does loom.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, compiler_fence};
use std::time::Duration;

use super::sync::{Ordering, fence};

/// Whether the kernel fences this process when it is asked to.
static IS_ASYMMETRIC: AtomicBool = AtomicBool::new(false);
/// Longer than any store takes to become visible.
const SETTLED: Duration = Duration::from_millis(1);

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call reads and writes no memory of ours.
    let status = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    status == 0
}

/// To be called before anything else here: asks the kernel for what it can do.
pub(super) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Loom knows of fences alone.
        let is_registered = !cfg!(slime_loom)
            && membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
            && membarrier(libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED);
        IS_ASYMMETRIC.store(is_registered, Ordering::Relaxed);
    });
}

/// Whether [`everywhere`] also fences this process.
#[inline]
pub(super) fn is_asymmetric() -> bool {
    IS_ASYMMETRIC.load(Ordering::Relaxed)
}

/// Pairs with [`heavy`].
#[inline]
pub(super) fn light() {
    light_if(is_asymmetric());
}

/// Pairs with a fence of another side. With `is_fenced`, that side fences this thread as well.
#[inline]
pub(super) fn light_if(is_fenced: bool) {
    if is_fenced {
        compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// Pairs with [`light`] of every thread of this process.
pub(super) fn heavy() {
    if is_asymmetric() && !membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
        settle();
    }
    fence(Ordering::SeqCst);
}

/// Fences all processes that have registered. `false`: that is not possible.
pub(super) fn everywhere() -> bool {
    is_asymmetric() && membarrier(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED)
}

/// The kernel forbids since a moment ago what it could do before: from now on everybody fences. Returns when nobody can
/// be in between any more.
#[cold]
pub(super) fn settle() {
    IS_ASYMMETRIC.store(false, Ordering::SeqCst);
    std::thread::sleep(SETTLED);
}

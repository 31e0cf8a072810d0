//! Asymmetric fences between a store and a later load, for a decision that two sides take: each
//! side stores its intent, fences, and then loads the other's. Without a fence on both sides, both
//! could miss each other.
//!
//! The frequent side uses [`light`], which costs nothing; the rare side uses [`heavy`], a system
//! call (`membarrier`) that fences all threads of this process at whatever point they are, and
//! thereby pays for both. If the kernel has no `membarrier`, or forbids it, both sides use an
//! ordinary fence.
//!
//! Loom has no `membarrier`. There, both sides update one variable instead: of two that do, the
//! second sees what the first has stored before. An ordinary fence does not pair with that, so a
//! `membarrier` that is left out is a lost store there as it is here.

use std::sync::Once;
use std::sync::atomic::AtomicBool;
#[cfg(not(slime_loom))]
use std::sync::atomic::compiler_fence;
use std::time::Duration;

#[cfg(slime_loom)]
use self::model::{compiler_fence, membarrier};
use super::sync::{Ordering, fence};

/// Whether `membarrier` is available to this process.
static IS_ASYMMETRIC: AtomicBool = AtomicBool::new(false);
/// Longer than any store takes to become visible.
const SETTLED: Duration = Duration::from_millis(1);

#[cfg(not(slime_loom))]
fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call reads and writes no memory of ours.
    let status = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    status == 0
}

/// Asks the kernel whether it has `membarrier`. Must run before anything else here.
pub(super) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let is_registered = membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
            && membarrier(libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED);
        IS_ASYMMETRIC.store(is_registered, Ordering::Relaxed);
    });
}

/// Returns whether [`everywhere`] also fences this process.
#[inline]
pub(super) fn is_asymmetric() -> bool {
    cfg!(slime_loom) || IS_ASYMMETRIC.load(Ordering::Relaxed)
}

/// The fence of the frequent side. Pairs with [`heavy`].
#[inline]
pub(super) fn light() {
    light_if(is_asymmetric());
}

/// The frequent side's fence towards another process; `is_fenced` says that the other side's fence
/// includes this process, so that none is needed here.
#[inline]
pub(super) fn light_if(is_fenced: bool) {
    if is_fenced {
        compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// The fence of the rare side. Pairs with [`light`] of every thread of this process.
pub(super) fn heavy() {
    if is_asymmetric() && !membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
        settle();
    }
    fence(Ordering::SeqCst);
}

/// Fences all processes that have registered. Returns `false` if that is not possible.
pub(super) fn everywhere() -> bool {
    is_asymmetric() && membarrier(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED)
}

/// Handles a kernel that has begun to refuse `membarrier`: from now on both sides use ordinary
/// fences. Returns when no thread can still be between a store and a load that rely on the old way.
#[cold]
pub(super) fn settle() {
    IS_ASYMMETRIC.store(false, Ordering::SeqCst);
    std::thread::sleep(SETTLED);
}

/// The fences of both sides under loom.
#[cfg(slime_loom)]
mod model {
    use loom::sync::atomic::{AtomicU32, Ordering};

    loom::lazy_static! {
        static ref BOTH_SIDES: AtomicU32 = AtomicU32::new(0);
    }

    pub(super) fn compiler_fence(_: Ordering) {
        BOTH_SIDES.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn membarrier(_: libc::c_int) -> bool {
        BOTH_SIDES.fetch_add(1, Ordering::AcqRel);
        true
    }
}

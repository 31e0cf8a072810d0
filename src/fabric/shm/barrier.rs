//! Fences of which one side pays for both: a store before a load, on either side of a decision that two sides take.
//!
//! The side that is often there uses [`light`], which costs nothing; the one that is seldom there uses [`heavy`], a system
//! call that fences all threads of this process. A kernel without `membarrier`, or one that forbids it, gets an ordinary
//! fence on both sides.

#[cfg(not(slime_loom))]
pub(super) use with_membarrier::{everywhere, heavy, is_asymmetric, light, register, settle};
#[cfg(slime_loom)]
pub(super) use without::{everywhere, heavy, is_asymmetric, light, register, settle};

#[cfg(not(slime_loom))]
mod with_membarrier {
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};
    use std::time::Duration;

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
    pub(in super::super) fn register() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let is_registered = membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
                && membarrier(libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED);
            IS_ASYMMETRIC.store(is_registered, Ordering::Relaxed);
        });
    }

    /// Whether [`everywhere`] also fences this process.
    #[inline]
    pub(in super::super) fn is_asymmetric() -> bool {
        IS_ASYMMETRIC.load(Ordering::Relaxed)
    }

    /// Pairs with [`heavy`].
    #[inline]
    pub(in super::super) fn light() {
        if is_asymmetric() {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// Pairs with [`light`] of every thread of this process.
    pub(in super::super) fn heavy() {
        if is_asymmetric() && !membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
            settle();
        }
        fence(Ordering::SeqCst);
    }

    /// Fences all processes that have registered. `false`: that is not possible.
    pub(in super::super) fn everywhere() -> bool {
        is_asymmetric() && membarrier(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED)
    }

    /// The kernel forbids since a moment ago what it could do before: from now on everybody fences. Returns when nobody can
    /// be in between any more.
    #[cold]
    pub(in super::super) fn settle() {
        IS_ASYMMETRIC.store(false, Ordering::SeqCst);
        std::thread::sleep(SETTLED);
    }
}

#[cfg(slime_loom)]
mod without {
    use loom::sync::atomic::{Ordering, fence};

    pub(in super::super) fn register() {}

    pub(in super::super) fn is_asymmetric() -> bool {
        false
    }

    pub(in super::super) fn light() {
        fence(Ordering::SeqCst);
    }

    pub(in super::super) fn heavy() {
        fence(Ordering::SeqCst);
    }

    pub(in super::super) fn everywhere() -> bool {
        false
    }

    pub(in super::super) fn settle() {}
}

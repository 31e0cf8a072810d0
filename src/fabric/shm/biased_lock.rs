//! A lock that its owner takes and releases by plain stores, at the expense of all others.

use std::cell::UnsafeCell;
use std::fmt;

use super::barrier;
use super::spin_lock::{Clear, LockGuard};
use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering, pause};

/// A lock that is cheap for its owner; see [`lock_as_owner`](Self::lock_as_owner).
pub(super) struct BiasedLock<T> {
    is_owner_in: AtomicBool,
    /// Another thread is inside, or about to be.
    is_wanted: AtomicBool,
    others: Mutex<()>,
    value: UnsafeCell<T>,
}

// SAFETY: a guard is the only way to the value, and there is one at a time.
unsafe impl<T: Send> Sync for BiasedLock<T> {}

/// Exclusive access to the value of a [`BiasedLock`]: its flag is cleared, then the mutex is
/// released that every guard but the owner's holds.
pub(super) type Guard<'a, T> = LockGuard<'a, T, (Clear<'a>, Option<MutexGuard<'a, ()>>)>;

impl<T> BiasedLock<T> {
    pub(super) fn new(value: T) -> Self {
        Self {
            is_owner_in: AtomicBool::new(false),
            is_wanted: AtomicBool::new(false),
            others: Mutex::new(()),
            value: UnsafeCell::new(value),
        }
    }

    /// Locks it for its owner.
    ///
    /// # Safety
    /// Only one thread at a time may call this, and it must have no guard of this lock.
    #[inline]
    pub(super) unsafe fn lock_as_owner(&self) -> Guard<'_, T> {
        self.is_owner_in.store(true, Ordering::Relaxed);
        // Either this load sees that another thread wants the lock, or that thread sees that the
        // owner is inside.
        barrier::light();
        if self.is_wanted.load(Ordering::Acquire) {
            self.wait_for_others();
        }
        // SAFETY: no other thread is inside, and none comes in while the flag is set; the owner has
        // no other guard by the contract of this function.
        unsafe { LockGuard::new(&self.value, (Clear(&self.is_owner_in), None)) }
    }

    #[cold]
    fn wait_for_others(&self) {
        while self.is_wanted.load(Ordering::Acquire) {
            self.is_owner_in.store(false, Ordering::Release);
            drop(self.others.lock());
            self.is_owner_in.store(true, Ordering::Relaxed);
            barrier::light();
        }
    }

    /// Locks it for any thread, which must not have the owner's guard.
    pub(super) fn lock(&self) -> Guard<'_, T> {
        // A panic while it was held leaves the value as it was between two statements, which is not
        // undefined.
        let others = self.others.lock().unwrap_or_else(|held| held.into_inner());
        self.is_wanted.store(true, Ordering::Relaxed);
        barrier::heavy();
        let mut looks = 0;
        while self.is_owner_in.load(Ordering::Acquire) {
            pause(&mut looks);
        }
        // SAFETY: the owner is not inside and stays outside while the flag is set, and the others
        // exclude each other.
        unsafe { LockGuard::new(&self.value, (Clear(&self.is_wanted), Some(others))) }
    }
}

impl<T> fmt::Debug for BiasedLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BiasedLock")
    }
}

#[cfg(all(test, not(slime_loom)))]
mod tests {
    use std::thread;

    use super::super::sync::add_alone;
    use super::*;

    #[test]
    fn the_owner_and_others_take_turns() {
        const TURNS: u64 = 2000;
        barrier::register();
        let lock = BiasedLock::new((0_u64, 0_u64));
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..TURNS * 10 {
                    // SAFETY: this thread alone is the owner, and the guard is dropped at once.
                    add_alone(&mut *unsafe { lock.lock_as_owner() });
                }
            });
            for _ in 0..2 {
                scope.spawn(|| (0..TURNS).for_each(|_| add_alone(&mut lock.lock())));
            }
        });
        assert_eq!(lock.lock().0, TURNS * 12);
    }
}

#[cfg(all(test, slime_loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::super::sync::use_alone;
    use super::*;

    #[test]
    fn one_at_a_time_is_inside() {
        loom::model(|| {
            let lock = Arc::new(BiasedLock::new(AtomicBool::new(false)));
            let theirs = lock.clone();
            let other = thread::spawn(move || use_alone(&*theirs.lock()));
            for _ in 0..2 {
                // SAFETY: this thread alone is the owner, and the guard is dropped at once.
                use_alone(&*unsafe { lock.lock_as_owner() });
            }
            other.join().expect("the other ends");
        });
    }
}

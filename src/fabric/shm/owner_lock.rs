//! A lock that the thread which made it takes by plain stores, until another thread takes it.

use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::sync::atomic;

use super::barrier;
use super::spin_lock::{Clear, LockGuard};
use super::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, pause};

/// A lock that is cheap for the thread that made it. The first other thread pays for a system call;
/// from then on this is a mutex for all threads.
pub(crate) struct OwnerLock<T> {
    /// The thread that takes it by plain stores.
    owner: AtomicU64,
    is_owner_in: AtomicBool,
    others: Mutex<()>,
    value: UnsafeCell<T>,
}

// SAFETY: a guard is the only way to the value, and there is one at a time.
unsafe impl<T: Send> Sync for OwnerLock<T> {}

/// Exclusive access to the value of an [`OwnerLock`]: the owner clears its flag, every other thread
/// holds the mutex.
pub(crate) type OwnerGuard<'a, T> =
    LockGuard<'a, T, (Option<Clear<'a>>, Option<MutexGuard<'a, ()>>)>;

/// Stands in place of the owner, once another thread has taken the lock.
const NOBODY: u64 = 0;

/// Identifies the current thread.
#[inline]
fn this_thread() -> u64 {
    thread_local!(static NUMBER: Cell<u64> = const { Cell::new(NOBODY) });
    static NEXT: atomic::AtomicU64 = atomic::AtomicU64::new(NOBODY + 1);
    match NUMBER.get() {
        NOBODY => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            NUMBER.set(number);
            number
        }
        number => number,
    }
}

impl<T> OwnerLock<T> {
    /// Makes a lock that the current thread owns.
    pub(crate) fn new(value: T) -> Self {
        Self::of(this_thread(), value)
    }

    fn of(owner: u64, value: T) -> Self {
        Self {
            owner: AtomicU64::new(owner),
            is_owner_in: AtomicBool::new(false),
            others: Mutex::new(()),
            value: UnsafeCell::new(value),
        }
    }

    /// Locks it. A thread that has its guard already waits for ever, or panics.
    #[inline]
    pub(crate) fn lock(&self) -> OwnerGuard<'_, T> {
        self.lock_as(this_thread())
    }

    #[inline]
    fn lock_as(&self, thread: u64) -> OwnerGuard<'_, T> {
        if self.owner.load(Ordering::Relaxed) == thread {
            assert!(
                !self.is_owner_in.load(Ordering::Relaxed),
                "a thread takes a lock that it holds"
            );
            self.is_owner_in.store(true, Ordering::Relaxed);
            // Either this load sees that another thread has come, or that thread sees that the
            // owner is inside.
            barrier::light();
            if self.owner.load(Ordering::Acquire) == thread {
                return self.guard(None);
            }
            self.is_owner_in.store(false, Ordering::Release);
        }
        self.lock_for_all()
    }

    #[cold]
    fn lock_for_all(&self) -> OwnerGuard<'_, T> {
        // A panic while it was held leaves the value as it was between two statements, which is not
        // undefined.
        let others = self.others.lock().unwrap_or_else(|held| held.into_inner());
        if self.owner.load(Ordering::Relaxed) != NOBODY {
            self.owner.store(NOBODY, Ordering::Relaxed);
            barrier::heavy();
            let mut looks = 0;
            while self.is_owner_in.load(Ordering::Acquire) {
                pause(&mut looks);
            }
        }
        self.guard(Some(others))
    }

    #[inline]
    fn guard<'a>(&'a self, others: Option<MutexGuard<'a, ()>>) -> OwnerGuard<'a, T> {
        let owner = others.is_none().then_some(&self.is_owner_in).map(Clear);
        // SAFETY: the owner is inside while no other thread has come, and the others exclude each
        // other.
        unsafe { LockGuard::new(&self.value, (owner, others)) }
    }
}

impl<T> fmt::Debug for OwnerLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerLock")
    }
}

#[cfg(all(test, not(slime_loom)))]
mod tests {
    use std::thread;

    use super::super::sync::add_alone;
    use super::*;

    #[test]
    fn the_owner_is_alone_inside_also_as_others_come() {
        const TURNS: u64 = 200;
        barrier::register();
        for round in 0..TURNS {
            let lock = OwnerLock::new((0, 0));
            thread::scope(|scope| {
                let theirs = scope.spawn(|| {
                    (0..round).for_each(|_| std::hint::spin_loop());
                    (0..TURNS).for_each(|_| add_alone(&mut lock.lock()));
                });
                (0..TURNS).for_each(|_| add_alone(&mut lock.lock()));
                while !theirs.is_finished() {
                    let before = lock.lock().0;
                    assert!(before >= TURNS);
                }
            });
            assert_eq!(lock.lock().0, TURNS * 2);
        }
    }

    #[test]
    fn a_lock_is_not_taken_twice() {
        let lock = OwnerLock::new(7);
        let held = lock.lock();
        let again = crate::panics::contain(|| drop(lock.lock()));
        assert!(again.is_err());
        drop(held);
        assert_eq!(*lock.lock(), 7);
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
        const OWNER: u64 = 1;
        loom::model(|| {
            let lock = Arc::new(OwnerLock::of(OWNER, AtomicBool::new(false)));
            let theirs = lock.clone();
            let other = thread::spawn(move || use_alone(&theirs.lock_as(OWNER + 1)));
            for _ in 0..2 {
                use_alone(&lock.lock_as(OWNER));
            }
            other.join().expect("the other ends");
        });
    }
}

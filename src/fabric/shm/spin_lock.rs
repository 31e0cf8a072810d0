//! A lock for short sections that run no code of a user, and the guard that all locks of this
//! fabric share.
//!
//! It is released by a plain store, so it costs one locked operation, where a mutex costs two. The
//! store cannot tell whether somebody waits: a waiter looks again by itself. If the holder does not
//! run, the waiter sleeps between its looks.

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use super::sync::{AtomicBool, Ordering, pause};

/// See the [module](self).
pub(crate) struct SpinLock<T> {
    is_held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: a guard is the only way to the value, and there is one at a time.
unsafe impl<T: Send> Sync for SpinLock<T> {}

/// Exclusive access to the value of a [`SpinLock`].
pub(crate) type SpinGuard<'a, T> = LockGuard<'a, T, Clear<'a>>;

impl<T> SpinLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            is_held: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    #[inline]
    pub(crate) fn lock(&self) -> SpinGuard<'_, T> {
        if !self.take() {
            self.wait();
        }
        self.guard()
    }

    /// `None`: somebody holds it.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        let is_free = !self.is_held.load(Ordering::Relaxed);
        (is_free && self.take()).then(|| self.guard())
    }

    /// Returns whether it was free; it is held then.
    #[inline]
    fn take(&self) -> bool {
        !self.is_held.swap(true, Ordering::Acquire)
    }

    #[inline]
    fn guard(&self) -> SpinGuard<'_, T> {
        // SAFETY: whoever set the flag has the only guard until that is cleared.
        unsafe { LockGuard::new(&self.value, Clear(&self.is_held)) }
    }

    #[cold]
    fn wait(&self) {
        let mut looks = 0;
        while !self.take() {
            pause(&mut looks);
        }
    }
}

impl<T> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpinLock")
    }
}

/// Exclusive access to the value of a lock, which `R` releases as it is dropped. It stays on its
/// thread.
pub(crate) struct LockGuard<'a, T, R> {
    value: &'a UnsafeCell<T>,
    _release: R,
    _value: PhantomData<&'a mut T>,
}

impl<'a, T, R> LockGuard<'a, T, R> {
    /// Makes the guard of a lock that was taken.
    ///
    /// # Safety
    /// Until `release` is dropped, there is no other guard of the value.
    #[inline]
    pub(super) unsafe fn new(value: &'a UnsafeCell<T>, release: R) -> Self {
        Self {
            value,
            _release: release,
            _value: PhantomData,
        }
    }
}

impl<T, R> Deref for LockGuard<'_, T, R> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this is the only guard; see `new`.
        unsafe { &*self.value.get() }
    }
}

impl<T, R> DerefMut for LockGuard<'_, T, R> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this is the only guard; see `new`.
        unsafe { &mut *self.value.get() }
    }
}

/// Clears a flag as it is dropped, by a plain store.
pub(crate) struct Clear<'a>(pub(super) &'a AtomicBool);

impl Drop for Clear<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(all(test, not(slime_loom)))]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use rustix::time::{ClockId, clock_gettime};

    use super::super::sync::add_alone;
    use super::*;

    #[test]
    fn one_at_a_time_is_inside() {
        const TURNS: u64 = 20_000;
        let lock = SpinLock::new((0_u64, 0_u64));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..TURNS).for_each(|_| add_alone(&mut lock.lock())));
            }
        });
        assert_eq!(lock.lock().0, TURNS * 3);
    }

    #[test]
    fn a_lock_that_is_held_is_not_given_and_a_panic_releases_it() {
        let lock = SpinLock::new(7);
        let held = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(held);
        let panicking = || {
            let _held = lock.lock();
            panic!("while it is held");
        };
        assert!(crate::panics::contain(panicking).is_err());
        assert_eq!(lock.try_lock().map(|value| *value), Some(7));
    }

    #[test]
    fn a_thread_that_waits_leaves_the_processor_to_the_holder() {
        const HELD: Duration = Duration::from_millis(300);
        let used = || clock_gettime(ClockId::ThreadCPUTime);
        let lock = SpinLock::new(());
        let held = lock.lock();
        let (begins, has_begun) = mpsc::channel();
        thread::scope(|scope| {
            let (lock, used) = (&lock, &used);
            let waiter = scope.spawn(move || {
                let (began, before) = (Instant::now(), used());
                begins.send(()).expect("somebody waits for that");
                drop(lock.lock());
                let used = Duration::try_from(used() - before);
                (began.elapsed(), used.expect("it does not go back"))
            });
            has_begun.recv().expect("it begins");
            thread::sleep(HELD);
            drop(held);
            let (waited, used) = waiter.join().expect("it gets the lock");
            assert!(used < waited / 10, "{used:?} of {waited:?}");
        });
    }
}

#[cfg(all(test, slime_loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::super::sync::use_alone;
    use super::*;

    /// Nobody waits: loom lets a swap miss a store that is not ordered before it, for ever.
    #[test]
    fn one_at_a_time_is_inside() {
        fn enter(lock: &SpinLock<AtomicBool>) {
            if let Some(held) = lock.try_lock() {
                use_alone(&held);
            }
        }
        loom::model(|| {
            let lock = Arc::new(SpinLock::new(AtomicBool::new(false)));
            let theirs = lock.clone();
            let other = thread::spawn(move || enter(&theirs));
            enter(&lock);
            enter(&lock);
            other.join().expect("the other ends");
        });
    }
}

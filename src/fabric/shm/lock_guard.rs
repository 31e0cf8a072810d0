//! Access to the value of a lock of this fabric.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use super::sync::{AtomicBool, Ordering};

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

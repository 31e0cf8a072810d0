//! Contains panics of foreign code.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// Runs code of a user whose panic must not end the caller. A panic becomes an error with the
/// panic's message.
///
/// ```
/// use slimerpc::panics::contain;
/// assert_eq!(contain(|| 42), Ok(42));
/// assert_eq!(contain(|| panic!("ouch")), Err::<(), _>("ouch".to_owned()));
/// ```
///
/// # Errors
/// The message of the panic.
pub fn contain<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(message)
}

/// The message of a caught panic, whose payload this drops. Dropping runs code of a user, too, and
/// may panic in turn.
pub fn message(payload: Box<dyn Any + Send>) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // That panic's payload could panic as well, without end.
        mem::forget(another);
    }
    text
}

/// Wakes all of these. A waker runs foreign code: its panic must neither keep the others asleep nor
/// end the caller, which may be a service or the watcher of a queue.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        if let Err(message) = contain(|| waker.wake()) {
            tracing::error!(message, "a waker panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    /// Panics with itself when it is dropped.
    struct Endless;

    impl Drop for Endless {
        fn drop(&mut self) {
            panic_any(Self);
        }
    }

    #[test]
    fn a_payload_that_panics_as_it_is_dropped_is_contained() {
        let contained = contain(|| panic_any(Endless));
        let unnamed = "a panic without a message".to_owned();
        assert_eq!(contained, Err::<(), _>(unnamed));
    }
}

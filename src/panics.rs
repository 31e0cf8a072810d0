//! Panics of code that is not ours.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs code of a user that must not end ours. A panic of it is an error with the panic's message.
///
/// ```
/// use slimerpc::panics::contain;
/// assert_eq!(contain(|| 42), Ok(42));
/// assert_eq!(contain(|| panic!("ouch")), Err::<(), _>("ouch".to_owned()));
/// ```
///
/// # Errors
/// The message that it panicked with.
pub fn contain<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(message)
}

/// The message of a panic that was caught, whose payload this drops. That is code of a user, too:
/// it may panic in turn.
pub fn message(payload: Box<dyn Any + Send>) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // So could that one's, without end.
        mem::forget(another);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    /// Panics with itself as it is dropped.
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

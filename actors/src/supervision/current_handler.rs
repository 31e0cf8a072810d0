//! What runs on the current thread: whether a handler, of which instance, and whether that instance
//! is to end.
//!
//! One guard surrounds a handler, so that a plain call pays for one thread-local only.

use std::cell::Cell;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::EndCause;

/// Identifies a service instance within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceId(u64);

impl InstanceId {
    /// Identifies the instance that this incarnation of an agent serves under this name.
    /// Incarnations are random numbers, so instances of other processes do not collide with it.
    pub(crate) fn new(incarnation: u64, service: &str) -> Self {
        Self(xxh3_64_with_seed(service.as_bytes(), incarnation))
    }
}

/// The handler that runs on a thread. The type has no destructor, so that access to the
/// thread-local needs no check.
struct CurrentHandler {
    guard: Cell<Guard>,
    /// Whether there is an exit request.
    has_exit_request: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Guard {
    /// The instance whose serial handler runs.
    instance: Option<InstanceId>,
    /// Whether a handler runs, serial or not.
    is_handler: bool,
    /// Whether the instance ends if its handler asks for that.
    can_exit: bool,
}

const NONE: Guard = Guard {
    instance: None,
    is_handler: false,
    can_exit: false,
};

thread_local! {
    static CURRENT: CurrentHandler = const {
        CurrentHandler {
            guard: Cell::new(NONE),
            has_exit_request: Cell::new(false),
        }
    };
    static EXIT_REQUEST: Cell<Option<EndCause>> = const { Cell::new(None) };
}

impl Guard {
    /// Runs a handler, up to where it awaits.
    #[inline]
    fn run<T>(self, handler: impl FnOnce() -> T) -> T {
        struct Restore(Guard);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.with(|current| current.guard.set(self.0));
            }
        }
        let _restore = Restore(CURRENT.with(|current| current.guard.replace(self)));
        handler()
    }
}

/// Runs a serial handler of an instance, up to where it awaits. It may request the instance's exit.
#[inline]
pub(crate) fn serial<T>(instance: InstanceId, handler: impl FnOnce() -> T) -> T {
    let guard = Guard {
        instance: Some(instance),
        is_handler: true,
        can_exit: true,
    };
    guard.run(handler)
}

/// Runs a serial handler of a service that nobody restarts.
pub(crate) fn once<T>(instance: InstanceId, handler: impl FnOnce() -> T) -> T {
    let guard = Guard {
        instance: Some(instance),
        is_handler: true,
        can_exit: false,
    };
    guard.run(handler)
}

/// Runs a handler that is not tied to one instance.
pub(crate) fn parallel<T>(handler: impl FnOnce() -> T) -> T {
    let guard = Guard {
        is_handler: true,
        ..NONE
    };
    guard.run(handler)
}

/// Returns whether a handler runs.
pub(crate) fn is_handler() -> bool {
    CURRENT.with(|current| current.guard.get().is_handler)
}

/// Returns whether a serial handler of this instance runs.
#[inline]
pub(crate) fn is_of(instance: InstanceId) -> bool {
    CURRENT.with(|current| current.guard.get().instance) == Some(instance)
}

/// Notes why the instance whose handler runs is to end, and returns whether there is such an
/// instance. A later request replaces an earlier one.
pub(crate) fn request_exit(cause: EndCause) -> bool {
    CURRENT.with(|current| {
        let can_exit = current.guard.get().can_exit;
        if can_exit {
            current.has_exit_request.set(true);
            EXIT_REQUEST.set(Some(cause));
        } else {
            tracing::debug!(%cause, "an exit was requested where no instance can end");
        }
        can_exit
    })
}

/// Takes the exit request that was made since the last call.
#[inline]
pub(crate) fn take_exit_request() -> Option<EndCause> {
    let is_there = CURRENT.with(|current| current.has_exit_request.replace(false));
    if is_there { EXIT_REQUEST.take() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{restart, retire};

    #[test]
    fn only_handlers_are_listened_to() {
        let instance = InstanceId::new(1, "test");
        assert!(!restart("too early"));
        assert_eq!(take_exit_request(), None);
        assert!(serial(instance, || restart("now")));
        assert!(serial(instance, || retire("or rather")));
        let why = "or rather".to_owned();
        assert_eq!(take_exit_request(), Some(EndCause::Retired { why }));
        assert!(!restart("too late"));
        serial(instance, || ());
        assert_eq!(take_exit_request(), None);
        assert!(!once(instance, || restart("there is no other")));
        assert!(!parallel(|| restart("beside it")));
    }

    #[test]
    fn a_handler_that_runs_another_is_the_current_one_again_afterwards() {
        let [outer, inner] = [1, 2].map(|life| InstanceId::new(life, "test"));
        serial(outer, || {
            let caught = std::panic::catch_unwind(|| {
                once(inner, || {
                    assert!(is_of(inner) && !is_of(outer));
                    panic!("it does not get in the way");
                })
            });
            assert!(caught.is_err());
            assert!(is_of(outer) && !is_of(inner));
        });
        assert!(!is_of(outer) && !is_handler());
    }
}

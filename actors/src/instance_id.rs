//! Which service instance runs on the current thread, so that a handler that calls its own can be told.

use std::cell::Cell;

/// A service instance of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceId(u64);

thread_local! {
    /// The instance whose serial handler is being run or polled.
    static RUNNING: Cell<Option<InstanceId>> = const { Cell::new(None) };
}

impl InstanceId {
    /// The instance that the agent of this life serves under this name. Lives have random numbers, so instances of
    /// other processes do not get in the way.
    pub(crate) fn new(incarnation: u64, service: &str) -> Self {
        // FNV-1a, from the incarnation on.
        let hash = service.bytes().fold(incarnation, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash)
    }

    /// Runs a serial handler of the instance, up to where it awaits.
    pub(crate) fn run<T>(self, handler: impl FnOnce() -> T) -> T {
        struct Restore(Option<InstanceId>);
        impl Drop for Restore {
            fn drop(&mut self) {
                RUNNING.set(self.0);
            }
        }
        let _restore = Restore(RUNNING.replace(Some(self)));
        handler()
    }

    /// Whether the caller is such a handler.
    pub(crate) fn is_running_here(self) -> bool {
        RUNNING.get() == Some(self)
    }
}

//! Panics of handlers, and where they were raised.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;
use std::thread;

thread_local! {
    /// Whether a handler runs on this thread.
    static IN_HANDLER: Cell<bool> = const { Cell::new(false) };
    /// Where the last panic of a handler was raised.
    static TRACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Has the panics of handlers traced, by a hook in front of the one that is there. A program that sets another hook later
/// and does not call this one has no traces.
pub(crate) fn trace() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            note(info);
            previous(info);
        }));
    });
}

/// By the time that a panic is caught, its stack is gone.
fn note(info: &PanicHookInfo<'_>) {
    if !IN_HANDLER.try_with(Cell::get).unwrap_or(false) {
        return;
    }
    let mut trace = info
        .location()
        .map_or_else(String::new, |at| format!("panicked at {at}"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        trace = format!("{trace}\n{backtrace}");
    }
    TRACE.set(Some(trace));
}

/// Runs a handler, or polls it.
pub(crate) fn catch<T>(handler: impl FnOnce() -> T) -> thread::Result<T> {
    struct Leave(bool);
    impl Drop for Leave {
        fn drop(&mut self) {
            IN_HANDLER.set(self.0);
        }
    }
    let _leave = Leave(IN_HANDLER.replace(true));
    catch_unwind(AssertUnwindSafe(handler))
}

/// Where the panic that was just caught was raised; a backtrace follows if `RUST_BACKTRACE` asks for that.
pub(crate) fn take_trace() -> String {
    TRACE.take().unwrap_or_default()
}

//! Catches panics of handlers, and records where they were raised.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

use slimerpc::panics::message;
use slimerpc::wire::Fault;

use crate::{EndCause, Finished, supervision::current_handler};

/// A caught panic of a handler, or of a value that a handler returned.
#[derive(Debug)]
pub(crate) struct Panic {
    message: String,
    /// Where it was raised; a backtrace follows if `RUST_BACKTRACE` asks for it.
    trace: String,
}

impl Panic {
    #[cold]
    fn caught(payload: Box<dyn Any + Send>) -> Self {
        Self {
            trace: TRACE.take().unwrap_or_default(),
            message: message(payload),
        }
    }

    /// The failure that a caller gets.
    pub(crate) fn fault(&self) -> Fault {
        Fault::Raised {
            type_name: "panic".to_owned(),
            message: self.message.clone(),
            traceback: self.trace.clone(),
        }
    }

    pub(crate) fn into_message(self) -> String {
        self.message
    }

    /// Ends a request with this panic. Its caller has been told, or had its answer before; the
    /// supervisor decides what happens to the instance.
    pub(crate) fn finish(self) -> Finished {
        current_handler::request_exit(self.into());
        Finished::Panicked
    }
}

impl From<Panic> for EndCause {
    fn from(panic: Panic) -> Self {
        let message = panic.message;
        Self::Panicked { message }
    }
}

thread_local! {
    /// Whether made-up values are being read on this thread, which a user's `Deserialize` may
    /// refuse by a panic.
    static IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
    /// Where the last panic of a handler was raised.
    static TRACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Records where handlers panic, by a hook in front of the present one. A program that sets another
/// hook later and does not call this one has no traces.
pub(crate) fn trace() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_EXPECTED.try_with(Cell::get).unwrap_or(false) {
                note(info);
                previous(info);
            } else if cfg!(panic = "abort") {
                previous(info);
                eprintln!("{REFUSED_BY_PANIC}");
            }
        }));
    });
}

/// The last line of a program that ends with its first panic.
const REFUSED_BY_PANIC: &str = "slimerpc: a `Deserialize` panicked at a value that was made up to see which types a service takes \
    and gives back. It ends this program, which is compiled with `panic = \"abort\"`: let it return an error";

/// Runs code that makes values up for types of a user. A caught panic at such a value is not
/// reported.
pub(crate) fn expected<T>(work: impl FnOnce() -> T) -> T {
    trace();
    let outer = IS_EXPECTED.replace(true);
    let made = catch_unwind(AssertUnwindSafe(work));
    IS_EXPECTED.set(outer);
    made.unwrap_or_else(|panic| panic::resume_unwind(panic))
}

/// Record it in the hook: by the time that a panic is caught, its stack is gone.
fn note(info: &PanicHookInfo<'_>) {
    if !current_handler::is_handler() {
        return;
    }
    let mut trace = info
        .location()
        .map_or_else(String::new, |at| format!("panicked at {at}"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        trace.push('\n');
        trace.push_str(frames_of_handler(&backtrace.to_string()));
    }
    TRACE.set(Some(trace));
}

/// Removes the frames of the panic itself, which come first, and those of this crate and the
/// runtime, which come last. A program without symbols may lack them.
fn frames_of_handler(backtrace: &str) -> &str {
    let ours = backtrace.find("slimerpc_actors::panics::catch");
    let end = ours.and_then(|at| backtrace[..at].rfind('\n'));
    let backtrace = &backtrace[..end.unwrap_or(backtrace.len())];
    let raised = ["core::panicking::", "rust_begin_unwind"];
    let last = raised.iter().filter_map(|name| backtrace.rfind(name)).max();
    // The line after it, if there is one, names the source file.
    let start = last.and_then(|at| Some(at + backtrace[at..].match_indices('\n').nth(1)?.0 + 1));
    &backtrace[start.unwrap_or(0)..]
}

/// Runs a handler, polls it, or runs other code of the service, and catches its panic.
#[inline(never)]
pub(crate) fn catch<T>(handler: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(handler)).map_err(Panic::caught)
}

/// Drops a value of the service, whose destructor is code of the service.
#[inline]
pub(crate) fn discard<T>(value: T) -> Result<(), Panic> {
    if std::mem::needs_drop::<T>() {
        return catch(|| drop(value));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By its hook in a process of its own: other tests panic, too.
    #[test]
    fn a_made_up_value_that_is_refused_by_a_panic_prints_nothing() {
        use std::process::Command;
        use std::{env, thread};

        use serde::{Deserialize, Deserializer};
        use slimerpc::wire::PayloadCodec;

        use crate::service::macro_support::{ShapeOf, Shaped};

        #[derive(Debug)]
        struct Even;
        impl<'de> Deserialize<'de> for Even {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let number = u64::deserialize(from)?;
                assert!(number.is_multiple_of(2), "{number} is odd");
                Ok(Self)
            }
        }
        const ALONE: &str = "SLIME_RPC_TEST_ALONE";
        if env::var_os(ALONE).is_some() {
            let shape = ShapeOf::<(Even, u8)>::new().shape(PayloadCodec::Bincode);
            assert_eq!(shape.text(), "(u64, u8)");
            // That goes for what is made up only.
            let _ = thread::spawn(|| panic!("said aloud")).join();
            return;
        }
        let me = env::current_exe().expect("the test program");
        let name = "a_made_up_value_that_is_refused_by_a_panic_prints_nothing";
        let mut alone = Command::new(me);
        alone.args([name, "--nocapture"]).env(ALONE, "1");
        let output = alone.output().expect("it runs");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{printed}");
        assert!(printed.contains("said aloud"), "{printed}");
        assert!(!printed.contains("is odd"), "{printed}");
    }

    #[test]
    fn of_a_backtrace_the_frames_of_the_handler_are_left() {
        let frames = [
            "   0: std::backtrace::Backtrace::capture\n             at /std/backtrace.rs:1\n",
            "   1: rust_begin_unwind\n             at /std/panicking.rs:2\n",
            "   2: core::panicking::panic_fmt\n             at /core/panicking.rs:3\n",
            "   3: calc::Calc::divide\n             at ./calc.rs:4\n",
            "   4: std::panicking::catch_unwind\n             at /std/panicking.rs:5\n",
            "   5: slimerpc_actors::panics::catch\n             at ./panics.rs:6\n",
            "   6: main\n",
        ];
        let found = frames_of_handler(&frames.concat()).to_owned() + "\n";
        assert_eq!(found, frames[3..5].concat());
        assert_eq!(frames_of_handler("<unknown>"), "<unknown>");
        assert_eq!(frames_of_handler(""), "");
    }
}

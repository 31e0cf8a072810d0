//! The threads that wait for files and locks, on behalf of all agents of this process.
//!
//! Each agent has a runtime of its own. If each had threads of its own for this, too, a thousand
//! agents would start more than a thousand.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, getpid};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinError;

use crate::control::ControlError;

/// Those who change a scope take turns, so few are of use at a time.
const MOST: usize = 16;

/// The runtime whose threads they are, which does nothing else, and the process that they are in.
static SHARED: Mutex<Option<(Pid, Handle)>> = Mutex::new(None);

/// Runs what may block on a thread that may. Within it, the current runtime is the caller's.
pub(super) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
) -> Result<T, ControlError> {
    let callers = Handle::current();
    let act = move || {
        let _within = callers.enter();
        act()
    };
    match of_all()
        .spawn_blocking(act)
        .await
        .map_err(JoinError::try_into_panic)
    {
        Ok(done) => done,
        Err(Ok(panic)) => resume_unwind(panic),
        // The runtime is being shut down.
        Err(Err(_)) => Err(ControlError::NotRegistered),
    }
}

/// The runtime whose threads may block: the shared one, or else the caller's.
pub(super) fn of_all() -> Handle {
    shared().unwrap_or_else(Handle::current)
}

/// The runtime, if there is one or one can be made.
fn shared() -> Option<Handle> {
    // Nothing panics while it is held.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    // A fork of the process that has started the threads has none of them.
    if let Some((_, handle)) = shared.as_ref().filter(|(of, _)| *of == getpid()) {
        return Some(handle.clone());
    }
    let runtime = Builder::new_current_thread()
        .thread_name("slimerpc-host")
        .max_blocking_threads(MOST)
        .build()
        .ok()?;
    let handle = runtime.handle().clone();
    *shared = Some((getpid(), handle.clone()));
    // It lasts as long as the process. Threads end that have had nothing to do for a while.
    std::mem::forget(runtime);
    Some(handle)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    fn here() -> Result<(thread::ThreadId, tokio::runtime::Id), ControlError> {
        Ok((thread::current().id(), Handle::current().id()))
    }

    #[test]
    fn agents_with_runtimes_of_their_own_share_few_threads() {
        let mut seen = HashSet::new();
        for _ in 0..20 {
            let runtime = Builder::new_current_thread().build().unwrap();
            let (thread, within) = runtime.block_on(blocking(here)).unwrap();
            assert_eq!(within, runtime.handle().id());
            seen.insert(thread);
        }
        assert!(seen.len() <= MOST, "{seen:?}");
    }
}

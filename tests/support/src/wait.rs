//! Waiting, for so long and no longer.

use std::panic::Location;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a test waits for what must happen. Nothing takes so long unless it hangs, on a machine
/// that is busy with much else, too.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The time between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Waits until something is so.
///
/// # Panics
/// It is not so after [`PATIENCE`].
#[track_caller]
pub fn until(what: &str, is_so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    until_within(PATIENCE, what, is_so)
}

/// Waits until something is so.
///
/// # Panics
/// It is not so after `limit`.
#[track_caller]
pub fn until_within(
    limit: Duration,
    what: &str,
    mut is_so: impl FnMut() -> bool,
) -> impl Future<Output = ()> {
    let (began, caller) = (Instant::now(), Location::caller());
    async move {
        while !is_so() {
            let elapsed = began.elapsed();
            assert!(elapsed < limit, "{caller}: not after {elapsed:?}: {what}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Waits until something is so, on a thread that may block.
///
/// # Panics
/// It is not so after [`PATIENCE`].
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        let elapsed = began.elapsed();
        assert!(elapsed < PATIENCE, "not after {elapsed:?}: {what}");
        thread::sleep(PAUSE);
    }
}

/// Awaits what must end.
///
/// # Panics
/// It has not ended after [`PATIENCE`].
#[track_caller]
pub fn within<F: IntoFuture>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        let ended = tokio::time::timeout(PATIENCE, future).await;
        ended.unwrap_or_else(|_| panic!("{caller}: not after {PATIENCE:?}: {what}"))
    }
}

/// Waits for the end of a thread while the tasks of this one go on.
///
/// # Panics
/// It has not ended after [`PATIENCE`], or it has panicked.
#[track_caller]
pub fn joined<T>(thread: JoinHandle<T>) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let began = Instant::now();
        while !thread.is_finished() {
            assert!(
                began.elapsed() < PATIENCE,
                "{caller}: a thread does not end"
            );
            tokio::time::sleep(PAUSE).await;
        }
        thread.join().expect("the thread has not panicked")
    }
}

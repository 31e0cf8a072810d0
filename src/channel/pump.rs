//! Watches a completion queue while those who wait for it sleep.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use crate::fabric::CompletionEvents;

/// One task for each queue that has sleepers, on the runtime of the first of them, so that waking it and waking them is one
/// wake-up. It ends when nobody sleeps any more; busy pollers never pay for it.
#[derive(Debug, Default)]
pub(super) struct Pump {
    running: AtomicBool,
}

/// Something with a completion queue that others wait for.
pub(super) trait Pumped: Send + Sync + 'static {
    /// Its pump.
    fn pump(&self) -> &Pump;
    /// The runtime for those outside of one.
    fn runtime(&self) -> &Handle;
    /// The events of its queue, for the current runtime.
    fn events(&self) -> io::Result<CompletionEvents>;
    /// Handles what has arrived. Says whether anything had.
    fn progress(&self) -> bool;
    /// Arms the queue, then looks once more, so that no event is lost.
    fn arm(&self) -> bool;
    /// Whether something moves on only as the queue is polled.
    fn is_moving(&self) -> bool;
    /// Whether anybody wants to be woken.
    fn has_sleepers(&self) -> bool;
}

impl Pump {
    /// Starts the pump of `pumped` unless it runs.
    pub(super) fn ensure<P: Pumped>(pumped: &Arc<P>) {
        if pumped.pump().running.swap(true, Ordering::AcqRel) {
            return;
        }
        let runtime = Handle::try_current().unwrap_or_else(|_| pumped.runtime().clone());
        let running = Running(Arc::downgrade(pumped));
        runtime.spawn(pump(running));
    }
}

/// Clears the flag when the pump ends in whatever way, its runtime's end included.
struct Running<P: Pumped>(Weak<P>);

impl<P: Pumped> Drop for Running<P> {
    fn drop(&mut self) {
        if let Some(pumped) = self.0.upgrade() {
            pumped.pump().running.store(false, Ordering::Release);
        }
    }
}

async fn pump<P: Pumped>(running: Running<P>) {
    let events = running.0.upgrade().map(|pumped| pumped.events());
    let events = match events {
        None => return,
        Some(Ok(events)) => events,
        Some(Err(error)) => {
            tracing::warn!(%error, "a completion queue cannot be awaited");
            return;
        }
    };
    loop {
        {
            let Some(pumped) = running.0.upgrade() else {
                return;
            };
            pumped.arm();
            // Each piece is posted as the one before has arrived.
            while pumped.is_moving() {
                tokio::task::yield_now().await;
                pumped.progress();
            }
            if !pumped.has_sleepers() {
                break;
            }
        }
        if let Err(error) = events.raised().await {
            tracing::warn!(%error, "a completion queue cannot be awaited");
            return;
        }
    }
    // A sleeper that came after the last look saw the flag still set: look again after clearing it.
    let pumped = running.0.upgrade();
    drop(running);
    if let Some(pumped) = pumped.filter(|pumped| pumped.has_sleepers()) {
        Pump::ensure(&pumped);
    }
}

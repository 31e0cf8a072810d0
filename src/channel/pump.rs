//! Watches a channel's completion queue while those who wait for answers sleep.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use super::ClientChannel;

/// One task for each channel that has sleepers, on the runtime of the first of them, so that waking it and
/// waking them is one wake-up. It ends when nobody sleeps any more; busy pollers never pay for it.
#[derive(Debug, Default)]
pub(super) struct Pump {
    running: AtomicBool,
}

impl Pump {
    /// Starts the pump of `channel` unless it runs.
    pub(super) fn ensure(channel: &Arc<ClientChannel>) {
        if channel.pump.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let runtime = Handle::try_current().unwrap_or_else(|_| channel.runtime().clone());
        let running = Running(Arc::downgrade(channel));
        runtime.spawn(pump(running));
    }
}

/// Clears the flag when the pump ends in whatever way, its runtime's end included.
struct Running(Weak<ClientChannel>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(channel) = self.0.upgrade() {
            channel.pump.running.store(false, Ordering::Release);
        }
    }
}

async fn pump(running: Running) {
    let events = running.0.upgrade().map(|channel| channel.events());
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
            let Some(channel) = running.0.upgrade() else {
                return;
            };
            channel.arm();
            // Each piece is posted as the one before has arrived.
            while channel.is_reading() {
                tokio::task::yield_now().await;
                channel.progress();
            }
            if !channel.has_sleepers() {
                break;
            }
        }
        if let Err(error) = events.raised().await {
            tracing::warn!(%error, "a completion queue cannot be awaited");
            return;
        }
    }
    // A sleeper that came after the last look saw the flag still set: look again after clearing it.
    let channel = running.0.upgrade();
    drop(running);
    if let Some(channel) = channel.filter(|channel| channel.has_sleepers()) {
        Pump::ensure(&channel);
    }
}

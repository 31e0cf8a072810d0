//! What the handles of one device share: its memory and its keys, and the port of the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::arena::Arena;
use super::key_table::KeyTable;
use super::port::{Port, PortState};

/// An open device. It ends with the last handle of any object of it.
///
/// Devices of one process share its [port](Port), and so the links, the thread and the handles of
/// peer processes. Each has memory and keys of its own: a peer that is handed memory of one, or
/// guesses keys, reaches nothing of the others.
#[derive(Debug)]
pub(super) struct OpenDevice {
    /// No other device of the process has it.
    number: u64,
    keys: Arc<KeyTable>,
    /// The memory of regions.
    regions: Arena,
    /// The memory of receive queues and doorbells.
    queues: Arc<Arena>,
    port: Arc<Port>,
}

impl OpenDevice {
    /// Opens a device on a port.
    pub(super) fn on(port: Arc<Port>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            keys: Arc::default(),
            regions: Arena::new("slimerpc-region"),
            queues: Arc::new(Arena::new("slimerpc-queue")),
            port,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn keys(&self) -> &Arc<KeyTable> {
        &self.keys
    }

    pub(super) fn regions(&self) -> &Arena {
        &self.regions
    }

    pub(super) fn queues(&self) -> &Arc<Arena> {
        &self.queues
    }

    /// The port that the device shares with others.
    pub(super) fn port(&self) -> &PortState {
        self.port.state()
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        self.regions.close();
        self.queues.close();
    }
}

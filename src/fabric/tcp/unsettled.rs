//! Connections with something to say at the next poll.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Weak};

use super::connection::Connection;
use super::device_state::lock;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    connections: Mutex<Vec<Weak<Connection>>>,
    has_any: AtomicBool,
}

impl Unsettled {
    /// This connection has something to say.
    pub(super) fn add(&self, connection: &Weak<Connection>) {
        lock(&self.connections).push(connection.clone());
        self.has_any.store(true, Ordering::SeqCst);
    }

    /// Has all of them say it.
    pub(super) fn settle(&self) {
        if self.has_any.load(Ordering::SeqCst) && self.has_any.swap(false, Ordering::SeqCst) {
            // Not while it is locked: a connection that has something to say locks it, too.
            let next = || lock(&self.connections).pop();
            while let Some(connection) = next() {
                if let Some(connection) = connection.upgrade() {
                    connection.settle_now();
                }
            }
        }
    }
}

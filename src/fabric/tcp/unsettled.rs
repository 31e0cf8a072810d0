//! Connections with something to say at the next poll.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Weak};

use super::connection::Connection;
use super::device_state::lock;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    connections: Mutex<VecDeque<Weak<Connection>>>,
    has_any: AtomicBool,
    settled: AtomicU64,
}

impl Unsettled {
    /// This connection has something to say.
    pub(super) fn add(&self, connection: &Weak<Connection>) {
        lock(&self.connections).push_back(connection.clone());
        self.has_any.store(true, Ordering::SeqCst);
    }

    /// How often some had to say something, modulo 2^64.
    pub(super) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// Has all of them say it. Those that are added meanwhile are for the next poll: whoever looks
    /// for messages does not work for others for as long as they go on.
    pub(super) fn settle(&self) {
        if self.has_any.load(Ordering::SeqCst) && self.has_any.swap(false, Ordering::SeqCst) {
            self.settled.fetch_add(1, Ordering::Relaxed);
            let count = lock(&self.connections).len();
            for _ in 0..count {
                // Not while it is locked: a connection that has something to say locks it, too.
                let next = lock(&self.connections).pop_front();
                if let Some(connection) = next.and_then(|it| it.upgrade()) {
                    connection.settle_now();
                }
            }
        }
    }
}

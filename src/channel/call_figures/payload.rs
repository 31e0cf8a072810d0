//! Bytes of payloads, by direction and by how they travel.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the payloads of calls over the connections of one service, at one moment. Each is a
/// total that only grows. A payload is what is encoded of arguments, results, items of streams and
/// failures, without headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PayloadBytes {
    /// Sent in slots of rings. What a caller sends counts when the call is made.
    pub sent_inline: u64,
    /// Sent by rendezvous: kept until the other end has read them.
    pub sent_by_rendezvous: u64,
    /// Received in slots of rings. At a caller, of answers that somebody waited for.
    pub received_inline: u64,
    /// Received by rendezvous: read from the other end.
    pub received_by_rendezvous: u64,
}

impl PayloadBytes {
    /// These bytes and `others`.
    pub fn add(&mut self, others: &Self) {
        self.sent_inline += others.sent_inline;
        self.sent_by_rendezvous += others.sent_by_rendezvous;
        self.received_inline += others.received_inline;
        self.received_by_rendezvous += others.received_by_rendezvous;
    }
}

/// Counts bytes of payloads in one direction, from any thread.
#[derive(Debug, Default)]
pub(super) struct PayloadCounters {
    inline: AtomicU64,
    rendezvous: AtomicU64,
}

impl PayloadCounters {
    pub(super) fn count(&self, len: usize, is_inline: bool) {
        let counter = match is_inline {
            true => &self.inline,
            false => &self.rendezvous,
        };
        if len > 0 {
            counter.fetch_add(len as u64, Ordering::Relaxed);
        }
    }

    /// The bytes that travelled inline, and those that did by rendezvous.
    pub(super) fn read(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.inline), read(&self.rendezvous))
    }
}

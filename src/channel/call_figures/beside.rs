//! What is counted of connections beside their calls.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::distribution::{Distribution, Histogram};
use super::payload::{PayloadBytes, PayloadCounters};
use crate::channel::{Violation, Violations};

/// Counters of the connections of one service.
#[derive(Debug, Default)]
pub(super) struct Beside {
    violations: [AtomicU64; Violation::ALL.len()],
    sleeps: AtomicU64,
    polls: AtomicU64,
    pub(super) sent: PayloadCounters,
    pub(super) received: PayloadCounters,
    /// Made when a service first finds a request as it wakes up; callers have none.
    woken: OnceLock<Box<Histogram>>,
}

/// What was counted of the connections of one service beside their calls, at one moment. Each is a
/// total that only grows.
///
/// ```
/// # use slimerpc::channel::{ConnectionReading, Violation};
/// let none = ConnectionReading::default();
/// assert_eq!((none.sleeps, none.violations.count(Violation::BadSlot)), (0, 0));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectionReading {
    /// Breaches of the protocol by the other end.
    pub violations: Violations,
    /// How often somebody gave up polling and went to sleep: at a caller the waiter of a call,
    /// counted once for each call, or for each item of a stream; at a service the service.
    pub sleeps: u64,
    /// How often somebody looked for arrivals.
    pub polls: u64,
    /// Bytes of payloads.
    pub payload: PayloadBytes,
    /// From when a service that slept runs again, because something was announced, until the first
    /// request that it finds is handed to its handler.
    pub woken: Distribution,
}

impl ConnectionReading {
    /// This and `others` of the same service.
    pub fn add(&mut self, others: &Self) {
        self.violations.add(&others.violations);
        self.sleeps += others.sleeps;
        self.polls += others.polls;
        self.payload.add(&others.payload);
        self.woken.add(&others.woken);
    }
}

impl Beside {
    pub(super) fn violated(&self, violation: Violation) {
        self.violations[violation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sleeps(&self) {
        self.sleeps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn polls(&self, count: u64) {
        self.polls.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn woken(&self, nanos: u64) {
        let woken = self.woken.get_or_init(|| Box::new(Histogram::new()));
        woken.record(nanos);
    }

    pub(super) fn read(&self) -> ConnectionReading {
        let counts = self.violations.each_ref();
        let (sent_inline, sent_by_rendezvous) = self.sent.read();
        let (received_inline, received_by_rendezvous) = self.received.read();
        ConnectionReading {
            violations: Violations::of(counts.map(|it| it.load(Ordering::Relaxed))),
            sleeps: self.sleeps.load(Ordering::Relaxed),
            polls: self.polls.load(Ordering::Relaxed),
            payload: PayloadBytes {
                sent_inline,
                sent_by_rendezvous,
                received_inline,
                received_by_rendezvous,
            },
            woken: self.woken.get().map(|it| it.read()).unwrap_or_default(),
        }
    }
}

//! What is counted of connections beside their calls.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::channel::{Violation, Violations};

/// Counters of the connections of one service.
#[derive(Debug, Default)]
pub(super) struct Beside {
    violations: [AtomicU64; Violation::ALL.len()],
    sleeps: AtomicU64,
}

/// What was counted of the connections of one service beside their calls, at one moment. Each is a
/// total that only grows.
///
/// ```
/// # use slimerpc::channel::{ConnectionReading, Violation};
/// let none = ConnectionReading::default();
/// assert_eq!((none.sleeps, none.violations.count(Violation::BadSlot)), (0, 0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionReading {
    /// Breaches of the protocol by the other end.
    pub violations: Violations,
    /// How often somebody gave up polling and went to sleep: a waiter at a caller, the service at
    /// a service.
    pub sleeps: u64,
}

impl ConnectionReading {
    /// This and `others` of the same service.
    pub fn add(&mut self, others: &Self) {
        self.violations.add(&others.violations);
        self.sleeps += others.sleeps;
    }
}

impl Beside {
    pub(super) fn violated(&self, violation: Violation) {
        self.violations[violation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sleeps(&self) {
        self.sleeps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> ConnectionReading {
        let counts = self.violations.each_ref();
        ConnectionReading {
            violations: Violations::of(counts.map(|it| it.load(Ordering::Relaxed))),
            sleeps: self.sleeps.load(Ordering::Relaxed),
        }
    }
}

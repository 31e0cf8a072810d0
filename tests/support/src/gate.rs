//! A gate between a test and its handlers.

use std::sync::{Condvar, Mutex};

use crate::{PATIENCE, until};

/// Holds up whoever comes until it is opened.
#[derive(Debug, Default)]
pub struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// Lets everybody through, from now on.
    pub fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    /// Blocks until the gate is open.
    ///
    /// # Panics
    /// Nobody opens it for [`PATIENCE`].
    pub fn pass(&self) {
        let is_open = self.is_open.lock().unwrap();
        let (_guard, waited) = self
            .opened
            .wait_timeout_while(is_open, PATIENCE, |is_open| !*is_open)
            .unwrap();
        assert!(!waited.timed_out(), "nobody opens the gate");
    }

    /// Waits until the gate is open.
    ///
    /// # Panics
    /// Nobody opens it for [`PATIENCE`].
    #[track_caller]
    pub fn passed(&self) -> impl Future<Output = ()> {
        until("the gate is opened", || *self.is_open.lock().unwrap())
    }
}

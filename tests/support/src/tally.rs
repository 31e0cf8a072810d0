//! Counting what handlers do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{PATIENCE, until_within};

/// Counts what happens in handlers, for a test to wait for. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<AtomicUsize>);

impl Tally {
    /// Counts one more; gives the new number.
    pub fn up(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// How many there were so far.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Begins again at 0.
    pub fn reset(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// Counts one more when the guard is dropped.
    pub fn on_drop(&self) -> TallyOnDrop {
        TallyOnDrop(self.clone())
    }

    /// Waits until there were `count`.
    ///
    /// # Panics
    /// There are fewer after [`PATIENCE`].
    #[track_caller]
    pub fn reaches(&self, count: usize) -> impl Future<Output = ()> {
        until_within(PATIENCE, "enough are counted", move || self.get() >= count)
    }
}

/// A guard that counts when it is dropped; see [`Tally::on_drop`].
#[derive(Debug)]
pub struct TallyOnDrop(Tally);

impl Drop for TallyOnDrop {
    fn drop(&mut self) {
        self.0.up();
    }
}

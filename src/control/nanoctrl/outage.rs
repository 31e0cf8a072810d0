//! An outage of Redis, as one who reads from it meets it.

use std::time::Duration;

use crate::backoff::{Backoff, Pauses};

/// Pauses between attempts during an outage.
const BACKOFF: Backoff = Backoff::doubling(Duration::from_millis(100), Duration::from_secs(3));

/// Whether there is an outage, and the pauses that remain.
#[derive(Debug, Default)]
pub(super) struct Outage(Option<Pauses>);

impl Outage {
    /// Pauses, each time for longer. `begin` is called first if this begins an outage.
    pub(super) async fn sit_out(&mut self, begin: impl FnOnce()) {
        let pauses = self.0.get_or_insert_with(|| {
            begin();
            BACKOFF.pauses()
        });
        tokio::time::sleep(pauses.take()).await;
    }

    /// Ends the outage. Returns whether there was one.
    pub(super) fn end(&mut self) -> bool {
        self.0.take().is_some()
    }
}

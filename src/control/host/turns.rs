//! Turns: those of one process who change a scope do so one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

/// The turns at one scope.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turn: Arc<Mutex<()>>,
    /// How many have done what they wanted.
    done: AtomicU64,
}

/// The right to change the scope.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    _guard: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for a turn. Returns `None` if nobody has done anything for as long as `patience`:
    /// however many there are before this one, they are let by as long as it goes on.
    pub(super) async fn take(self: &Arc<Self>, patience: Duration) -> Option<Turn> {
        let mut waiting = Box::pin(Arc::clone(&self.turn).lock_owned());
        loop {
            let before = self.done.load(Ordering::Relaxed);
            if let Ok(guard) = timeout(patience, &mut waiting).await {
                let turns = Arc::clone(self);
                let _guard = guard;
                return Some(Turn { turns, _guard });
            }
            if self.done.load(Ordering::Relaxed) == before {
                return None;
            }
        }
    }
}

impl Turn {
    /// Ends the turn. Others go on waiting if it was `of_use`.
    pub(super) fn end(self, of_use: bool) {
        if of_use {
            self.turns.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::time::sleep;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    /// A turn of this length for each of several who begin to wait at once, and whether the last
    /// gets one.
    async fn last_of(count: u32, each: Duration, of_use: bool) -> bool {
        let turns = Arc::<Turns>::default();
        let mut last = None;
        for _ in 0..count {
            let turns = Arc::clone(&turns);
            last = Some(tokio::spawn(async move {
                let turn = turns.take(PATIENCE).await;
                let is_taken = turn.is_some();
                if let Some(turn) = turn {
                    sleep(each).await;
                    turn.end(of_use);
                }
                is_taken
            }));
        }
        last.unwrap().await.unwrap()
    }

    /// A thousand agents of one process take longer together than any of them may take.
    #[tokio::test]
    async fn who_waits_behind_many_waits_as_long_as_it_goes_on() {
        assert!(last_of(12, PATIENCE / 4, true).await);
    }

    #[tokio::test]
    async fn who_waits_behind_one_that_is_stuck_is_told() {
        assert!(!last_of(2, PATIENCE * 4, true).await);
        assert!(!last_of(12, PATIENCE / 4, false).await, "nothing was done");
    }
}

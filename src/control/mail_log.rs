//! The mail of an agent of this process.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::stream::{self, Stream};
use tokio::sync::watch;

use super::MailEvent;

/// Most events that are kept for an agent; like the server's streams, it drops older ones.
const MAILBOX_CAPACITY: usize = 1000;

/// Mail: a log that every reader reads from the beginning.
#[derive(Debug)]
pub(super) struct MailLog {
    log: Mutex<Log>,
    /// Number of events ever added.
    pushed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    /// Number of the oldest event that is kept.
    first: u64,
    events: VecDeque<MailEvent>,
}

impl Default for MailLog {
    fn default() -> Self {
        Self {
            log: Mutex::default(),
            pushed: watch::Sender::new(0),
        }
    }
}

impl MailLog {
    /// Adds an event.
    pub(super) fn push(&self, event: MailEvent) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.events.len() == MAILBOX_CAPACITY {
            log.events.pop_front();
            log.first += 1;
        }
        log.events.push_back(event);
        drop(log);
        self.pushed.send_modify(|count| *count += 1);
    }

    /// The event numbered `at`, or the oldest one kept after it, with its number.
    fn get(&self, at: u64) -> Option<(u64, MailEvent)> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let at = at.max(log.first);
        let index = usize::try_from(at - log.first).ok()?;
        Some((at, log.events.get(index)?.clone()))
    }

    /// A stream of all events, those kept and those to come.
    pub(super) fn read(self: Arc<Self>) -> impl Stream<Item = MailEvent> + Send {
        let pushed = self.pushed.subscribe();
        stream::unfold((self, pushed, 0), |(log, mut pushed, at)| async move {
            loop {
                pushed.mark_unchanged();
                if let Some((at, event)) = log.get(at) {
                    return Some((event, (log, pushed, at + 1)));
                }
                pushed.changed().await.ok()?;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    #[tokio::test]
    async fn input_1_mail_that_nobody_reads_keeps_only_the_newest_events() {
        let log = Arc::new(MailLog::default());
        for number in 0..MAILBOX_CAPACITY + 5 {
            log.push(MailEvent::Left {
                peer: number.to_string(),
            });
        }
        let mut events = Box::pin(log.read());
        let oldest = MailEvent::Left {
            peer: "5".to_owned(),
        };
        assert_eq!(events.next().await, Some(oldest));
    }
}

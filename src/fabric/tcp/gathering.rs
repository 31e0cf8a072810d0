//! When frames wait for the next poll, to leave together.
//!
//! A system call for each frame is most of what a small frame costs. While others are on their way
//! that have not been answered, whoever posts polls soon: for the answers. Frames wait for that
//! poll, but not many of them, and not if nobody polls. A frame that is alone leaves at once.

use std::time::{Duration, Instant};

use super::completion_queue::TcpCompletionQueue;
use super::output::Output;

/// Posts that leave together at most.
const POSTS: u32 = 16;
/// Posts after which whoever has not polled meanwhile does not do so soon.
const UNPOLLED: u32 = 256;
/// Bytes that wait at most.
const BYTES: usize = 16 * 1024;
/// Between two posts of one who has more to post. Whoever does something else in between may do so
/// for long after the next one, too.
const PAUSE: Duration = Duration::from_micros(20);

#[cfg(test)]
thread_local! {
    /// What counts instead for posts of this thread, for tests on machines of any speed.
    pub(crate) static PAUSE_HERE: std::cell::Cell<Duration> = const { std::cell::Cell::new(PAUSE) };
}

fn pause() -> Duration {
    #[cfg(test)]
    return PAUSE_HERE.get();
    #[cfg(not(test))]
    PAUSE
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Frames wait, and for nothing but the next poll.
    is_waiting: bool,
    /// Posts since that began.
    posts: u32,
    /// Polls at the last post, and the posts since they were as many.
    polls: u64,
    unpolled: u32,
    /// When something was posted while others were unanswered.
    posted: Option<Instant>,
}

impl Gathering {
    /// Whether frames wait for the next poll, and not for the socket to take more.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Something was posted while others were unanswered. Returns whether it waits for the next
    /// poll of `queue`.
    pub(super) fn waits(&mut self, output: &Output, queue: &TcpCompletionQueue) -> bool {
        let now = Instant::now();
        let before = self.posted.replace(now);
        let is_soon = before.is_some_and(|before| now.duration_since(before) < pause());
        let polls = queue.polls();
        if std::mem::replace(&mut self.polls, polls) != polls {
            self.unpolled = 0;
        }
        if !self.is_waiting {
            self.posts = 0;
        }
        self.unpolled = self.unpolled.saturating_add(1);
        self.posts += 1;
        self.is_waiting =
            is_soon && self.posts < POSTS && self.unpolled < UNPOLLED && output.is_below(BYTES);
        self.is_waiting
    }

    /// What waited is sent now.
    pub(super) fn end(&mut self) {
        self.is_waiting = false;
    }
}

//! When frames wait for the next poll, to leave together.
//!
//! A system call for each frame is most of what a small frame costs. While others are on their way
//! that have not been answered, whoever posts polls soon: for the answers. Frames wait for that
//! poll, but not many of them, and not if nobody polls. A frame that is alone leaves at once.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::completion_queue::TcpCompletionQueue;
use super::output::Output;
use crate::fabric::Gid;

/// Posts that leave together at most.
const POSTS: u32 = 16;
/// Posts after which whoever has not polled meanwhile does not do so soon.
const UNPOLLED: u32 = 256;
/// Bytes that wait at most.
const BYTES: usize = 16 * 1024;
/// Between two posts of one who has more to post. Whoever does something else in between may do so
/// for long after the next one, too.
const PAUSE: Duration = Duration::from_micros(20);

/// What a thread posted last while others were unanswered. Whoever calls many peers in turn posts
/// for each of them seldom, and polls soon all the same.
#[derive(Debug, Clone, Copy)]
struct Posted {
    device: Gid,
    at: Instant,
    /// How often the device's frames had been sent by a poll, and the posts since then that came
    /// soon after one another.
    settled: u64,
    unpolled: u32,
}

thread_local! {
    static POSTED: Cell<Option<Posted>> = const { Cell::new(None) };
}

#[cfg(test)]
thread_local! {
    /// What counts instead of [`PAUSE`] for posts of this thread, for tests on machines of any
    /// speed.
    pub(crate) static PAUSE_HERE: Cell<Duration> = const { Cell::new(PAUSE) };
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
}

impl Gathering {
    /// Whether frames wait for the next poll, and not for the socket to take more.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Something was posted while others were unanswered. Returns whether it waits for the next
    /// poll of `queue`, or of another one of its device, whose polls have sent frames `settled`
    /// times.
    pub(super) fn waits(
        &mut self,
        output: &Output,
        queue: &TcpCompletionQueue,
        settled: u64,
    ) -> bool {
        let (device, at) = (queue.device(), Instant::now());
        let is_soon_after =
            |last: &Posted| last.device == device && at.duration_since(last.at) < pause();
        let last = POSTED.get().filter(is_soon_after);
        let unpolled = last.map_or(0, |last| match last.settled == settled {
            true => last.unpolled.saturating_add(1),
            false => 1,
        });
        POSTED.set(Some(Posted {
            device,
            at,
            settled,
            unpolled,
        }));
        let is_soon = (1..UNPOLLED).contains(&unpolled);
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

//! Wakes sleepers on a queue at a given time, which the device cannot do.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::fabric::{CompletionQueue, FabricError};

/// A descriptor that is readable when that of the device's queue is, or when a timer has run out.
#[derive(Debug)]
pub(super) struct FaultTimer {
    timer: OwnedFd,
    both: OwnedFd,
}

const NEVER: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

impl FaultTimer {
    pub(super) fn new(queue: &dyn CompletionQueue) -> Result<Self, FabricError> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)
            .map_err(FabricError::os("creating a timer"))?;
        let both = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(FabricError::os("joining event descriptors"))?;
        for (fd, number) in [(timer.as_fd(), 0), (queue.event_fd(), 1)] {
            let data = epoll::EventData::new_u64(number);
            epoll::add(&both, fd, data, epoll::EventFlags::IN)
                .map_err(FabricError::os("joining event descriptors"))?;
        }
        Ok(Self { timer, both })
    }

    /// The descriptor, readable when there is something to poll for.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.both.as_fd()
    }

    /// Sets when to wake, in place of an earlier setting. Events that were raised stay.
    pub(super) fn set(&self, at: Option<Instant>, now: Instant) {
        if is_readable(self.timer.as_fd()) {
            return;
        }
        let value = at.map_or(NEVER, |at| {
            // Zero would disarm the timer.
            let left = at
                .saturating_duration_since(now)
                .max(Duration::from_nanos(1));
            Timespec::try_from(left).unwrap_or(NEVER)
        });
        let value = Itimerspec {
            it_interval: NEVER,
            it_value: value,
        };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value) {
            tracing::warn!(%error, "a timer cannot be set");
        }
    }

    /// Consumes what the timer and `queue` have raised. Returns whether they had raised anything.
    pub(super) fn clear(&self, queue: &dyn CompletionQueue) -> bool {
        let was_raised = is_readable(self.fd());
        queue.clear_events();
        // Fails if the timer has not run out.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        was_raised
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&NEVER)).is_ok_and(|ready| ready > 0)
}

//! How a thread outside of every runtime sleeps.

use std::cell::OnceCell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::fabric::eventfd;

/// Puts a thread to sleep; each thread has one. Its waker ends the thread's sleep, or the next one
/// if it is awake.
#[derive(Debug)]
pub struct Parker {
    thread: Thread,
    notified: AtomicBool,
    /// Whether the thread sleeps on file descriptors, of which `event` is one.
    is_watching: AtomicBool,
    /// `None` if the process was out of descriptors.
    event: Option<OwnedFd>,
}

/// Why a sleep on a file descriptor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    ByDescriptor,
    /// The waker, the clock, or nothing.
    Otherwise,
}

thread_local! {
    /// One per thread: making one for each call would allocate.
    static OWN: OnceCell<(Arc<Parker>, Waker)> = const { OnceCell::new() };
}

impl Parker {
    /// Runs `work` with the parker of this thread and its waker.
    ///
    /// ```
    /// use slimerpc::channel::Parker;
    /// Parker::with(|parker, waker| {
    ///     waker.wake_by_ref();
    ///     parker.park(None); // does not sleep
    /// });
    /// ```
    pub fn with<T>(work: impl FnOnce(&Self, &Waker) -> T) -> T {
        let mut work = Some(work);
        let mut worked = |(parker, waker): &(Arc<Self>, Waker)| {
            let work = work.take().expect("it is done once");
            work(parker, waker)
        };
        match OWN.try_with(|own| worked(own.get_or_init(Self::new))) {
            Ok(done) => done,
            // The thread is ending.
            Err(_) => worked(&Self::new()),
        }
    }

    fn new() -> (Arc<Self>, Waker) {
        let parker = Arc::new(Self {
            thread: thread::current(),
            notified: AtomicBool::new(false),
            is_watching: AtomicBool::new(false),
            event: eventfd::create().ok(),
        });
        (parker.clone(), parker.into())
    }

    /// Sleeps until woken, or until this time. May return early for no reason.
    pub fn park(&self, until: Option<Instant>) {
        if self.take_notice() {
            return;
        }
        match until {
            None => thread::park(),
            Some(until) => thread::park_timeout(until.saturating_duration_since(Instant::now())),
        }
        self.take_notice();
    }

    /// Sleeps until woken, until this time, or until `fd` is readable. Returns `None` at once if it
    /// cannot sleep on that.
    pub(super) fn park_on(&self, fd: BorrowedFd<'_>, until: Option<Instant>) -> Option<Woken> {
        let event = self.event.as_ref()?;
        let mut fds = [
            PollFd::from_borrowed_fd(fd, PollFlags::IN),
            PollFd::new(event, PollFlags::IN),
        ];
        self.is_watching.store(true, Ordering::Relaxed);
        // Pairs with the fence in `wake`: either the waker sees that this thread watches, or this
        // thread sees the notice.
        fence(Ordering::SeqCst);
        if !self.is_notified() {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            // It may be interrupted, which counts as waking for no reason.
            let _ = poll(&mut fds, left.as_ref());
        }
        self.is_watching.store(false, Ordering::Relaxed);
        if !fds[1].revents().is_empty() {
            eventfd::lower(event);
        }
        let is_readable = !fds[0].revents().is_empty();
        Some(match self.take_notice() {
            false if is_readable => Woken::ByDescriptor,
            _ => Woken::Otherwise,
        })
    }

    /// Returns whether it was woken since the last time.
    pub(super) fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Acquire)
    }

    /// Returns whether it was woken since the last time, and resets that.
    pub(super) fn take_notice(&self) -> bool {
        self.is_notified() && self.notified.swap(false, Ordering::Acquire)
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notified.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if let (Some(event), true) = (&self.event, self.is_watching.load(Ordering::Relaxed)) {
            eventfd::raise(event);
        }
        // In any case: the thread may have stopped watching since.
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::fd::AsFd;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Nothing takes so long unless it hangs.
    const LONG: Duration = Duration::from_secs(30);

    /// Wakes a thread that `sleep` has put to sleep, once the kernel says that it sleeps.
    fn is_woken(sleep: impl Fn(&Parker) + Send + 'static) {
        let (tell, told) = mpsc::channel();
        let (say, said) = mpsc::channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = is_over.clone();
        thread::spawn(move || {
            Parker::with(|parker, waker| {
                tell.send((rustix::thread::gettid(), waker.clone()))
                    .unwrap();
                // It may wake up for nothing.
                while !ends.load(Ordering::Acquire) {
                    sleep(parker);
                }
                say.send(()).unwrap();
            });
        });
        let (thread, waker) = told.recv_timeout(LONG).unwrap();
        let until = Instant::now() + LONG;
        while !is_asleep(thread.as_raw_nonzero().get()) {
            assert!(Instant::now() < until, "it does not go to sleep");
            thread::yield_now();
        }
        is_over.store(true, Ordering::Release);
        waker.wake();
        said.recv_timeout(LONG).expect("the thread is woken");
    }

    /// Whether a thread of ours waits in the kernel.
    fn is_asleep(thread: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        let (_, state) = stat.rsplit_once(") ").unwrap();
        state.starts_with('S')
    }

    #[test]
    fn call_1_a_waker_wakes_its_thread_however_that_sleeps() {
        is_woken(|parker| parker.park(None));
        is_woken(|parker| parker.park(Some(Instant::now() + 10 * LONG)));
        let queue = eventfd::create().unwrap();
        is_woken(move |parker| {
            let woken = parker.park_on(queue.as_fd(), None);
            assert_eq!(woken, Some(Woken::Otherwise));
        });
    }

    /// The waker sees that the thread watches descriptors, and it does not any more.
    #[test]
    fn call_1_a_waker_wakes_a_thread_that_has_stopped_watching_since() {
        is_woken(|parker| {
            parker.is_watching.store(true, Ordering::Relaxed);
            parker.park(None);
        });
    }

    #[test]
    fn call_1_who_is_woken_while_awake_does_not_sleep() {
        let queue = eventfd::create().unwrap();
        Parker::with(|parker, waker| {
            waker.wake_by_ref();
            parker.park(None);
            waker.wake_by_ref();
            let woken = parker.park_on(queue.as_fd(), None);
            assert_eq!(woken, Some(Woken::Otherwise));
            assert!(!parker.is_notified());
        });
    }
}

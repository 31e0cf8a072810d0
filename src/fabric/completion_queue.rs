//! Completion queues, and how a tokio runtime awaits one.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Completion, FabricError};

/// A completion queue: the half that many owners share, which they arm and await by file
/// descriptor. The queue's one [`Poller`] takes the completions.
///
/// An *armed* queue raises one event at its next completion, and is then no longer armed. An event
/// makes the file descriptor readable. A queue that is not armed raises none, so whoever only polls
/// costs its peers no system call.
///
/// A device may leave a queue armed after an event, so that whoever sleeps again and again need not
/// arm it anew at a cost. Such a queue may raise further events until it has been polled for long,
/// 2,000 times at most. So whoever is woken polls, and may find nothing.
///
/// The order that loses no event is that of `ibv_req_notify_cq`: [`arm`](Self::arm), poll once
/// more, and only if that found nothing wait until [`event_fd`](Self::event_fd) is readable, then
/// [`clear_events`](Self::clear_events). Entries from before the arming raise no event.
pub trait CompletionQueue: Any + Send + Sync + fmt::Debug {
    /// Requests one event at the next completion.
    ///
    /// # Errors
    /// The device refuses.
    fn arm(&self) -> Result<(), FabricError>;

    /// Requests one event at the next completion that the peer [marked as
    /// solicited](super::SendRequest::solicited), or that is a failure. Other completions may raise
    /// an event, too: providers differ in this.
    ///
    /// # Errors
    /// The device refuses.
    fn arm_solicited(&self) -> Result<(), FabricError> {
        self.arm()
    }

    /// The file descriptor that becomes readable after an event, until
    /// [`clear_events`](Self::clear_events). Usable with epoll.
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// Consumes the events that were raised. Does not block; does nothing if there are none.
    fn clear_events(&self);

    /// Returns whether each event is an edge on the descriptor, cleared or not. An edge-triggered
    /// waiter then need not clear events.
    fn has_edges(&self) -> bool {
        false
    }
}

/// Both halves of a new completion queue.
pub type QueueHalves = (Arc<dyn CompletionQueue>, Box<dyn Poller>);

/// The half of a completion queue that takes its completions. Each queue has one, so polling needs
/// no lock.
pub trait Poller: Send + fmt::Debug {
    /// Moves up to `out.len()` completions into `out`, oldest first for each queue pair, and
    /// returns their number.
    ///
    /// # Errors
    /// The queue itself has failed (overrun, device gone). Its queue pairs are unusable then.
    fn poll(&mut self, out: &mut [Completion]) -> Result<usize, FabricError>;

    /// Returns whether [`poll`](Self::poll) would find nothing, by a check that is cheaper than
    /// `poll`: for busy pollers. Returns `false` if there is no cheaper check.
    fn is_quiet(&self) -> bool {
        false
    }
}

impl Completion {
    /// A placeholder to fill the array for [`Poller::poll`] with.
    ///
    /// ```
    /// use slimerpc::fabric::Completion;
    /// let batch = [Completion::EMPTY; 16];
    /// assert_eq!(batch[0].wr_id, 0);
    /// ```
    pub const EMPTY: Self = Self {
        wr_id: 0,
        status: super::CompletionStatus::Success,
        opcode: super::Opcode::Write,
        byte_len: 0,
        imm: None,
        qp_num: 0,
    };
}

/// The events of one completion queue, seen through the current runtime's reactor.
#[derive(Debug)]
pub struct CompletionEvents {
    fd: AsyncFd<EventFd>,
    queue: Arc<dyn CompletionQueue>,
}

/// The descriptor that a reactor watches.
#[derive(Debug)]
enum EventFd {
    /// The one that this queue has.
    Own(
        RawFd,
        #[expect(dead_code, reason = "keeps it open")] Arc<dyn CompletionQueue>,
    ),
    /// A duplicate, where the reactor watches that one already.
    Duplicate(OwnedFd),
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Own(fd, _) => *fd,
            Self::Duplicate(fd) => fd.as_raw_fd(),
        }
    }
}

impl CompletionEvents {
    /// Registers the queue's file descriptor with the current tokio runtime.
    ///
    /// # Errors
    /// The process is out of file descriptors, or the reactor refuses.
    ///
    /// # Panics
    /// If called outside of a tokio runtime with I/O enabled.
    pub fn new(queue: Arc<dyn CompletionQueue>) -> io::Result<Self> {
        let own = EventFd::Own(queue.event_fd().as_raw_fd(), queue.clone());
        let fd = match Self::register(own) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let duplicate = queue.event_fd().as_fd().try_clone_to_owned()?;
                Self::register(EventFd::Duplicate(duplicate))?
            }
            registered => registered?,
        };
        Ok(Self { fd, queue })
    }

    fn register(fd: EventFd) -> io::Result<AsyncFd<EventFd>> {
        // SAFETY: the descriptor stays open as long as it is registered: the `AsyncFd` owns it, or
        // the queue that it is borrowed from. `EventFd` always gives the same one.
        Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? })
    }

    /// Polls for an event that the queue has raised since it was armed, and consumes it.
    ///
    /// # Errors
    /// The reactor has ended.
    pub fn poll_raised(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut readable = ready!(self.fd.poll_read_ready(context))?;
        if !self.queue.has_edges() {
            self.queue.clear_events();
        }
        readable.clear_ready();
        Poll::Ready(Ok(()))
    }

    /// Waits for an event that the queue has raised since it was armed, and consumes it.
    ///
    /// # Errors
    /// The reactor has ended.
    pub async fn raised(&self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_raised(context)).await
    }
}

//! Awaits a completion queue inside a tokio runtime.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::CompletionQueue;

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

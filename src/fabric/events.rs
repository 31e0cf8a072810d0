//! Awaits a completion queue inside a tokio runtime.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::CompletionQueue;

/// The events of one completion queue, seen through the current runtime's reactor.
#[derive(Debug)]
pub struct CompletionEvents {
    fd: AsyncFd<OwnedFd>,
    queue: Arc<dyn CompletionQueue>,
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
        let fd = queue.event_fd().as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is owned by the `AsyncFd` and a duplicate made for it, so nobody
        // else closes or replaces it while it is registered; `OwnedFd` always gives the same
        // descriptor.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok(Self { fd, queue })
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

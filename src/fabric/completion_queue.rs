//! Completion queues.

use std::any::Any;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{Completion, FabricError};

/// Where completions arrive: the half that many share, which is armed and awaited by file descriptor. The completions are
/// taken by the queue's one [`Poller`].
///
/// The order that loses no event is the one of `ibv_req_notify_cq`: [`arm`](Self::arm), poll once more,
/// and only if that found nothing wait until [`event_fd`](Self::event_fd) is readable, then
/// [`clear_events`](Self::clear_events). Entries that were there before arming raise no event.
pub trait CompletionQueue: Any + Send + Sync + fmt::Debug {
    /// Asks for one event at the next completion.
    ///
    /// # Errors
    /// When the device refuses.
    fn arm(&self) -> Result<(), FabricError>;

    /// Asks for one event at the next completion that the peer [wants](super::SendRequest::solicited) to be noticed, or that
    /// is a failure. Others may raise one, too: that is not left to providers, which differ in what they do about failures.
    ///
    /// # Errors
    /// When the device refuses.
    fn arm_solicited(&self) -> Result<(), FabricError> {
        self.arm()
    }

    /// Readable after an event, until [`clear_events`](Self::clear_events). Fit for epoll.
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// Consumes the events that have been raised. Does not block; harmless when there are none.
    fn clear_events(&self);

    /// Whether each event is an edge on the descriptor, cleared or not. Whoever awaits edges then need not clear them.
    fn has_edges(&self) -> bool {
        false
    }
}

/// Both halves of a new completion queue.
pub type QueueHalves = (Arc<dyn CompletionQueue>, Box<dyn Poller>);

/// Takes the completions of one queue. There is one for each queue, so that polling needs no lock.
pub trait Poller: Send + fmt::Debug {
    /// Moves up to `out.len()` completions into `out`, oldest first for each queue pair, and says how many.
    ///
    /// # Errors
    /// When the queue itself has failed (overrun, device gone). Its queue pairs are of no use then.
    fn poll(&mut self, out: &mut [Completion]) -> Result<usize, FabricError>;

    /// Whether [`poll`](Self::poll) would find nothing, by a look that is cheaper than that one. For who spins; `false` if
    /// there is no cheaper look.
    fn is_quiet(&self) -> bool {
        false
    }
}

impl Completion {
    /// A placeholder, to build the array that [`Poller::poll`] fills.
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

//! Takes the completions of a queue.

use std::sync::Arc;

use super::completion_queue::TcpCompletionQueue;
use crate::fabric::{Completion, FabricError, Poller};

/// Takes what is there, and looks at the sockets if there is nothing.
#[derive(Debug)]
pub(super) struct TcpPoller(Arc<TcpCompletionQueue>);

impl TcpPoller {
    pub(super) fn new(queue: Arc<TcpCompletionQueue>) -> Self {
        Self(queue)
    }
}

impl Poller for TcpPoller {
    fn poll(&mut self, out: &mut [Completion]) -> Result<usize, FabricError> {
        self.0.note_poll();
        let count = self.0.take(out);
        if count > 0 {
            return Ok(count);
        }
        self.0.progress();
        Ok(self.0.take(out))
    }
}

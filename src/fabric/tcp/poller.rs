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
        Ok(self.0.poll(out))
    }
}

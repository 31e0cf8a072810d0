//! A device whose completion queues have trouble when they are told to.

use std::sync::{Arc, Mutex, PoisonError};

use crate::channel::dialer::OWNER;
use crate::channel::work_id::WorkId;
use crate::fabric::{
    Access, Completion, CompletionStatus, Device, DeviceLimits, FabricError, MemoryRegion, Poller,
    PortAttributes, QueueHalves, QueuePair, QueuePairInit,
};

/// What the next poll finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// As many completions as it asks for, and so does each poll after it.
    Flood,
    /// That a work request has failed; what has arrived is found by the poll after it.
    Failure,
}

/// Polls after which a flood has no end.
const LONG: usize = 10_000;

#[derive(Debug, Default)]
struct TroubleState {
    trouble: Option<Trouble>,
    flooded: usize,
}

/// A device whose completion queues have trouble on command.
#[derive(Debug)]
pub(super) struct TroubledDevice {
    device: Arc<dyn Device>,
    state: Arc<Mutex<TroubleState>>,
}

impl TroubledDevice {
    pub(super) fn new(device: Arc<dyn Device>) -> Arc<Self> {
        let state = Arc::default();
        Arc::new(Self { device, state })
    }

    pub(super) fn set(&self, trouble: Trouble) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.trouble = Some(trouble);
    }

    /// Whether a flood was read until it ended.
    pub(super) fn is_drowned(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.flooded >= LONG
    }
}

#[derive(Debug)]
struct TroubledPoller {
    poller: Box<dyn Poller>,
    state: Arc<Mutex<TroubleState>>,
}

impl TroubledPoller {
    /// What this poll finds instead of what has arrived.
    fn trouble(&self) -> Option<Trouble> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.trouble == Some(Trouble::Flood) && state.flooded < LONG {
            return state.trouble;
        }
        state
            .trouble
            .take_if(|trouble| *trouble == Trouble::Failure)
    }
}

impl Poller for TroubledPoller {
    fn poll(&mut self, out: &mut [Completion]) -> Result<usize, FabricError> {
        match self.trouble() {
            None => self.poller.poll(out),
            Some(Trouble::Flood) => {
                // Of nobody, so that there is always room for more.
                out.fill(Completion {
                    wr_id: u64::MAX,
                    ..Completion::EMPTY
                });
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.flooded += 1;
                Ok(out.len())
            }
            Some(Trouble::Failure) => {
                let id = WorkId {
                    receive: true,
                    owner: OWNER,
                    queue_pair: 0,
                    retires: 0,
                };
                out[0] = Completion {
                    wr_id: id.to_bits(),
                    status: CompletionStatus::RetryExceeded,
                    ..Completion::EMPTY
                };
                Ok(1)
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.poller.is_quiet()
    }
}

impl Device for TroubledDevice {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn port(&self) -> PortAttributes {
        self.device.port()
    }

    fn limits(&self) -> DeviceLimits {
        self.device.limits()
    }

    fn register(&self, len: usize, access: Access) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        self.device.register(len, access)
    }

    fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
        let (queue, poller) = self.device.create_completion_queue(depth)?;
        let state = self.state.clone();
        Ok((queue, Box::new(TroubledPoller { poller, state })))
    }

    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        self.device.create_queue_pair(init)
    }
}

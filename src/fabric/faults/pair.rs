//! The part of a queue pair that its completion queues use, too.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::controller::lock;
use crate::fabric::{
    Completion, CompletionStatus, FabricError, QueuePair, QueuePairState, RecvRequest, SendRequest,
};

/// A queue pair under faults. Queues lock themselves before they lock this, and never the other way
/// round.
#[derive(Debug)]
pub(super) struct Pair {
    /// Number of the queue pair in the order of creation.
    pub(super) ordinal: u64,
    /// Number of the queue pair on the device.
    pub(super) number: u32,
    end: Mutex<PairEnd>,
}

/// The locked part of a [`Pair`].
#[derive(Debug)]
pub(super) struct PairEnd {
    /// `None` once the owner has dropped it. No other owner may keep it alive: it is drained as it
    /// is dropped (DROP-1).
    qp: Option<Box<dyn QueuePair>>,
    /// Receives that are posted later.
    withheld: VecDeque<RecvRequest>,
    withheld_until: Option<Instant>,
    /// A send that was not executed, and the status that it completes with.
    doomed: Option<(u64, CompletionStatus)>,
    /// Whether a failure was reported that the device does not know of: everything after it is
    /// flushed.
    is_spoiled: bool,
}

impl Pair {
    pub(super) fn new(ordinal: u64, qp: Box<dyn QueuePair>) -> Self {
        Self {
            ordinal,
            number: qp.number(),
            end: Mutex::new(PairEnd {
                qp: Some(qp),
                withheld: VecDeque::new(),
                withheld_until: None,
                doomed: None,
                is_spoiled: false,
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, PairEnd> {
        lock(&self.end)
    }

    /// Moves a connected queue pair to ERR. Returns whether it was connected.
    pub(super) fn lose(&self) -> bool {
        let mut end = self.lock();
        let is_connected = end.state() == QueuePairState::Rts;
        if is_connected {
            end.fail();
        }
        is_connected
    }

    /// Posts the receives whose time has come. Returns when to call again, if any are left.
    pub(super) fn post_withheld(&self, now: Instant) -> Option<Instant> {
        let mut end = self.lock();
        let until = end.withheld_until?;
        if now < until {
            return Some(until);
        }
        end.post_withheld();
        None
    }

    /// Changes a completion into what is to be seen after earlier faults.
    pub(super) fn correct(&self, completion: &mut Completion) {
        let mut end = self.lock();
        if completion.status.is_success() {
            if end.is_spoiled {
                completion.status = CompletionStatus::Flushed;
            }
            return;
        }
        if let Some((_, status)) = end.doomed.take_if(|(wr_id, _)| *wr_id == completion.wr_id) {
            completion.status = status;
        }
    }

    /// Notes that a completion is reported as failed.
    pub(super) fn spoil(&self) {
        let mut end = self.lock();
        end.is_spoiled = true;
        end.fail();
    }
}

impl PairEnd {
    pub(super) fn state(&self) -> QueuePairState {
        self.qp
            .as_ref()
            .map_or(QueuePairState::Error, |qp| qp.state())
    }

    /// The queue pair, which exists until its owner drops it.
    pub(super) fn qp(&mut self) -> &mut dyn QueuePair {
        let qp = self.qp.as_mut();
        &mut **qp.expect("the owner asks, so it has not been dropped")
    }

    /// Takes the queue pair, to drop it.
    pub(super) fn take(&mut self) -> Option<Box<dyn QueuePair>> {
        self.qp.take()
    }

    /// Posts a receive after those that are withheld.
    pub(super) fn post_recv(&mut self, request: RecvRequest) -> Result<(), FabricError> {
        if self.withheld_until.is_some() {
            self.withheld.push_back(request);
            return Ok(());
        }
        self.qp().post_recv(request)
    }

    /// Withholds receives from now on.
    pub(super) fn withhold(&mut self, until: Instant) {
        self.withheld_until = self.withheld_until.max(Some(until));
    }

    /// Posts a send that is not executed and completes with `status`.
    pub(super) fn post_doomed(
        &mut self,
        request: &SendRequest<'_>,
        status: CompletionStatus,
    ) -> Result<(), FabricError> {
        self.fail();
        self.doomed = Some((request.wr_id, status));
        self.qp().post_send(request)
    }

    /// Moves the queue pair to ERR.
    pub(super) fn fail(&mut self) {
        self.post_withheld();
        if let Some(qp) = &mut self.qp
            && let Err(error) = qp.to_error()
        {
            tracing::warn!(%error, "a queue pair that is to fail does not go to error");
        }
    }

    /// Forgets everything that was posted.
    pub(super) fn forget(&mut self) {
        self.withheld.clear();
        self.withheld_until = None;
        self.doomed = None;
        self.is_spoiled = false;
    }

    /// Posts all receives that are withheld.
    pub(super) fn post_withheld(&mut self) {
        self.withheld_until = None;
        let Some(qp) = &mut self.qp else { return };
        for request in self.withheld.drain(..) {
            if let Err(error) = qp.post_recv(request) {
                tracing::warn!(%error, "a receive that was withheld is refused");
            }
        }
    }
}

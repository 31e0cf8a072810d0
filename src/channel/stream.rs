//! Streams of items, as their service sees them.
//!
//! Each item is the answer to a request of its own: the first to the request that opens the stream,
//! the others to requests for the next item, of which a caller has several under way. So every item
//! is one write into a slot that is free for it, and a caller that does not read gets no more than
//! it has asked for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{Inbound, RequestId};
use crate::panics::wake_all;
use crate::wire::Fault;

/// The requests for items of a stream. The code that receives requests and the code that makes
/// items share it.
#[derive(Debug, Default)]
pub(super) struct StreamCredit(Mutex<StreamState>);

#[derive(Debug, Default)]
struct StreamState {
    /// Requests for items, in the order in which they came.
    asked: VecDeque<Inbound>,
    phase: Phase,
    /// Waker of the task that makes the items.
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Open,
    /// The caller wants no more.
    Unwanted,
    /// There are no more items; with the reason, if the caller does not know it yet.
    Over(Option<Fault>),
}

impl StreamCredit {
    /// Adds a request for an item.
    pub(super) fn ask(&self, request: Inbound) {
        let mut state = self.lock();
        let failure = match &mut state.phase {
            Phase::Open => {
                state.asked.push_back(request);
                let waker = state.waker.take();
                drop(state);
                return wake_all(waker);
            }
            Phase::Unwanted => None,
            Phase::Over(failure) => failure.take(),
        };
        drop(state);
        match failure {
            Some(fault) => request.fail(fault),
            None => request.end(),
        }
    }

    /// Ends the stream, because the caller wants no more items.
    pub(super) fn cancel(&self) {
        let mut state = self.lock();
        state.phase = Phase::Unwanted;
        let asked = std::mem::take(&mut state.asked);
        let waker = state.waker.take();
        drop(state);
        asked.into_iter().for_each(Inbound::end);
        wake_all(waker);
    }

    /// Ends the stream if `request` is one of its requests for items. Returns whether it is.
    pub(super) fn cancel_request(&self, request: RequestId) -> bool {
        let is_asked = |asked: &Inbound| asked.id() == request;
        let is_of_this = self.lock().asked.iter().any(is_asked);
        if is_of_this {
            self.cancel();
        }
        is_of_this
    }

    /// Returns whether the stream has ended and the caller knows.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.lock().phase, Phase::Over(None))
    }

    /// Ends the stream, because there are no more items, or because of `failure`.
    pub(super) fn complete(&self, failure: Option<Fault>) {
        let mut state = self.lock();
        let mut asked = std::mem::take(&mut state.asked);
        let (first, failure) = match (failure, asked.pop_front()) {
            (Some(fault), Some(first)) => (Some((first, Some(fault))), None),
            (None, Some(first)) => (Some((first, None)), None),
            (failure, None) => (None, failure),
        };
        state.phase = match state.phase {
            // Nobody will ask for the reason.
            Phase::Unwanted => Phase::Over(None),
            _ => Phase::Over(failure),
        };
        drop(state);
        match first {
            Some((first, Some(fault))) => first.fail(fault),
            Some((first, None)) => first.end(),
            None => {}
        }
        asked.into_iter().for_each(Inbound::end);
    }

    fn poll_request(&self, context: &Context<'_>) -> Poll<Option<Inbound>> {
        let mut state = self.lock();
        if !matches!(state.phase, Phase::Open) {
            return Poll::Ready(None);
        }
        match state.asked.pop_front() {
            Some(request) => Poll::Ready(Some(request)),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_cancelled(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if !matches!(state.phase, Phase::Open) {
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, StreamState> {
        // Nothing that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The service's end of a stream, which [`Inbound::into_items`] makes of the request that opened
/// it. Dropped before it is finished, it tells the caller that the service is down.
#[derive(Debug)]
pub struct ItemSink {
    /// The request that opened the stream, which also asks for the first item.
    first: Option<Inbound>,
    stream_credit: Arc<StreamCredit>,
    patience: Duration,
    /// Name of the service, for the caller if this is dropped.
    service: String,
    is_finished: bool,
}

impl ItemSink {
    pub(super) fn new(
        first: Inbound,
        stream_credit: Arc<StreamCredit>,
        patience: Duration,
    ) -> Self {
        Self {
            service: first.service().to_owned(),
            first: Some(first),
            stream_credit,
            patience,
            is_finished: false,
        }
    }

    /// How long the caller may leave the stream without a request for an item.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Waits for the next request for an item, to be answered with [`Inbound::reply`]; `None` once
    /// no item is wanted any more.
    pub fn poll_request(&mut self, context: &Context<'_>) -> Poll<Option<Inbound>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.stream_credit.poll_request(context),
        }
    }

    /// Ready once no item is wanted any more.
    pub fn poll_cancelled(&self, context: &Context<'_>) -> Poll<()> {
        self.stream_credit.poll_cancelled(context)
    }

    /// Ends the stream, because there are no more items, or because of `failure`.
    pub fn finish(mut self, failure: Option<Fault>) {
        self.complete(failure);
    }

    fn complete(&mut self, failure: Option<Fault>) {
        self.is_finished = true;
        match (self.first.take(), failure) {
            (Some(first), Some(fault)) => {
                first.fail(fault);
                self.stream_credit.complete(None);
            }
            (Some(first), None) => {
                first.end();
                self.stream_credit.complete(None);
            }
            (None, failure) => self.stream_credit.complete(failure),
        }
    }
}

impl Drop for ItemSink {
    fn drop(&mut self) {
        if !self.is_finished {
            let service = std::mem::take(&mut self.service);
            self.complete(Some(Fault::ServiceDown { service }));
        }
    }
}

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

use super::wake::wake_all;
use super::{Inbound, RequestId};
use crate::wire::Fault;

/// What the caller of a stream asks for. Shared by where its requests arrive and where its items
/// are made.
#[derive(Debug, Default)]
pub struct StreamCredit(Mutex<StreamState>);

#[derive(Debug, Default)]
struct StreamState {
    /// Requests for items, in the order in which they came.
    asked: VecDeque<Inbound>,
    phase: Phase,
    /// Of whoever makes the items.
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Open,
    /// The caller wants no more.
    Unwanted,
    /// There are no more; why, if that was not said yet.
    Over(Option<Fault>),
}

impl StreamCredit {
    /// The caller asks for one more item.
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

    /// The caller wants no more items.
    pub fn cancel(&self) {
        let mut state = self.lock();
        state.phase = Phase::Unwanted;
        let asked = std::mem::take(&mut state.asked);
        let waker = state.waker.take();
        drop(state);
        asked.into_iter().for_each(Inbound::end);
        wake_all(waker);
    }

    /// The same if `request` is one of those for items. Says whether it is.
    pub(super) fn cancel_request(&self, request: RequestId) -> bool {
        let is_asked = |asked: &Inbound| asked.ticket() == request;
        let is_of_this = self.lock().asked.iter().any(is_asked);
        if is_of_this {
            self.cancel();
        }
        is_of_this
    }

    /// Whether nobody makes items any more and everything has been said about that.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.lock().phase, Phase::Over(None))
    }

    /// There are no more items; because of `failure`, if there is one.
    pub(super) fn complete(&self, failure: Option<Fault>) {
        let mut state = self.lock();
        let mut asked = std::mem::take(&mut state.asked);
        let (first, failure) = match (failure, asked.pop_front()) {
            (Some(fault), Some(first)) => (Some((first, Some(fault))), None),
            (None, Some(first)) => (Some((first, None)), None),
            (failure, None) => (None, failure),
        };
        state.phase = match state.phase {
            // Nobody will ask why.
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

/// Where the items of a stream go, made of the request that opened it by [`Inbound::into_items`].
/// Dropped before it is finished, it tells the caller that the service is down.
#[derive(Debug)]
pub struct ItemSink {
    /// The request that opened the stream, which asks for the first item.
    first: Option<Inbound>,
    stream_credit: Arc<StreamCredit>,
    patience: Duration,
    /// To be told if this is dropped.
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

    /// How long the caller may leave a stream without asking for an item.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// The next request for an item, to be answered with [`Inbound::reply`]; `None` once none is
    /// wanted any more.
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

    /// There are no more items; because of `failure`, if there is one.
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

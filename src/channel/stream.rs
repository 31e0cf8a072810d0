//! Streams of items, as their service makes them.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::peer_channel::PeerChannel;
use super::{CallSpan, Inbound, Outcome};
use crate::wire::Fault;

/// The service's end of a stream, which [`Inbound::into_items`] makes of the request that opened
/// it. Dropped before it is finished, it tells the caller that the service is down.
#[derive(Debug)]
pub struct ItemSink {
    /// The request that opened the stream, which also asks for the first item.
    first: Option<Inbound>,
    channel: Arc<PeerChannel>,
    /// The id of that request.
    stream: u64,
    is_finished: bool,
    /// Told how the stream ends, if somebody wants to know.
    span: Option<CallSpan>,
}

impl ItemSink {
    pub(super) fn new(
        first: Inbound,
        channel: Arc<PeerChannel>,
        stream: u64,
        span: Option<CallSpan>,
    ) -> Self {
        Self {
            first: Some(first),
            channel,
            stream,
            is_finished: false,
            span,
        }
    }

    /// How long the caller may leave the stream without a request for an item.
    pub fn patience(&self) -> Duration {
        self.channel.service.stream_patience
    }

    /// Waits for the next request for an item, to be answered with [`Inbound::reply`]; `None` once
    /// no item is wanted any more.
    pub fn poll_request(&mut self, context: &Context<'_>) -> Poll<Option<Inbound>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.channel.poll_asked(self.stream, context.waker()),
        }
    }

    /// Ready once no item is wanted any more.
    pub fn poll_cancelled(&self, context: &Context<'_>) -> Poll<()> {
        self.channel.poll_unwanted(self.stream, context.waker())
    }

    /// Ends the stream, because there are no more items, or because of `failure`. The request
    /// `asked`, if it waits for an item, is answered with that.
    pub fn finish(mut self, asked: Option<Inbound>, failure: Option<Fault>) {
        if failure.is_some() {
            self.ends(Outcome::Error);
        }
        let failure = match (asked, failure) {
            (None, failure) => failure,
            (Some(asked), Some(failure)) => {
                asked.fail(failure);
                None
            }
            (Some(asked), None) => {
                asked.end();
                None
            }
        };
        self.complete(failure);
    }

    /// Ends the stream, because its caller wants no more items, also not the one that it `asked`
    /// for.
    pub fn cancel(mut self, asked: Inbound) {
        self.ends(Outcome::Cancelled);
        asked.end();
        self.complete(None);
    }

    fn ends(&mut self, outcome: Outcome) {
        if let Some(span) = &mut self.span {
            span.ends(outcome);
        }
    }

    fn complete(&mut self, mut failure: Option<Fault>) {
        self.is_finished = true;
        if let Some(first) = self.first.take() {
            match failure.take() {
                Some(fault) => first.fail(fault),
                None => first.end(),
            }
        }
        self.channel.complete_stream(self.stream, failure);
    }
}

impl Drop for ItemSink {
    fn drop(&mut self) {
        if !self.is_finished {
            self.ends(Outcome::Cancelled);
            let service = self.channel.service.name.clone();
            self.complete(Some(Fault::ServiceDown { service }));
        }
    }
}

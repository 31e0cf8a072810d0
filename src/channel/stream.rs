//! Streams of items, as their service makes them.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Inbound;
use super::peer_channel::PeerChannel;
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
}

impl ItemSink {
    pub(super) fn new(first: Inbound, channel: Arc<PeerChannel>, stream: u64) -> Self {
        Self {
            first: Some(first),
            channel,
            stream,
            is_finished: false,
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

    /// Ends the stream, because there are no more items, or because of `failure`.
    pub fn finish(mut self, failure: Option<Fault>) {
        self.complete(failure);
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
            let service = self.channel.service.name.clone();
            self.complete(Some(Fault::ServiceDown { service }));
        }
    }
}

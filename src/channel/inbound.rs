//! A request, from its arrival to its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Profile;
use super::peer_channel::PeerChannel;
use super::ring_request::RingRequest;
use super::stream::ItemSink;
use crate::wire::{EncodeError, Fault, MessageKind};

/// The properties that all requests for a service share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Name of the service.
    pub name: String,
    /// How long the caller of a stream may leave it without a request for an item.
    pub stream_patience: Duration,
}

/// A request that is unanswered. Its bytes stay in the ring until it is answered (RING-1).
///
/// Every request is answered: dropping it answers with [`Fault::ServiceDown`].
#[derive(Debug)]
pub struct Inbound(RingRequest);

/// Identifies an unanswered request, even after it was handed to its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// Address of its channel.
    channel: usize,
    slot: u16,
    request_id: u64,
}

impl RequestId {
    pub(super) fn new(channel: &Arc<PeerChannel>, slot: u16, request_id: u64) -> Self {
        Self {
            channel: Arc::as_ptr(channel).addr(),
            slot,
            request_id,
        }
    }
}

impl Inbound {
    #[inline]
    pub(super) fn ring(request: RingRequest) -> Self {
        Self(request)
    }

    /// Number of the method.
    #[inline]
    pub fn method(&self) -> u32 {
        self.0.request().method
    }

    /// Alias of the caller.
    pub fn peer(&self) -> &str {
        &self.0.channel.peer
    }

    /// Name of the service that was called.
    pub fn service(&self) -> &str {
        &self.service_info().name
    }

    fn service_info(&self) -> &ServiceInfo {
        &self.0.channel.service
    }

    /// The protocol of the caller.
    pub fn profile(&self) -> Profile {
        self.0.channel.profile
    }

    /// Returns whether its caller can still be answered.
    pub fn is_connected(&self) -> bool {
        self.0.channel.closed().is_none()
    }

    /// When the caller stops waiting for the answer, if it said so.
    #[inline]
    pub fn expires(&self) -> Option<Instant> {
        self.0.request().expires
    }

    /// The id of this request.
    #[inline]
    pub fn id(&self) -> RequestId {
        self.0.id()
    }

    /// The arguments, borrowed from the ring, or from the memory that they were read into if they
    /// do not fit a slot. They begin at a multiple of 8 bytes.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.0.payload()
    }

    /// The arguments in place, to be turned into the answer that
    /// [`reply_rewritten`](Self::reply_rewritten) sends.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.0.payload_mut()
    }

    /// The arguments, and the send memory for the answer that
    /// [`reply_written`](Self::reply_written) sends.
    #[inline]
    pub fn parts(&mut self) -> (&[u8], &mut [u8]) {
        self.0.parts()
    }

    /// Answers with a result, encoded straight into send memory. `encode` is called again, with
    /// more room, if it asks for that and the caller is native. If there is none or the result does
    /// not encode, the caller gets a [`Fault`] that says so.
    pub fn reply(mut self, encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
        if let Err(error) = self.0.answer(MessageKind::Reply, encode) {
            self.fail(error.into());
        }
    }

    /// Answers with the first `len` bytes of the send memory among its [parts](Self::parts). If
    /// that has fewer, the caller gets a [`Fault`].
    pub fn reply_written(self, len: usize) {
        let limit = self.0.max_in_place();
        if len > limit {
            return self.fail(Fault::ReplyTooLarge {
                size: len as u64,
                limit: limit as u64,
            });
        }
        self.reply(|_| Ok(len));
    }

    /// Answers with the first `len` bytes of the [payload](Self::payload_mut), which are sent from
    /// where they stand. If it has fewer, the caller gets a [`Fault`].
    pub fn reply_rewritten(mut self, len: usize) {
        let limit = self.payload().len();
        if len > limit {
            return self.fail(Fault::ReplyTooLarge {
                size: len as u64,
                limit: limit as u64,
            });
        }
        self.0.answer_with_payload(len);
    }

    /// Answers with a failure, shortened if it does not fit.
    pub fn fail(mut self, fault: Fault) {
        self.0.fail(&fault)
    }

    /// Answers that the stream has no more items.
    pub fn end(mut self) {
        self.0.end()
    }

    /// Returns whether the caller opens a stream with it, and awaits items.
    pub fn opens_stream(&self) -> bool {
        self.0.opens_stream()
    }

    /// Converts the request into the sink of a stream. Returns `None` if the caller did not open a
    /// stream; it has been told.
    pub fn into_items(mut self) -> Option<ItemSink> {
        let Some(stream_credit) = self.0.take_demand() else {
            self.fail(Fault::NotStreamed);
            return None;
        };
        let patience = self.service_info().stream_patience;
        Some(ItemSink::new(self, stream_credit, patience))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_may_be_handled_and_answered_on_any_thread() {
        fn can_be_shared<T: Send + Sync>() {}
        can_be_shared::<Inbound>();
        can_be_shared::<super::super::Delivery>();
    }
}

//! A request from another process, from its arrival to its answer.

use std::sync::Arc;

use super::core::responder::{PreparedReply, SlotRequest};
use super::peer_channel::PeerChannel;
use super::stream::StreamCredit;
use super::{MemoryError, PooledBuffer, RequestId};
use crate::wire::{EncodeError, Extension, Fault, Header, MessageKind, StreamPart};

/// A request from another process. Dropping it unanswered answers with [`Fault::ServiceDown`].
#[derive(Debug)]
pub(super) struct RingRequest {
    pub(super) channel: Arc<PeerChannel>,
    /// `Some` until it is answered.
    request: Option<Box<SlotRequest>>,
}

impl RingRequest {
    #[inline]
    pub(super) fn new(channel: Arc<PeerChannel>, request: Box<SlotRequest>) -> Self {
        Self {
            channel,
            request: Some(request),
        }
    }

    /// The parsed request.
    #[inline]
    pub(super) fn request(&self) -> &SlotRequest {
        self.request.as_deref().expect("it is not answered")
    }

    #[inline]
    fn request_mut(&mut self) -> (&PeerChannel, &mut SlotRequest) {
        let request = self.request.as_deref_mut().expect("it is not answered");
        (&self.channel, request)
    }

    #[inline]
    pub(super) fn id(&self) -> RequestId {
        let request = self.request();
        RequestId::new(&self.channel, request.slot(), request.request_id)
    }

    /// The arguments, where they arrived.
    #[inline]
    pub(super) fn payload(&self) -> &[u8] {
        let request = self.request();
        match request.rare.as_ref().and_then(|rare| rare.outside.as_ref()) {
            Some(block) => block,
            None => &self.channel.requests.bytes(&request.arrived)[request.payload()],
        }
    }

    /// The arguments, to be changed in place.
    pub(super) fn payload_mut(&mut self) -> &mut [u8] {
        let (channel, request) = self.request_mut();
        let payload = request.payload();
        match request.rare.as_mut().and_then(|rare| rare.outside.as_mut()) {
            Some(block) => block,
            None => &mut channel.requests.bytes_mut(&mut request.arrived)[payload],
        }
    }

    /// The arguments, and the send memory for the answer.
    #[inline]
    pub(super) fn parts(&mut self) -> (&[u8], &mut [u8]) {
        let (channel, request) = self.request_mut();
        let payload = request.payload();
        let payload = match request.rare.as_ref().and_then(|rare| rare.outside.as_ref()) {
            Some(block) => block,
            None => &channel.requests.bytes(&request.arrived)[payload],
        };
        let message = channel.sends.bytes_mut(&mut request.send);
        (payload, &mut message[Header::LEN..])
    }

    /// Size in bytes of the largest answer that can be written in place.
    pub(super) fn max_in_place(&self) -> usize {
        self.channel.geometry.max_payload()
    }

    /// Returns whether it opens a stream.
    pub(super) fn opens_stream(&self) -> bool {
        let rare = self.request().rare.as_ref();
        rare.is_some_and(|rare| rare.stream_credit.is_some())
    }

    /// Takes the further requests for items of the stream that it opens.
    pub(super) fn take_demand(&mut self) -> Option<Arc<StreamCredit>> {
        let (_, request) = self.request_mut();
        request.rare.as_mut()?.stream_credit.take()
    }

    /// Answers that the stream has no more items.
    pub(super) fn end(&mut self) {
        let (channel, request) = self.request_mut();
        let stream = match request.rare.as_ref().and_then(|rare| rare.stream) {
            Some(StreamPart::Next(stream) | StreamPart::End(stream)) => stream,
            Some(StreamPart::Open) | None => request.request_id,
        };
        let extension = Extension {
            stream: Some(StreamPart::End(stream)),
            ..Extension::default()
        };
        let header = Header {
            extension: Some(extension),
            ..answer_header(request, MessageKind::Reply)
        };
        let encoded = header.encode(channel.sends.bytes_mut(&mut request.send));
        let len = encoded.expect("a slot has room for a header and an extension");
        self.send(0..len, false, None);
    }

    /// Sends the first `len` bytes of the payload, from where they stand, as the answer.
    pub(super) fn answer_with_payload(&mut self, len: usize) {
        let (channel, request) = self.request_mut();
        let mut header = answer_header(request, MessageKind::Reply);
        if let Some(mut block) = request.rare.as_mut().and_then(|rare| rare.outside.take()) {
            block.truncate(len);
            // An empty payload has no address.
            let block = (len > 0).then_some(block);
            if let Some(block) = &block {
                header.set_outside(block.outside());
            }
            let encoded = header.encode(channel.sends.bytes_mut(&mut request.send));
            let len = encoded.expect("a slot has room for a header and an extension");
            return self.send(0..len, false, block);
        }
        header.payload_len = len as u32;
        let payload = request.payload();
        // The request's header in front of the payload is no shorter than the answer's.
        let from = payload.start - Header::LEN;
        let message = channel.requests.bytes_mut(&mut request.arrived);
        let encoded = header.encode(&mut message[from..]);
        debug_assert_eq!(encoded.ok(), Some(Header::LEN));
        self.send(from..payload.start + len, true, None);
    }

    /// Answers with what `encode` writes: into send memory, or, if it asks for more and the caller
    /// is native, into a buffer of its own.
    #[inline]
    pub(super) fn answer(
        &mut self,
        kind: MessageKind,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), AnswerError> {
        let (channel, request) = self.request_mut();
        let mut header = answer_header(request, kind);
        let message = channel.sends.bytes_mut(&mut request.send);
        let block = match (encode(&mut message[Header::LEN..]), &channel.memory) {
            (Ok(len), _) => {
                header.payload_len = len as u32;
                None
            }
            (Err(EncodeError::TooLarge { size, .. }), Some(memory)) => {
                let mut block = memory
                    .take(size)
                    .map_err(|error| AnswerError::Memory(size, error))?;
                let len = encode(&mut block)?;
                block.truncate(len);
                header.set_outside(block.outside());
                Some(block)
            }
            (Err(error), _) => return Err(error.into()),
        };
        let encoded = header.encode(message);
        let payload_at = encoded.map_err(|error| EncodeError::Value(error.to_string()))?;
        self.send(0..payload_at + header.payload_len as usize, false, block);
        Ok(())
    }

    /// Answers with a failure.
    pub(super) fn fail(&mut self, fault: &Fault) {
        let profile = self.channel.profile;
        let encode = |room: &mut [u8]| profile.encode_fault(fault.clone(), room);
        if let Err(error) = self.answer(MessageKind::Exception, encode) {
            tracing::error!(
                ?error,
                "a slot has no room for any fault; the caller will time out"
            );
            self.request = None;
        }
    }

    /// Sends `bytes` of its send memory, or of other memory, as the answer, whose payload may be in
    /// `block`. The slot then belongs to the caller again.
    #[inline(always)]
    fn send(
        &mut self,
        bytes: std::ops::Range<usize>,
        is_rewritten: bool,
        block: Option<PooledBuffer>,
    ) {
        let Some(request) = self.request.take() else {
            return;
        };
        let reply = PreparedReply {
            slot: request.slot(),
            is_rewritten,
            bytes,
        };
        let rare = self.channel.answer(request, reply, block);
        if let Some(stream_credit) = rare.and_then(|rare| rare.stream_credit) {
            // Nobody makes items of a stream that was not answered as one.
            stream_credit.complete(None);
        }
    }
}

impl Drop for RingRequest {
    #[inline]
    fn drop(&mut self) {
        if self.request.is_some() {
            let service = self.channel.service.name.clone();
            self.fail(&Fault::ServiceDown { service });
        }
    }
}

/// The header of an answer without payload.
#[inline]
fn answer_header(request: &SlotRequest, kind: MessageKind) -> Header {
    Header {
        kind,
        method: request.method,
        request_id: request.request_id,
        payload_len: 0,
        extension: None,
    }
}

/// Why a request cannot be answered with this result.
#[derive(Debug)]
pub(super) enum AnswerError {
    Encode(EncodeError),
    /// There is no memory for an answer of this size.
    Memory(usize, MemoryError),
}

impl From<EncodeError> for AnswerError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

impl From<AnswerError> for Fault {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Encode(EncodeError::TooLarge { size, limit })
            | AnswerError::Memory(_, MemoryError::TooLarge { size, limit }) => {
                Self::ReplyTooLarge {
                    size: size as u64,
                    limit: limit as u64,
                }
            }
            AnswerError::Encode(EncodeError::Value(reason)) => Self::Raised {
                type_name: "EncodeError".to_owned(),
                message: format!("the reply cannot be encoded: {reason}"),
                traceback: String::new(),
            },
            AnswerError::Memory(size, error) => Self::NoMemory {
                size: size as u64,
                reason: error.to_string(),
                is_reply: true,
            },
        }
    }
}

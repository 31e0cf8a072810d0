//! A request, from its arrival to its answer.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::call_figures::{Begun, CallFigures, Outcome};
use super::core::responder::{FOREVER, PreparedReply, SlotRequest};
use super::peer_channel::PeerChannel;
use super::stream::ItemSink;
use super::{CallSpan, MemoryError, PooledBuffer, Profile};
use crate::wire::{
    Codec, EncodeError, Extension, Fault, Header, MessageKind, Raw, StreamPart, Traceparent,
};

/// The properties that all requests for a service share.
#[derive(Debug, Clone)]
pub struct ServiceInfo {
    /// Name of the service.
    pub name: String,
    /// How long the caller of a stream may leave it without a request for an item.
    pub stream_patience: Duration,
    /// Where its calls are counted, if they are.
    pub figures: Option<Arc<CallFigures>>,
}

/// A request that is unanswered. Its bytes stay in the ring until it is answered (RING-1).
///
/// Every request is answered: dropping it answers with [`Fault::ServiceDown`].
#[derive(Debug)]
pub struct Inbound {
    channel: Arc<PeerChannel>,
    /// `Some` until it is answered.
    request: Option<Box<SlotRequest>>,
}

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
    pub(super) fn new(channel: Arc<PeerChannel>, mut request: Box<SlotRequest>) -> Self {
        if let Some(figures) = &channel.service.figures {
            begin(figures, &mut request);
        }
        Self {
            channel,
            request: Some(request),
        }
    }

    /// The parsed request.
    #[inline]
    fn request(&self) -> &SlotRequest {
        self.request.as_deref().expect("it is not answered")
    }

    #[inline]
    fn request_mut(&mut self) -> (&PeerChannel, &mut SlotRequest) {
        let request = self.request.as_deref_mut().expect("it is not answered");
        (&self.channel, request)
    }

    /// Number of the method.
    #[inline]
    pub fn method(&self) -> u32 {
        self.request().method
    }

    /// Alias of the caller.
    pub fn peer(&self) -> &str {
        &self.channel.peer
    }

    /// Name of the service that was called.
    pub fn service(&self) -> &str {
        &self.service_info().name
    }

    fn service_info(&self) -> &ServiceInfo {
        &self.channel.service
    }

    /// The protocol of the caller.
    pub fn profile(&self) -> Profile {
        self.channel.profile
    }

    /// Returns whether its caller can still be answered.
    pub fn is_connected(&self) -> bool {
        self.channel.closed().is_none()
    }

    /// Notes that the request waits for its handler. Its deadline, if its caller set one, counts
    /// from the first such call; a request that is handled as it arrives needs no look at the
    /// clock.
    #[inline]
    pub fn begin_to_wait(&mut self, now: impl FnOnce() -> Instant) {
        self.request_mut().1.begin_to_wait(now);
    }

    /// Notes that its handler begins now, after it [waited](Self::begin_to_wait): what it takes is
    /// counted from here.
    #[inline]
    pub fn begin_handler(&mut self) {
        let (channel, request) = self.request_mut();
        if request.begun.is_counted() {
            begin_handler(channel, request);
        }
    }

    /// The span that its caller sent it from, if that is recorded.
    pub fn trace(&self) -> Option<Traceparent> {
        self.request().rare.as_ref()?.trace
    }

    /// Has `span` learn how the request ends: with a result, unless a failure is told. It lasts
    /// until the answer is on its way, at least.
    pub fn watch(&mut self, span: CallSpan) {
        self.request_mut().1.rare().span = Some(span);
    }

    /// Returns whether its deadline has passed while it [waited](Self::begin_to_wait). Looks at the
    /// clock only if it has waited and has a deadline.
    #[inline]
    pub fn is_expired(&self) -> bool {
        self.request().is_expired(Instant::now)
    }

    /// How long the caller waits for the answer from when it sent the request, if it said so.
    pub fn allowed(&self) -> Option<Duration> {
        let allowed = self.request().allowed_us;
        (allowed != FOREVER).then(|| Duration::from_micros(allowed))
    }

    /// The id of this request.
    #[inline]
    pub fn id(&self) -> RequestId {
        let request = self.request();
        RequestId::new(&self.channel, request.slot(), request.request_id)
    }

    /// The arguments, borrowed from the ring, or from the memory that they were read into if they
    /// do not fit a slot. They begin at a multiple of 8 bytes.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let request = self.request();
        match request.rare.as_ref().and_then(|rare| rare.outside.as_ref()) {
            Some(block) => block,
            None => &self.channel.requests.bytes(&request.arrived)[request.payload()],
        }
    }

    /// The arguments in place, to be turned into the answer that
    /// [`reply_rewritten`](Self::reply_rewritten) sends.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let (channel, request) = self.request_mut();
        let payload = request.payload();
        match request.rare.as_mut().and_then(|rare| rare.outside.as_mut()) {
            Some(block) => block,
            None => &mut channel.requests.bytes_mut(&mut request.arrived)[payload],
        }
    }

    /// The arguments, and the send memory for the answer that
    /// [`reply_written`](Self::reply_written) sends.
    #[inline(always)]
    pub fn parts(&mut self) -> (&[u8], &mut [u8]) {
        let (channel, request) = self.request_mut();
        if !request.send.is_large() && channel.shape.grown.is_some() {
            return parts_of_small(channel, request);
        }
        let payload = request.payload();
        let payload = match request.rare.as_ref().and_then(|rare| rare.outside.as_ref()) {
            Some(block) => block,
            None => &channel.requests.bytes(&request.arrived)[payload],
        };
        let message = channel.sends.bytes_mut(&mut request.send);
        (payload, &mut message[Header::LEN..])
    }

    /// Answers with a result, encoded straight into send memory. `encode` is called again, with
    /// more room, if it asks for that and the caller is native. If there is none or the result does
    /// not encode, the caller gets a [`Fault`] that says so.
    pub fn reply(mut self, encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
        if let Err(error) = self.answer(MessageKind::Reply, encode) {
            self.fail(error.into());
        }
    }

    /// Answers with the first `len` bytes of the send memory among its [parts](Self::parts). If
    /// that has fewer, the caller gets a [`Fault`].
    pub fn reply_written(mut self, len: usize) {
        let (channel, request) = self.request_mut();
        let limit = channel.geometry.max_payload();
        if len > limit {
            return self.fail_too_large(len, limit);
        }
        if !request.send.is_large() && channel.shape.grown.is_some() {
            return self.reply_written_beside(len);
        }
        self.reply(|_| Ok(len));
    }

    /// Answers with the first `len` bytes of the room of a request in a slot that has less.
    #[cold]
    fn reply_written_beside(mut self, len: usize) {
        let (channel, request) = self.request_mut();
        let block = request.rare.as_mut().and_then(|rare| rare.room.take());
        let in_slot = channel.sends.bytes(&request.send).len() - Header::LEN;
        match block {
            Some(block) if len > in_slot => self.reply_outside(block, len),
            Some(block) => self.reply(|room| Raw::encode(&block[..len], room)),
            None if len > in_slot => self.fail_too_large(len, in_slot),
            None => self.reply(|_| Ok(len)),
        }
    }

    #[cold]
    fn fail_too_large(self, size: usize, limit: usize) {
        self.fail(Fault::ReplyTooLarge {
            size: size as u64,
            limit: limit as u64,
        });
    }

    /// Answers with the first bytes of `block`, at least one.
    fn reply_outside(&mut self, mut block: PooledBuffer, len: usize) {
        let (channel, request) = self.request_mut();
        let mut header = answer_header(request, MessageKind::Reply);
        block.truncate(len);
        header.set_outside(block.outside());
        let encoded = header.encode(channel.sends.bytes_mut(&mut request.send));
        let len = encoded.expect("a slot has room for a header and an extension");
        self.send(0..len, 0, false, Some(block));
    }

    /// Answers with the first `len` bytes of the [payload](Self::payload_mut), which are sent from
    /// where they stand. If it has fewer, the caller gets a [`Fault`].
    pub fn reply_rewritten(mut self, len: usize) {
        let limit = self.payload().len();
        if len > limit {
            return self.fail_too_large(len, limit);
        }
        let (channel, request) = self.request_mut();
        let mut header = answer_header(request, MessageKind::Reply);
        if let Some(block) = request.rare.as_mut().and_then(|rare| rare.outside.take()) {
            return match len {
                // An empty payload has no address.
                0 => self.reply(|_| Ok(0)),
                _ => self.reply_outside(block, len),
            };
        }
        header.payload_len = len as u32;
        let payload = request.payload();
        // The request's header in front of the payload is no shorter than the answer's.
        let from = payload.start - Header::LEN;
        let message = channel.requests.bytes_mut(&mut request.arrived);
        let encoded = header.encode(&mut message[from..]);
        debug_assert_eq!(encoded.ok(), Some(Header::LEN));
        self.send(from..payload.start + len, len, true, None);
    }

    /// Answers with a failure, shortened if it does not fit.
    pub fn fail(mut self, fault: Fault) {
        let outcome = match fault {
            Fault::Expired => Outcome::Timeout,
            _ => Outcome::Error,
        };
        self.fail_with(&fault, outcome);
    }

    /// Answers that the stream has no more items.
    pub fn end(mut self) {
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
        self.send(0..len, 0, false, None);
    }

    /// Returns whether the caller opens a stream with it, and awaits items.
    pub fn opens_stream(&self) -> bool {
        let rare = self.request().rare.as_ref();
        rare.is_some_and(|rare| rare.stream == Some(StreamPart::Open))
    }

    /// Converts the request into the sink of a stream. Returns `None` if the caller did not open a
    /// stream; it has been told.
    pub fn into_items(mut self) -> Option<ItemSink> {
        if !self.opens_stream() {
            self.fail(Fault::NotStreamed);
            return None;
        }
        let (channel, request) = (self.channel.clone(), self.request_mut().1);
        let stream = request.request_id;
        let rare = request.rare();
        rare.stream = None;
        let span = rare.span.take();
        Some(ItemSink::new(self, channel, stream, span))
    }

    /// Answers with what `encode` writes: into send memory, or, if it asks for more and the caller
    /// is native, into a buffer of its own.
    #[inline]
    fn answer(
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
                channel.grow_for(size);
                let block = channel.shape.take(memory, size);
                let mut block = block.map_err(|error| AnswerError::Memory(size, error))?;
                let len = encode(&mut block)?;
                block.truncate(len);
                header.set_outside(block.outside());
                Some(block)
            }
            (Err(error), _) => return Err(error.into()),
        };
        let encoded = header.encode(message);
        let payload_at = encoded.map_err(|error| EncodeError::Value(error.to_string()))?;
        let payload = header.payload_len as usize;
        self.send(0..payload_at + payload, payload, false, block);
        Ok(())
    }

    /// Sends the answer to a request that is counted, with so many bytes of payload beside those
    /// in `block`.
    #[cold]
    fn send_counted(
        &self,
        mut request: Box<SlotRequest>,
        reply: PreparedReply,
        payload: usize,
        block: Option<PooledBuffer>,
    ) {
        let begun = std::mem::take(&mut request.begun);
        let outside = block.as_ref().map(|block| block.len());
        self.channel.answer(request, reply, block);
        if let Some(figures) = &self.channel.service.figures {
            // The answer is on its way by now.
            figures.end(begun, Outcome::Ok);
            figures.count_sent(outside.unwrap_or(payload), outside.is_none());
        }
    }

    /// Notes that the request ended otherwise than with a result: in its span, and among the
    /// figures if it is counted and its end was not.
    fn fail_as(&mut self, outcome: Outcome) {
        let rare = self.request.as_mut().and_then(|it| it.rare.as_mut());
        if let Some(span) = rare.and_then(|rare| rare.span.as_mut()) {
            span.ends(outcome);
        }
        if let (Some(request), Some(figures)) = (&mut self.request, &self.channel.service.figures)
            && request.begun.is_counted()
        {
            figures.end(std::mem::replace(&mut request.begun, Begun::PART), outcome);
        }
    }

    /// Answers with a failure.
    fn fail_with(&mut self, fault: &Fault, outcome: Outcome) {
        let profile = self.channel.profile;
        self.fail_as(outcome);
        let agreed = self.channel.geometry.max_payload();
        let mut answer = |kept| {
            self.answer(MessageKind::Exception, |room: &mut [u8]| {
                profile.encode_fault(fault.clone(), room, kept)
            })
        };
        // What has no memory outside of its slot is shortened to that.
        if let Err(error) = answer(agreed).or_else(|_| answer(0)) {
            tracing::error!(
                ?error,
                "a slot has no room for any fault; the caller will time out"
            );
            self.request = None;
        }
    }

    /// Sends `bytes` of its send memory, or of other memory, as the answer. So many of them are
    /// `payload`, unless that is in `block`. The slot then belongs to the caller again.
    #[inline(always)]
    fn send(
        &mut self,
        bytes: Range<usize>,
        payload: usize,
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
        if request.begun.is_counted() {
            return self.send_counted(request, reply, payload, block);
        }
        self.channel.answer(request, reply, block);
    }
}

impl Drop for Inbound {
    #[inline]
    fn drop(&mut self) {
        if self.request.is_some() {
            let service = self.channel.service.name.clone();
            self.fail_with(&Fault::ServiceDown { service }, Outcome::Cancelled);
        }
    }
}

#[cold]
fn begin_handler(channel: &PeerChannel, request: &mut SlotRequest) {
    if let Some(figures) = &channel.service.figures {
        figures.begin_handler(&mut request.begun);
    }
}

/// The arguments, and as much room for the answer as was agreed on, for a request in a slot that
/// has less.
#[cold]
fn parts_of_small<'a>(
    channel: &'a PeerChannel,
    request: &'a mut SlotRequest,
) -> (&'a [u8], &'a mut [u8]) {
    let payload = request.payload();
    let agreed = channel.geometry.max_payload();
    channel.grow_for(agreed);
    let memory = channel.memory.as_ref();
    let rare = request.rare.get_or_insert_default();
    if rare.room.is_none() {
        // Without memory, there is the room of the slot.
        rare.room = memory.and_then(|memory| channel.shape.take(memory, agreed).ok());
        // It may have been somebody else's.
        rare.room.iter_mut().for_each(|block| block.fill(0));
    }
    let payload = match &rare.outside {
        Some(block) => block,
        None => &channel.requests.bytes(&request.arrived)[payload],
    };
    let room = match &mut rare.room {
        Some(block) => &mut block[..],
        None => &mut channel.sends.bytes_mut(&mut request.send)[Header::LEN..],
    };
    (payload, room)
}

/// Counts a request that has arrived. Requests for the next item of a stream are no calls.
#[cold]
fn begin(figures: &CallFigures, request: &mut SlotRequest) {
    let rare = request.rare.as_deref();
    request.begun = match rare.and_then(|rare| rare.stream) {
        None | Some(StreamPart::Open) => figures.begin(request.method),
        Some(StreamPart::Next(_) | StreamPart::End(_)) => Begun::PART,
    };
    match rare.and_then(|rare| rare.outside.as_ref()) {
        None => figures.count_received(request.payload().len(), true),
        Some(block) => figures.count_received(block.len(), false),
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
enum AnswerError {
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

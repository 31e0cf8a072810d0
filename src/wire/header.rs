//! The 16 bytes in front of every message, and the immediate that comes with it.

use std::ops::Range;

use super::{Extension, ExtensionError, RendezvousDescriptor, StreamPart};

const METHOD_BITS: u32 = 26;
const METHOD_MASK: u32 = (1 << METHOD_BITS) - 1;
const EXTENSION: u32 = 1 << 26;
const EXCEPTION: u32 = 1 << 27;
const ACK: u32 = 1 << 28;
const REPLY: u32 = 1 << 29;
const CHUNK: u32 = 1 << 30;
const LAST: u32 = 1 << 31;

/// Most methods of a service: method numbers take 26 bits of the tag.
pub const MAX_METHODS: u32 = 1 << METHOD_BITS;

/// The purpose of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// A call.
    Request,
    /// The result of a call.
    Reply,
    /// The failure of a call.
    Exception,
}

/// Header of a message in a slot.
///
/// ```
/// use slimerpc::wire::{Header, MessageKind};
/// let header = Header {
///     kind: MessageKind::Reply,
///     method: 4,
///     request_id: 7,
///     payload_len: 3,
///     extension: None,
/// };
/// let mut slot = [0; 64];
/// let payload_at = header.encode(&mut slot).unwrap();
/// assert_eq!(payload_at, 16);
/// assert_eq!(slot[..4], 0x2000_0004_u32.to_le_bytes());
/// assert_eq!(Header::decode(&slot).unwrap(), (header, 16..19));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Purpose of the message.
    pub kind: MessageKind,
    /// Number of the method, below [`MAX_METHODS`].
    pub method: u32,
    /// Number that the caller chooses, and the answer repeats.
    pub request_id: u64,
    /// Size of the payload in bytes.
    pub payload_len: u32,
    /// The fields that native peers add.
    pub extension: Option<Extension>,
}

/// Why the bytes in a slot are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The slot is too small for its message, or for the one to be written.
    #[error("a message of {needed} bytes does not fit a slot of {slot_size}")]
    TooLong {
        /// Bytes that the header claims or needs.
        needed: u64,
        /// Size of the slot in bytes.
        slot_size: usize,
    },
    /// The length does not even cover the header.
    #[error("total length {0} is less than the header's own")]
    TooShort(u32),
    /// The flags belong to no message.
    #[error("tag {0:#010x} has flags that no message carries")]
    Flags(u32),
    /// The extension block is damaged.
    #[error(transparent)]
    Extension(#[from] ExtensionError),
}

impl Header {
    /// Size of a header without extension in bytes.
    pub const LEN: usize = 16;

    /// Bytes in front of the payload.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        Self::LEN + self.extension.as_ref().map_or(0, Extension::encoded_len)
    }

    /// Sets the location of a payload outside of the slot.
    pub fn set_outside(&mut self, outside: RendezvousDescriptor) {
        self.payload_len = 0;
        self.extension.get_or_insert_default().outside = Some(outside);
    }

    /// Removes the deadline, because the payload needs its place.
    pub fn drop_deadline(&mut self) {
        if let Some(extension) = &mut self.extension {
            extension.deadline_us = None;
        }
        self.extension = self.extension.filter(|e| *e != Extension::default());
    }

    /// The message's part in a stream.
    pub fn stream(&self) -> Option<StreamPart> {
        self.extension.and_then(|extension| extension.stream)
    }

    /// Writes header and extension to the beginning of `slot` and returns where the payload begins.
    ///
    /// # Errors
    /// [`HeaderError::TooLong`] if header and payload do not fit `slot`.
    // Inlined, so that the header of a plain message is never built.
    #[inline(always)]
    pub fn encode(&self, slot: &mut [u8]) -> Result<usize, HeaderError> {
        let payload_at = self.encoded_len();
        let total = payload_at as u64 + u64::from(self.payload_len);
        let slot_size = slot.len();
        let (Ok(total_len), Some(fixed), true) = (
            u32::try_from(total),
            slot.first_chunk_mut::<16>(),
            total <= slot_size as u64,
        ) else {
            return Err(HeaderError::TooLong {
                needed: total,
                slot_size,
            });
        };
        let bits = u128::from(self.tag())
            | u128::from(total_len) << 32
            | u128::from(self.request_id) << 64;
        *fixed = bits.to_le_bytes();
        if let Some(extension) = self.extension {
            extension.encode(&mut slot[Self::LEN..payload_at]);
        }
        Ok(payload_at)
    }

    /// Reads the header at the beginning of `slot`, and returns which bytes are the payload.
    ///
    /// # Errors
    /// Any [`HeaderError`]; nothing in `slot` is trusted.
    pub fn decode(slot: &[u8]) -> Result<(Self, Range<usize>), HeaderError> {
        FixedHeader::decode(slot)?.complete(slot)
    }

    /// Reads a header as DLSlime's peers write it: without an extension, and with flags that mean
    /// nothing on requests. A message that DLSlime could not handle either, a chunk or a method
    /// number beyond the limit, gets a method number that no service has.
    ///
    /// # Errors
    /// The errors of [`decode`](Self::decode).
    ///
    /// ```
    /// use slimerpc::wire::{Header, MessageKind};
    /// let mut slot = [0; 16];
    /// slot[..4].copy_from_slice(&0x1000_0004_u32.to_le_bytes()); // a request with a stray ACK
    /// slot[4] = 16;
    /// let (header, _) = Header::decode_compatible(&slot).unwrap();
    /// assert_eq!((header.kind, header.method), (MessageKind::Request, 4));
    /// ```
    pub fn decode_compatible(slot: &[u8]) -> Result<(Self, Range<usize>), HeaderError> {
        FixedHeader::decode_compatible(slot)?.complete(slot)
    }

    #[inline]
    fn tag(&self) -> u32 {
        let kind = match self.kind {
            MessageKind::Request => 0,
            MessageKind::Reply => REPLY,
            MessageKind::Exception => REPLY | EXCEPTION,
        };
        let extension = if self.extension.is_some() {
            EXTENSION
        } else {
            0
        };
        kind | extension | (self.method & METHOD_MASK)
    }
}

/// The part of a header that every message has. A plain message is read by it alone, because it is
/// a few words and a [`Header`] is many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FixedHeader {
    pub(crate) kind: MessageKind,
    method: u32,
    request_id: u64,
    total_len: u32,
    /// Whether an extension follows.
    pub(crate) is_extended: bool,
}

impl FixedHeader {
    /// Reads what [`Header::decode`] reads, but for the extension.
    #[inline]
    pub(crate) fn decode(slot: &[u8]) -> Result<Self, HeaderError> {
        let (tag, request_id, total_len) = Self::words(slot)?;
        Ok(Self {
            kind: kind_of(tag)?,
            method: tag & METHOD_MASK,
            request_id,
            total_len,
            is_extended: tag & EXTENSION != 0,
        })
    }

    /// Reads what [`Header::decode_compatible`] reads.
    pub(crate) fn decode_compatible(slot: &[u8]) -> Result<Self, HeaderError> {
        let (tag, request_id, total_len) = Self::words(slot)?;
        let (kind, method) = match tag & (REPLY | EXCEPTION | CHUNK) {
            flags if flags & REPLY == 0 => (MessageKind::Request, METHOD_MASK | EXTENSION | CHUNK),
            REPLY => (MessageKind::Reply, METHOD_MASK),
            flags if flags == REPLY | EXCEPTION => (MessageKind::Exception, METHOD_MASK),
            _ => return Err(HeaderError::Flags(tag)),
        };
        Ok(Self {
            kind,
            method: tag & method,
            request_id,
            total_len,
            is_extended: false,
        })
    }

    /// The header of a message without an extension, and the range of the payload.
    #[inline]
    pub(crate) fn plain(self) -> (Header, Range<usize>) {
        let payload = Header::LEN..self.total_len as usize;
        let header = Header {
            kind: self.kind,
            method: self.method,
            request_id: self.request_id,
            payload_len: payload.len() as u32,
            extension: None,
        };
        (header, payload)
    }

    /// The message in `slot`, if its extension is a deadline and nothing else: that, in
    /// microseconds, the header without it, and the range of the payload.
    #[inline]
    pub(crate) fn with_deadline(self, slot: &[u8]) -> Option<(u64, Header, Range<usize>)> {
        let (mut header, mut payload) = self.plain();
        let (deadline_us, len) = Extension::decode_deadline(&slot[payload.clone()])?;
        payload.start += len;
        header.payload_len = payload.len() as u32;
        Some((deadline_us, header, payload))
    }

    /// The extension of the message in `slot`, and the range of the payload.
    #[inline(always)]
    pub(crate) fn extension(
        self,
        slot: &[u8],
    ) -> Result<(Extension, Range<usize>), ExtensionError> {
        let total_len = self.total_len as usize;
        let (extension, len) = Extension::decode(&slot[Header::LEN..total_len])?;
        Ok((extension, Header::LEN + len..total_len))
    }

    /// The whole header of the message in `slot`, and the range of the payload.
    pub(crate) fn complete(self, slot: &[u8]) -> Result<(Header, Range<usize>), HeaderError> {
        let (mut header, mut payload) = self.plain();
        if self.is_extended {
            let extension;
            (extension, payload) = self.extension(slot)?;
            header.payload_len = payload.len() as u32;
            header.extension = Some(extension);
        }
        Ok((header, payload))
    }

    /// The tag, the request id and the length of the message, which is in `slot` as a whole.
    #[inline]
    fn words(slot: &[u8]) -> Result<(u32, u64, u32), HeaderError> {
        let too_long = |needed| HeaderError::TooLong {
            needed,
            slot_size: slot.len(),
        };
        let fixed = slot.first_chunk::<16>().ok_or(too_long(16))?;
        // Read once: a peer may change it meanwhile.
        let bits = u128::from_le_bytes(*fixed);
        let (total_len, request_id) = ((bits >> 32) as u32, (bits >> 64) as u64);
        if (total_len as usize) < Header::LEN {
            return Err(HeaderError::TooShort(total_len));
        }
        if total_len as usize > slot.len() {
            return Err(too_long(total_len.into()));
        }
        Ok((bits as u32, request_id, total_len))
    }
}

#[inline]
fn kind_of(tag: u32) -> Result<MessageKind, HeaderError> {
    match tag & (REPLY | EXCEPTION | ACK | CHUNK | LAST) {
        0 => Ok(MessageKind::Request),
        REPLY => Ok(MessageKind::Reply),
        flags if flags == REPLY | EXCEPTION => Ok(MessageKind::Exception),
        _ => Err(HeaderError::Flags(tag)),
    }
}

const CANCEL: u32 = 1 << 16;
const RELEASE: u32 = 1 << 17;
const LARGE: u32 = 1 << 18;
const GROWN: u32 = 1 << 19;

/// The meaning of an immediate for its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// A message stands in the slot.
    Message,
    /// The caller no longer wants the answer to the request in the slot (native peers only). The
    /// slot's bytes are not touched: a handler may be reading them (RING-1).
    Cancel,
    /// The caller has read the payload of the answer in the slot, which lay outside of it (native
    /// peers only).
    Release,
    /// A request stands in the large slot of this number (native peers only). Its answer comes in
    /// the large slot, too.
    Large,
    /// The sender has a ring of large slots now; the last small slot says where (native peers
    /// only). The number means nothing.
    Grown,
}

/// The immediate of a WRITE_WITH_IMM: the slot in its low 16 bits, what it is about above.
///
/// ```
/// use slimerpc::wire::{Immediate, Signal};
/// let imm = Immediate { slot: 3, signal: Signal::Message };
/// assert_eq!(imm.to_bits(), 3);
/// assert_eq!(Immediate::from_bits(3), imm);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Immediate {
    /// Number of the slot.
    pub slot: u16,
    /// The meaning of the immediate for the slot.
    pub signal: Signal,
}

impl Immediate {
    /// Encodes it as the number to post, in host order.
    #[inline]
    pub fn to_bits(self) -> u32 {
        let signal = match self.signal {
            Signal::Message => 0,
            Signal::Cancel => CANCEL,
            Signal::Release => RELEASE,
            Signal::Large => LARGE,
            Signal::Grown => GROWN,
        };
        u32::from(self.slot) | signal
    }

    /// Decodes a received number. Unknown high bits are ignored, as DLSlime does.
    #[inline]
    pub fn from_bits(bits: u32) -> Self {
        let signal = match bits & (CANCEL | RELEASE | LARGE | GROWN) {
            0 => Signal::Message,
            LARGE => Signal::Large,
            RELEASE => Signal::Release,
            GROWN => Signal::Grown,
            _ => Signal::Cancel,
        };
        Self {
            slot: bits as u16,
            signal,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Traceparent;

    fn any_stream_part() -> impl Strategy<Value = StreamPart> {
        prop_oneof![
            Just(StreamPart::Open),
            (1..u64::MAX).prop_map(StreamPart::Next),
            any::<u64>().prop_map(StreamPart::End)
        ]
    }

    fn any_header() -> impl Strategy<Value = Header> {
        let kind = prop_oneof![
            Just(MessageKind::Request),
            Just(MessageKind::Reply),
            Just(MessageKind::Exception)
        ];
        let extension = proptest::option::of(
            (
                proptest::option::of(any::<u64>()),
                proptest::option::of((any::<u64>(), 1..u64::MAX, any::<u32>())),
                proptest::option::of(any_stream_part()),
                proptest::option::of((1..u128::MAX, 1..u64::MAX)),
            )
                .prop_map(|(deadline_us, outside, stream, trace)| Extension {
                    deadline_us,
                    outside: outside.map(|(addr, len, rkey)| RendezvousDescriptor {
                        addr,
                        len,
                        rkey,
                    }),
                    stream,
                    trace: trace.and_then(|(trace, span)| Traceparent::new(trace, span)),
                }),
        );
        (kind, 0..MAX_METHODS, any::<u64>(), 0..200_u32, extension).prop_map(
            |(kind, method, request_id, payload_len, extension)| Header {
                kind,
                method,
                request_id,
                payload_len,
                extension,
            },
        )
    }

    proptest! {
        #[test]
        fn a_header_comes_back_as_it_was_written(header in any_header()) {
            let mut slot = [0xa5; 320];
            let at = header.encode(&mut slot).unwrap();
            let (read, payload) = Header::decode(&slot).unwrap();
            prop_assert_eq!(read, header);
            prop_assert_eq!(payload, at..at + header.payload_len as usize);
        }

        #[test]
        fn input_1_any_bytes_are_a_header_or_a_typed_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok((header, payload)) = Header::decode(&bytes) {
                prop_assert!(payload.end <= bytes.len());
                prop_assert_eq!(payload.len(), header.payload_len as usize);
            }
        }
    }

    #[test]
    fn the_tags_are_those_that_dlslime_sends() {
        let tag = |kind| {
            Header {
                kind,
                method: 4,
                request_id: 0,
                payload_len: 0,
                extension: None,
            }
            .tag()
        };
        assert_eq!(tag(MessageKind::Request), 0x0000_0004);
        assert_eq!(tag(MessageKind::Reply), 0x2000_0004);
        assert_eq!(tag(MessageKind::Exception), 0x2800_0004);
    }

    #[test]
    fn what_does_not_fit_the_slot_is_not_written() {
        let header = Header {
            kind: MessageKind::Request,
            method: 0,
            request_id: 1,
            payload_len: 49,
            extension: None,
        };
        let mut slot = [0; 64];
        assert_eq!(
            header.encode(&mut slot),
            Err(HeaderError::TooLong {
                needed: 65,
                slot_size: 64
            })
        );
        assert_eq!(slot, [0; 64]);
    }

    #[test]
    fn flags_that_no_message_carries_are_refused() {
        for flags in [CHUNK, ACK, LAST, EXCEPTION, REPLY | CHUNK] {
            let mut slot = [0; 16];
            slot[..4].copy_from_slice(&flags.to_le_bytes());
            slot[4] = 16;
            assert_eq!(Header::decode(&slot), Err(HeaderError::Flags(flags)));
        }
    }
}

//! The block that native peers put between header and payload.
//!
//! ```text
//!  0            2             4           8
//!  | length u16 | fields u16 | zero u32  | one u64 for each bit set in `fields`, lowest bit first |
//! ```
//!
//! Readers skip fields that they do not know: the length covers them.

use super::Traceparent;

const FIXED: usize = 8;
const DEADLINE: u16 = 1;
/// Three fields, which occur together.
const OUTSIDE: u16 = 0b1110;
const NEXT: u16 = 1 << 4;
const END: u16 = 1 << 5;
/// Three fields, which occur together.
const TRACE: u16 = 0b111 << 6;
const MAX_LEN: usize = FIXED + 16 * 8;
/// The first word of a block that has a deadline and nothing else.
const DEADLINE_ALONE: u64 = (FIXED as u64 + 8) | ((DEADLINE as u64) << 16);

/// The fields that a native message carries beside its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extension {
    /// Time that remained until the call's deadline when it was sent, in microseconds. The two
    /// clocks need not agree.
    pub deadline_us: Option<u64>,
    /// Location of the payload, if that is not the slot.
    pub outside: Option<RendezvousDescriptor>,
    /// The message's part in a stream.
    pub stream: Option<StreamPart>,
    /// The span that a request belongs to, if its trace is recorded.
    pub trace: Option<Traceparent>,
}

/// A message's part in a stream of items. Every item is the answer to a request of its own: the
/// first one's opens the stream, the others ask for the next item. A stream thus uses credits as
/// calls do.
///
/// The request id of the request that opens a stream identifies the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamPart {
    /// A request that opens a stream, and asks for its first item.
    Open,
    /// A request for the next item of this stream.
    Next(u64),
    /// From the caller: a request that ends this stream, because no more items are wanted. From the
    /// service: the answer that there is no further item.
    End(u64),
}

impl StreamPart {
    /// The field and its value. A stream that is being opened has no id yet; request ids are never
    /// 0.
    #[inline]
    fn field(self) -> (u16, u64) {
        match self {
            Self::Open => (NEXT, 0),
            Self::Next(stream) => (NEXT, stream),
            Self::End(stream) => (END, stream),
        }
    }
}

/// The location of a payload that its sender keeps in registered memory, for the receiver to read
/// (rendezvous).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RendezvousDescriptor {
    /// Address of the first byte in the sender's memory.
    pub addr: u64,
    /// Length of the payload in bytes.
    pub len: u64,
    /// Key of the memory for the receiver.
    pub rkey: u32,
}

/// The extension block is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "extension block of {claimed} bytes with fields {fields:#06x} in a message with {available} left"
)]
pub struct ExtensionError {
    claimed: usize,
    fields: u16,
    available: usize,
}

impl Extension {
    /// Size in bytes of a block with everything that a request may carry.
    pub(crate) const LARGEST: usize = FIXED + 8 * (1 + 3 + 1 + 3);

    /// Size of the encoded block in bytes.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        FIXED + 8 * self.fields().count_ones() as usize
    }

    #[inline]
    fn fields(&self) -> u16 {
        let deadline = self.deadline_us.map_or(0, |_| DEADLINE);
        let stream = self.stream.map_or(0, |part| part.field().0);
        let trace = self.trace.map_or(0, |_| TRACE);
        deadline | self.outside.map_or(0, |_| OUTSIDE) | stream | trace
    }

    /// Writes the block; `into` has exactly [`encoded_len`](Self::encoded_len) bytes.
    #[inline]
    pub(super) fn encode(&self, into: &mut [u8]) {
        if let (Some(deadline), None, None, None) =
            (self.deadline_us, self.outside, self.stream, self.trace)
            && let Some(block) = into.first_chunk_mut::<16>()
        {
            let bits = u128::from(DEADLINE_ALONE) | u128::from(deadline) << 64;
            *block = bits.to_le_bytes();
            return;
        }
        self.encode_slow(into);
    }

    #[cold]
    fn encode_slow(&self, into: &mut [u8]) {
        let fields = self.fields();
        let len = FIXED + 8 * fields.count_ones() as usize;
        let mut words = into.chunks_exact_mut(8);
        let mut put = |word: u64| {
            if let Some(place) = words.next() {
                place.copy_from_slice(&word.to_le_bytes());
            }
        };
        put(len as u64 | u64::from(fields) << 16);
        if let Some(deadline) = self.deadline_us {
            put(deadline);
        }
        if let Some(outside) = self.outside {
            put(outside.addr);
            put(outside.len);
            put(outside.rkey.into());
        }
        if let Some(part) = self.stream {
            put(part.field().1);
        }
        if let Some(trace) = self.trace {
            trace.words().into_iter().for_each(put);
        }
    }

    /// Reads the block at the beginning of `bytes`, if it has a deadline and nothing else. Returns
    /// the deadline and the length of the block.
    #[inline]
    pub(super) fn decode_deadline(bytes: &[u8]) -> Option<(u64, usize)> {
        // Read once: a peer may change it meanwhile.
        let bits = u128::from_le_bytes(*bytes.first_chunk::<16>()?);
        (bits as u64 == DEADLINE_ALONE).then_some(((bits >> 64) as u64, 16))
    }

    /// Reads a block at the beginning of `bytes`, and returns its length, too.
    #[inline(always)]
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, usize), ExtensionError> {
        let fixed = bytes.first_chunk().map_or(0, |f| u64::from_le_bytes(*f));
        let (claimed, fields) = (usize::from(fixed as u16), (fixed >> 16) as u16);
        let damaged = ExtensionError {
            claimed,
            fields,
            available: bytes.len(),
        };
        let needed = FIXED + 8 * fields.count_ones() as usize;
        if claimed > bytes.len() || claimed < needed || claimed > MAX_LEN || claimed % 8 != 0 {
            return Err(damaged);
        }
        let mut values = bytes[FIXED..].chunks_exact(8);
        let mut next = || {
            let value = values.next().and_then(<[u8]>::first_chunk);
            value.map_or(0, |value| u64::from_le_bytes(*value))
        };
        let deadline_us = (fields & DEADLINE != 0).then(&mut next);
        let outside = match fields & OUTSIDE {
            0 => None,
            OUTSIDE => Some(RendezvousDescriptor {
                addr: next(),
                len: next(),
                rkey: u32::try_from(next()).map_err(|_| damaged)?,
            }),
            _ => return Err(damaged),
        };
        if outside.is_some_and(|outside| outside.len == 0) {
            return Err(damaged);
        }
        let stream = match fields & (NEXT | END) {
            0 => None,
            NEXT => Some(match next() {
                0 => StreamPart::Open,
                stream => StreamPart::Next(stream),
            }),
            END => Some(StreamPart::End(next())),
            _ => return Err(damaged),
        };
        let trace = match fields & TRACE {
            0 => None,
            // One that is none is ignored: the call is none the worse.
            TRACE => Traceparent::from_words([next(), next(), next()]),
            _ => return Err(damaged),
        };
        let extension = Self {
            deadline_us,
            outside,
            stream,
            trace,
        };
        Ok((extension, claimed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_from_the_future_are_skipped() {
        let mut block = [0; 24];
        block[0] = 24;
        block[2] = 1;
        block[3] = 1 << 7;
        block[8] = 5;
        block[16] = 99;
        let deadline = Extension {
            deadline_us: Some(5),
            ..Extension::default()
        };
        assert_eq!(Extension::decode(&block), Ok((deadline, 24)));
    }

    #[test]
    fn a_deadline_alone_is_written_and_read_as_any_block() {
        for deadline in [0, 1, u64::MAX] {
            let alone = Extension {
                deadline_us: Some(deadline),
                ..Extension::default()
            };
            let (mut block, mut general) = ([1; 16], [2; 16]);
            alone.encode(&mut block);
            alone.encode_slow(&mut general);
            assert_eq!(block, general);
            assert_eq!(Extension::decode_deadline(&block), Some((deadline, 16)));
            assert_eq!(Extension::decode(&block), Ok((alone, 16)));
        }
        // Longer, with another field, and cut off.
        let mut block = [0; 24];
        block[..3].copy_from_slice(&[24, 0, 1]);
        assert_eq!(Extension::decode_deadline(&block), None);
        block[..3].copy_from_slice(&[16, 0, 1 | NEXT as u8]);
        assert_eq!(Extension::decode_deadline(&block), None);
        block[..3].copy_from_slice(&[16, 0, 1]);
        assert_eq!(Extension::decode_deadline(&block[..15]), None);
    }

    #[test]
    fn input_1_part_of_an_address_is_none() {
        let outside = RendezvousDescriptor {
            addr: u64::MAX,
            len: 7,
            rkey: u32::MAX,
        };
        let whole = Extension {
            outside: Some(outside),
            ..Extension::default()
        };
        let mut block = vec![0; whole.encoded_len()];
        whole.encode(&mut block);
        assert_eq!(Extension::decode(&block), Ok((whole, block.len())));
        block[28] = 1; // A key of more than 32 bits.
        assert!(Extension::decode(&block).is_err());
        block[28] = 0;
        block[16] = 0; // No bytes.
        assert!(Extension::decode(&block).is_err());
        block[16] = 7;
        block[2] = 0b0110;
        assert!(Extension::decode(&block).is_err());
    }

    #[test]
    fn a_message_has_one_part_in_a_stream() {
        for part in [StreamPart::Open, StreamPart::Next(7), StreamPart::End(7)] {
            let extension = Extension {
                deadline_us: Some(5),
                stream: Some(part),
                ..Extension::default()
            };
            let mut block = vec![0; extension.encoded_len()];
            extension.encode(&mut block);
            assert_eq!(Extension::decode(&block), Ok((extension, block.len())));
        }
        let mut both = [0; 24];
        both[0] = 24;
        both[2] = 0b11_0000;
        assert!(Extension::decode(&both).is_err());
    }

    #[test]
    fn input_1_a_trace_that_is_none_is_ignored_and_part_of_one_is_damage() {
        let deadline = Extension {
            deadline_us: Some(5),
            ..Extension::default()
        };
        let whole = Extension {
            trace: Traceparent::new(u128::MAX - 1, 7),
            ..deadline
        };
        let mut block = vec![0; whole.encoded_len()];
        whole.encode(&mut block);
        assert_eq!(Extension::decode(&block), Ok((whole, block.len())));
        let mut no_span = block.clone();
        no_span[32..].fill(0);
        assert_eq!(Extension::decode(&no_span), Ok((deadline, block.len())));
        let mut no_trace = block.clone();
        no_trace[16..32].fill(0);
        assert_eq!(Extension::decode(&no_trace), Ok((deadline, block.len())));
        block[2] ^= 1 << 6;
        assert!(Extension::decode(&block).is_err());
    }

    #[test]
    fn input_1_a_block_that_claims_too_much_is_refused() {
        for claimed in [0_u8, 7, 9, 32, 255] {
            let block = [claimed, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            assert!(Extension::decode(&block).is_err(), "{claimed}");
        }
    }
}

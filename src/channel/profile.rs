//! The protocol of the other end: this crate's or DLSlime's.

use std::ops::Range;

use crate::wire::pickle::Exception;
use crate::wire::{
    Bincode, DecodeError, EncodeError, Fault, FixedHeader, Header, HeaderError, Immediate,
    PayloadCodec, Signal,
};

/// The protocol of a channel.
///
/// | | native | compatible |
/// | --- | --- | --- |
/// | the other end | this crate | a DLSlime 0.1.23 peer |
/// | typed payloads | as the service says | pickle |
/// | failures | [`Fault`] | pickled exception |
/// | methods | by name, through the server's table | place among the sorted names |
/// | cancelling | travels | ends the call here only |
/// | queue pairs | one | one or more, messages striped over them |
/// | directions | one a channel | one a pair of aliases |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// The other end is this crate, too.
    Native,
    /// The other end is a DLSlime peer.
    Compatible,
}

impl Profile {
    /// The codec of typed payloads, where native peers would use `native`.
    pub fn codec(self, native: PayloadCodec) -> PayloadCodec {
        match self {
            Self::Native => native,
            Self::Compatible => PayloadCodec::Pickle,
        }
    }

    /// Reads the payload of an exception.
    ///
    /// # Errors
    /// The bytes are not an exception. (In the compatible profile any bytes are one.)
    pub fn decode_fault(self, bytes: &[u8]) -> Result<Fault, DecodeError> {
        match self {
            Self::Native => Bincode::decode(bytes),
            Self::Compatible => Ok(Exception::decode(bytes).into()),
        }
    }

    /// Writes the payload of an exception, shortened if it does not fit.
    ///
    /// # Errors
    /// No fault fits; or this one of a native peer has at most `kept` bytes and more than `room`
    /// has. It is not shortened to less than fits `kept`.
    pub(super) fn encode_fault(
        self,
        fault: Fault,
        room: &mut [u8],
        kept: usize,
    ) -> Result<usize, EncodeError> {
        match self {
            Self::Native => encode_fault(fault, room, kept),
            Self::Compatible => Exception::from(fault).encode(room),
        }
    }

    /// Reads a header as the other end writes it.
    pub(super) fn decode(self, slot: &[u8]) -> Result<(Header, Range<usize>), HeaderError> {
        self.decode_fixed(slot)?.complete(slot)
    }

    /// Reads the fixed part of a header as the other end writes it.
    #[inline]
    pub(super) fn decode_fixed(self, slot: &[u8]) -> Result<FixedHeader, HeaderError> {
        match self {
            Self::Native => FixedHeader::decode(slot),
            Self::Compatible => FixedHeader::decode_compatible(slot),
        }
    }

    /// Reads an immediate as the other end writes it.
    #[inline]
    pub(super) fn immediate(self, bits: u32) -> Immediate {
        match self {
            Self::Native => Immediate::from_bits(bits),
            Self::Compatible => Immediate {
                slot: bits as u16,
                signal: Signal::Message,
            },
        }
    }
}

/// Encodes a fault, giving up more and more of its traceback, from the end, and then of its
/// message.
fn encode_fault(fault: Fault, room: &mut [u8], kept: usize) -> Result<usize, EncodeError> {
    let mut fault = fault;
    loop {
        let error = match Bincode::encode(&fault, room) {
            Err(EncodeError::TooLarge { size, limit }) if size <= kept => {
                return Err(EncodeError::TooLarge { size, limit });
            }
            Ok(len) => return Ok(len),
            Err(error) => error,
        };
        let shorter = shorten(&mut fault);
        if !shorter {
            return Err(error);
        }
    }
}

/// Makes a fault smaller. Returns false if nothing is left to cut.
fn shorten(fault: &mut Fault) -> bool {
    let (first, second) = match fault {
        Fault::Raised { traceback, .. } if !traceback.is_empty() => {
            halve(traceback);
            return true;
        }
        Fault::Returned {
            type_name, message, ..
        } => {
            // Part of an encoded value is useless.
            *fault = Fault::Raised {
                type_name: std::mem::take(type_name),
                message: std::mem::take(message),
                traceback: String::new(),
            };
            return true;
        }
        Fault::Raised {
            message, type_name, ..
        } => (message, Some(type_name)),
        Fault::BadArguments { reason } | Fault::NoMemory { reason, .. } => (reason, None),
        Fault::MethodNotFound { service, .. } | Fault::ServiceDown { service } => (service, None),
        Fault::ReplyTooLarge { .. }
        | Fault::RequestTooLarge { .. }
        | Fault::Expired
        | Fault::Stalled { .. }
        | Fault::NotStreamed => {
            return false;
        }
    };
    for text in [Some(first), second].into_iter().flatten() {
        if !text.is_empty() {
            halve(text);
            return true;
        }
    }
    false
}

fn halve(text: &mut String) {
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    let half = (0..=text.len() / 2).rev().find(is_boundary);
    text.truncate(half.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_shortened_until_it_fits() {
        let long = "é".repeat(500);
        let fault = Fault::Raised {
            type_name: long.clone(),
            message: long.clone(),
            traceback: long,
        };
        for room in [48, 100, 700, 4000] {
            let mut bytes = vec![0; room];
            let len = encode_fault(fault.clone(), &mut bytes, 0).expect("a fault fits 48 bytes");
            assert!(Bincode::decode::<Fault>(&bytes[..len]).is_ok());
        }
    }
}

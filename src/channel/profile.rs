//! Who is at the other end: this crate or DLSlime.

use std::ops::Range;

use crate::wire::{Header, HeaderError, Immediate, Signal};

/// The protocol of a channel.
///
/// | | native | compatible |
/// | --- | --- | --- |
/// | the other end | this crate | a DLSlime 0.1.23 peer |
/// | typed payloads | as the service says | pickle |
/// | failures | [`Fault`](crate::wire::Fault) | pickled exception |
/// | methods | by name, through the server's table | place among the sorted names |
/// | cancelling | travels | ends the call here only |
/// | queue pairs | one | one or more, messages striped over them |
/// | directions | one a channel | one a pair of aliases |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Both ends are this crate.
    Native,
    /// The other end is DLSlime.
    Compatible,
}

impl Profile {
    /// Reads a header as the other end writes it.
    pub(super) fn decode(self, slot: &[u8]) -> Result<(Header, Range<usize>), HeaderError> {
        match self {
            Self::Native => Header::decode(slot),
            Self::Compatible => Header::decode_compatible(slot),
        }
    }

    /// Reads an immediate as the other end writes it.
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

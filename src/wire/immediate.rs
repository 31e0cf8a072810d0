//! The 32 bits that come with every message.

const CANCEL: u32 = 1 << 16;
const RELEASE: u32 = 1 << 17;

/// What an immediate says about its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// A message stands in the slot.
    Message,
    /// The caller no longer wants the answer to the request in the slot (native peers only). The
    /// slot's bytes are not touched: a handler may be reading them (RING-1).
    Cancel,
    /// The caller has read the payload of the answer in the slot, which lay outside (native peers
    /// only).
    Release,
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
    /// What happened there.
    pub signal: Signal,
}

impl Immediate {
    /// The number to post, in host order.
    #[inline]
    pub fn to_bits(self) -> u32 {
        let signal = match self.signal {
            Signal::Message => 0,
            Signal::Cancel => CANCEL,
            Signal::Release => RELEASE,
        };
        u32::from(self.slot) | signal
    }

    /// Reads a received number. High bits without a meaning are ignored, as DLSlime does.
    #[inline]
    pub fn from_bits(bits: u32) -> Self {
        let signal = match bits & (CANCEL | RELEASE) {
            0 => Signal::Message,
            RELEASE => Signal::Release,
            _ => Signal::Cancel,
        };
        Self {
            slot: bits as u16,
            signal,
        }
    }
}

//! The 32-bit immediate that comes with every message.

const CANCEL: u32 = 1 << 16;
const RELEASE: u32 = 1 << 17;

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
        };
        u32::from(self.slot) | signal
    }

    /// Decodes a received number. Unknown high bits are ignored, as DLSlime does.
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

//! The header of a frame.

use crate::fabric::software::MAX_MESSAGE;

/// Bytes of a header.
pub(super) const HEADER: usize = 32;

/// The peer wants a sleeper woken.
const SOLICITED: u8 = 1;
/// The sender waits for the acknowledgement.
const ACKNOWLEDGE: u8 = 2;

/// Kinds of frames. Those up to `Read` are requests: they are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Write,
    WriteWithImm,
    Read,
    /// Answers the oldest READ.
    ReadData,
    /// Nothing but the count in the header.
    Ack,
    /// The request after those acknowledged is refused, for the reason in `imm`; the connection
    /// ends.
    Refusal,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Write,
        Self::WriteWithImm,
        Self::Read,
        Self::ReadData,
        Self::Ack,
        Self::Refusal,
    ];

    pub(super) fn is_request(self) -> bool {
        matches!(self, Self::Write | Self::WriteWithImm | Self::Read)
    }

    /// Whether `length` bytes follow.
    pub(super) fn has_payload(self) -> bool {
        matches!(self, Self::Write | Self::WriteWithImm | Self::ReadData)
    }
}

/// See the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) is_solicited: bool,
    pub(super) wants_ack: bool,
    /// Number of the frame in its direction, modulo 2^32.
    pub(super) sequence: u32,
    pub(super) addr: u64,
    pub(super) rkey: u32,
    pub(super) length: u32,
    pub(super) imm: u32,
    /// Requests of the receiver of this frame that its sender has executed, modulo 2^32.
    pub(super) executed: u32,
}

impl Header {
    /// A frame without memory.
    pub(super) fn bare(kind: Kind) -> Self {
        Self {
            kind,
            is_solicited: false,
            wants_ack: false,
            sequence: 0,
            addr: 0,
            rkey: 0,
            length: 0,
            imm: 0,
            executed: 0,
        }
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = self.kind as u8;
        bytes[1] = u8::from(self.is_solicited) * SOLICITED + u8::from(self.wants_ack) * ACKNOWLEDGE;
        bytes[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.addr.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.rkey.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.imm.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.executed.to_le_bytes());
        bytes
    }

    /// What is wrong with it is the error.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Result<Self, &'static str> {
        let number = |at: usize| {
            let four = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            u32::from_le_bytes(four)
        };
        let kind = Kind::ALL.get(usize::from(bytes[0]));
        let kind = *kind.ok_or("a frame of an unknown kind")?;
        if bytes[1] & !(SOLICITED | ACKNOWLEDGE) != 0 || bytes[2] != 0 || bytes[3] != 0 {
            return Err("a frame with unknown flags");
        }
        let length = number(20);
        if length > MAX_MESSAGE {
            return Err("a frame that is too long");
        }
        Ok(Self {
            kind,
            is_solicited: bytes[1] & SOLICITED != 0,
            wants_ack: bytes[1] & ACKNOWLEDGE != 0,
            sequence: number(4),
            addr: u64::from(number(8)) | u64::from(number(12)) << 32,
            rkey: number(16),
            length,
            imm: number(24),
            executed: number(28),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_wire_and_strange_ones_are_refused() {
        for kind in Kind::ALL {
            let header = Header {
                kind,
                is_solicited: true,
                wants_ack: kind == Kind::Read,
                sequence: 0x0102_0304,
                addr: 0x1122_3344_5566_7788,
                rkey: 5,
                length: MAX_MESSAGE,
                imm: 7,
                executed: u32::MAX,
            };
            let bytes = header.encode();
            assert_eq!(Header::decode(&bytes), Ok(header));
            for (at, value) in [(0, 6), (1, 4), (2, 1), (3, 1), (23, 0xff)] {
                let mut bad = bytes;
                bad[at] = value;
                assert!(Header::decode(&bad).is_err(), "byte {at}");
            }
        }
    }
}

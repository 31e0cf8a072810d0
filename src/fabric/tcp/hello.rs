//! What the two ends say first.

use super::address::TcpKey;
use crate::fabric::software::LIMITS;

/// Bytes of a hello.
pub(super) const HELLO: usize = 72;
/// What it begins with; where it is a preamble, with the other.
const MAGIC: [[u8; 8]; 2] = [*b"SlimeTCP", *b"SlimeTLS"];
const VERSION: u16 = 1;

/// The first bytes of either direction: who speaks, to whom, with which key, and on which terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) from_gid: [u8; 16],
    pub(super) from_qp: u32,
    pub(super) psn: u32,
    pub(super) to_qp: u32,
    /// Of the queue pair that is spoken to.
    pub(super) key: TcpKey,
    pub(super) terms: Terms,
}

/// What is said when a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// The hello, with the key.
    Hello,
    /// What comes before TLS, in the clear: a hello with a proof in place of the key.
    Preamble,
}

/// What one end has to know of how the other was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) max_send_wr: u32,
    pub(super) rnr_retry: u8,
}

impl Hello {
    pub(super) fn encode(&self, opening: Opening) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        bytes[..8].copy_from_slice(&MAGIC[opening as usize]);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = self.terms.rnr_retry;
        bytes[12..28].copy_from_slice(&self.from_gid);
        bytes[28..32].copy_from_slice(&self.from_qp.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.psn.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.to_qp.to_le_bytes());
        bytes[40..56].copy_from_slice(&self.key.bytes());
        bytes[56..60].copy_from_slice(&self.terms.max_send_wr.to_le_bytes());
        bytes
    }

    /// These bytes are no beginning of such an opening: why is the error.
    pub(super) fn check_beginning(bytes: &[u8], opening: Opening) -> Result<(), &'static str> {
        let known = bytes.len().min(8);
        let begins = |opening: Opening| bytes[..known] == MAGIC[opening as usize][..known];
        match opening {
            opening if begins(opening) => Ok(()),
            Opening::Hello if begins(Opening::Preamble) => {
                Err("it speaks TLS, for which this agent has no certificates (SLIME_RPC_TLS_CERT)")
            }
            Opening::Preamble if begins(Opening::Hello) => {
                Err("it does not speak TLS, as this agent does (SLIME_RPC_TLS_CERT)")
            }
            _ => Err("no hello of the tcp fabric"),
        }
    }

    /// What is wrong with it is the error.
    pub(super) fn decode(bytes: &[u8; HELLO], opening: Opening) -> Result<Self, &'static str> {
        let sixteen = |at: usize| std::array::from_fn(|i| bytes[at + i]);
        let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self::check_beginning(bytes, opening)?;
        if u16::from_le_bytes([bytes[8], bytes[9]]) != VERSION {
            return Err("a hello of another version");
        }
        if bytes[11] != 0 || bytes[60..].iter().any(|byte| *byte != 0) || bytes[10] > 7 {
            return Err("a malformed hello");
        }
        // More than any device gives: what is kept for a peer has a bound.
        let max_send_wr = number(56);
        if max_send_wr > LIMITS.max_qp_wr {
            return Err("a hello on impossible terms");
        }
        Ok(Self {
            from_gid: sixteen(12),
            from_qp: number(28),
            psn: number(32),
            to_qp: number(36),
            key: TcpKey::new(sixteen(40)),
            terms: Terms {
                max_send_wr,
                rnr_retry: bytes[10],
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_the_wire_and_strange_ones_are_refused() {
        let hello = Hello {
            from_gid: std::array::from_fn(|i| i as u8),
            from_qp: 1,
            psn: 2,
            to_qp: 3,
            key: TcpKey::new([9; 16]),
            terms: Terms {
                max_send_wr: 64,
                rnr_retry: 6,
            },
        };
        let opening = Opening::Hello;
        let bytes = hello.encode(opening);
        assert_eq!(Hello::decode(&bytes, opening), Ok(hello));
        let preamble = hello.encode(Opening::Preamble);
        assert_eq!(Hello::decode(&preamble, Opening::Preamble), Ok(hello));
        for (bytes, other) in [(bytes, Opening::Preamble), (preamble, opening)] {
            let refused = Hello::decode(&bytes, other).unwrap_err();
            assert!(refused.contains("SLIME_RPC_TLS_CERT"), "{refused}");
        }
        for (at, value) in [(0, b'G'), (8, 2), (10, 8), (11, 1), (58, 5), (HELLO - 1, 1)] {
            let mut bad = bytes;
            bad[at] = value;
            assert!(Hello::decode(&bad, opening).is_err(), "byte {at}");
        }
        assert_eq!(Hello::check_beginning(b"Slim", opening), Ok(()));
        assert!(Hello::check_beginning(b"GET / HTTP/1.1", opening).is_err());
    }
}

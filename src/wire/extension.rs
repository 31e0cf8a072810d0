//! The block that native peers put between header and payload.
//!
//! ```text
//!  0            2             4           8
//!  | length u16 | fields u16 | zero u32  | one u64 for each bit set in `fields`, lowest bit first |
//! ```
//!
//! Readers skip fields that they do not know: the length covers them.

const FIXED: usize = 8;
const DEADLINE: u16 = 1;
const MAX_LEN: usize = FIXED + 16 * 8;

/// What a native request says beside its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extension {
    /// Time that remained until the call's deadline when it was sent, in microseconds. Clocks need not agree.
    pub deadline_us: Option<u64>,
}

/// The block is damaged.
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
    /// Bytes that the block takes.
    pub fn encoded_len(&self) -> usize {
        FIXED + if self.deadline_us.is_some() { 8 } else { 0 }
    }

    /// Writes the block; `into` has exactly [`encoded_len`](Self::encoded_len) bytes.
    pub(super) fn encode(&self, into: &mut [u8]) {
        let fields = if self.deadline_us.is_some() {
            DEADLINE
        } else {
            0
        };
        into[0..2].copy_from_slice(&(self.encoded_len() as u16).to_le_bytes());
        into[2..4].copy_from_slice(&fields.to_le_bytes());
        into[4..8].fill(0);
        if let Some(us) = self.deadline_us {
            into[8..16].copy_from_slice(&us.to_le_bytes());
        }
    }

    /// Reads a block at the beginning of `bytes`, and says how long it is.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, usize), ExtensionError> {
        let half = |at: usize| match bytes.get(at..at + 2) {
            Some(&[low, high]) => u16::from_le_bytes([low, high]),
            _ => 0,
        };
        let (claimed, fields) = (usize::from(half(0)), half(2));
        let needed = FIXED + 8 * fields.count_ones() as usize;
        if claimed > bytes.len() || claimed < needed || claimed > MAX_LEN || claimed % 8 != 0 {
            return Err(ExtensionError {
                claimed,
                fields,
                available: bytes.len(),
            });
        }
        let deadline_us = (fields & DEADLINE != 0)
            .then(|| {
                bytes[FIXED..]
                    .first_chunk()
                    .map(|field| u64::from_le_bytes(*field))
            })
            .flatten();
        Ok((Self { deadline_us }, claimed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_from_the_future_are_skipped() {
        let mut block = [0; 24];
        block[0] = 24;
        block[2] = 0b11;
        block[8] = 5;
        block[16] = 99;
        let deadline = Extension {
            deadline_us: Some(5),
        };
        assert_eq!(Extension::decode(&block), Ok((deadline, 24)));
    }

    #[test]
    fn input_1_a_block_that_claims_too_much_is_refused() {
        for claimed in [0_u8, 7, 9, 32, 255] {
            let block = [claimed, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            assert!(Extension::decode(&block).is_err(), "{claimed}");
        }
    }
}

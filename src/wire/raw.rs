//! Payloads of plain bytes.

use super::{Codec, DecodeError, EncodeError};

/// Opaque bytes: encoding copies once, and decoding copies once, for an owned result.
///
/// ```
/// use slimerpc::wire::{Codec, Raw};
/// let mut slot = [0; 16];
/// assert_eq!(Raw::encode(b"ping", &mut slot).unwrap(), 4);
/// assert_eq!(Raw::decode(&slot[..4]).unwrap(), b"ping");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Raw;

impl Codec<[u8]> for Raw {
    type Owned = Vec<u8>;

    fn encode(value: &[u8], into: &mut [u8]) -> Result<usize, EncodeError> {
        let target = into.get_mut(..value.len());
        let Some(target) = target else {
            return Err(EncodeError::TooLarge {
                size: value.len(),
                limit: into.len(),
            });
        };
        target.copy_from_slice(value);
        Ok(value.len())
    }

    fn decode(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        Ok(bytes.to_vec())
    }
}

//! The interface of codecs, which turn values into payload bytes.

use serde::{Deserialize, Serialize};

/// Encodes values of type `T` straight into send memory, and decodes them from a ring.
pub trait Codec<T: ?Sized> {
    /// The result of decoding: the value's owned form.
    type Owned;

    /// Encodes `value` to the beginning of `into` and returns how many bytes it took.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] with the size that the value would have had, or an error if it
    /// cannot be encoded.
    fn encode(value: &T, into: &mut [u8]) -> Result<usize, EncodeError>;

    /// Decodes a value from exactly `bytes`.
    ///
    /// # Errors
    /// The bytes are not such a value, or more bytes follow it. Memory use is bounded by the
    /// payload's size.
    fn decode(bytes: &[u8]) -> Result<Self::Owned, DecodeError>;
}

/// Why a value cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The value exceeds the room.
    #[error("the payload takes {size} bytes, the slot has room for {limit}")]
    TooLarge {
        /// Size of the encoded value in bytes.
        size: usize,
        /// Size of the room in bytes.
        limit: usize,
    },
    /// The value's `Serialize` failed.
    #[error("the value cannot be encoded: {0}")]
    Value(String),
}

/// Why a payload cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum DecodeError {
    /// The bytes do not decode as the type.
    #[error("{reason}")]
    Malformed {
        /// What the decoder reported.
        reason: String,
    },
    /// Bytes are left over.
    #[error("{extra} bytes follow the value")]
    Trailing {
        /// Number of bytes left over.
        extra: usize,
    },
}

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

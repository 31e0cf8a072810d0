//! How values become payload bytes.

use serde::{Deserialize, Serialize};

/// Encodes values of type `T` straight into send memory, and decodes them from a ring.
pub trait Codec<T: ?Sized> {
    /// What decoding gives; the value's owned form.
    type Owned;

    /// Encodes `value` to the beginning of `into` and says how many bytes it took.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] with the size it would have had, or the value cannot be encoded.
    fn encode(value: &T, into: &mut [u8]) -> Result<usize, EncodeError>;

    /// Decodes a value from exactly `bytes`.
    ///
    /// # Errors
    /// The bytes are not such a value, or more bytes follow it. Memory use is bounded by the
    /// payload's size.
    fn decode(bytes: &[u8]) -> Result<Self::Owned, DecodeError>;
}

/// A value does not become a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It is larger than a slot can carry.
    #[error("the payload takes {size} bytes, the slot has room for {limit}")]
    TooLarge {
        /// Bytes that it takes.
        size: usize,
        /// Bytes that there are.
        limit: usize,
    },
    /// Its `Serialize` failed.
    #[error("the value cannot be encoded: {0}")]
    Value(String),
}

/// A payload is not the value expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum DecodeError {
    /// The bytes do not decode.
    #[error("{reason}")]
    Malformed {
        /// What the decoder said.
        reason: String,
    },
    /// Bytes are left over.
    #[error("{extra} bytes follow the value")]
    Trailing {
        /// How many.
        extra: usize,
    },
}

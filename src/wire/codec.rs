//! Codecs turn values into payload bytes: their interface, the choice between them, and their
//! limits.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Bincode, Pickle};

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

/// A codec of typed payloads, chosen at run time.
///
/// ```
/// use slimerpc::wire::PayloadCodec;
/// let mut slot = [0; 64];
/// let len = PayloadCodec::Pickle.encode(&(1, "two"), &mut slot).unwrap();
/// let back: (i64, String) = PayloadCodec::Pickle.decode(&slot[..len]).unwrap();
/// assert_eq!(back, (1, "two".to_owned()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum PayloadCodec {
    /// Compact and fast: the default between native peers.
    #[default]
    Bincode,
    /// Self-describing: the codec of DLSlime peers.
    Pickle,
}

impl PayloadCodec {
    /// Name of the codec, as descriptors publish it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bincode => "bincode",
            Self::Pickle => "pickle",
        }
    }

    /// Encodes a value to the beginning of `into` and returns how many bytes it took.
    ///
    /// # Errors
    /// The errors of [`Codec::encode`].
    pub fn encode<T: Serialize + ?Sized>(
        self,
        value: &T,
        into: &mut [u8],
    ) -> Result<usize, EncodeError> {
        match self {
            Self::Bincode => Bincode::encode(value, into),
            Self::Pickle => Pickle::encode(value, into),
        }
    }

    /// Encodes a value to a new vector.
    ///
    /// ```
    /// use slimerpc::wire::PayloadCodec;
    /// let bytes = PayloadCodec::Bincode.encode_to_vec(&vec![7_u8; 1000]).unwrap();
    /// assert_eq!(bytes.len(), 1003);
    /// ```
    ///
    /// # Errors
    /// The value cannot be encoded.
    pub fn encode_to_vec<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = vec![0; 256];
        let encoded = match self.encode(value, &mut bytes) {
            Err(EncodeError::TooLarge { size, .. }) => {
                bytes.resize(size, 0);
                self.encode(value, &mut bytes)
            }
            encoded => encoded,
        };
        bytes.truncate(encoded?);
        Ok(bytes)
    }

    /// Decodes a value from exactly `bytes`.
    ///
    /// # Errors
    /// The errors of [`Codec::decode`].
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, DecodeError> {
        match self {
            Self::Bincode => Bincode::decode(bytes),
            Self::Pickle => Pickle::decode(bytes),
        }
    }
}

const DEPTH: usize = 128;
const PICKLE_VALUES: usize = 1 << 24;

static MAX_DEPTH: AtomicUsize = AtomicUsize::new(DEPTH);
static MAX_PICKLE_VALUES: AtomicUsize = AtomicUsize::new(PICKLE_VALUES);

/// Limits on the values that this process encodes or decodes. Both codecs apply them in both
/// directions: to arguments, results, items of streams and errors.
///
/// A decoder does not know which agent it works for, so the limits are those of the process.
///
/// ```
/// use slimerpc::wire::CodecLimits;
/// let limits = CodecLimits { depth: 300, ..CodecLimits::current() };
/// limits.apply();
/// assert_eq!(CodecLimits::current(), limits);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodecLimits {
    /// Levels of nesting: each sequence, map, tuple, struct, option and variant with content is
    /// one; a newtype struct is none. A value that takes more than 1 MiB of stack is refused at any
    /// setting, because handlers run on threads of 2 MiB. For types that serde buffers before it
    /// knows what they are (`untagged`, `tag`), only the number of levels limits the stack.
    pub depth: usize,
    /// Values in a pickle. A value that is referred to several times counts each time. A value
    /// takes up to 32 bytes of memory as a [`pickle::Value`](super::pickle::Value), and one byte in
    /// the pickle.
    pub pickle_values: usize,
}

impl Default for CodecLimits {
    /// 128 levels, and 2^24 values in a pickle.
    fn default() -> Self {
        Self {
            depth: DEPTH,
            pickle_values: PICKLE_VALUES,
        }
    }
}

impl CodecLimits {
    /// Returns the present limits.
    pub fn current() -> Self {
        Self {
            depth: max_depth(),
            pickle_values: max_pickle_values(),
        }
    }

    /// Sets the limits of this process.
    pub fn apply(self) {
        MAX_DEPTH.store(self.depth, Ordering::Relaxed);
        MAX_PICKLE_VALUES.store(self.pickle_values, Ordering::Relaxed);
    }
}

#[inline]
pub(super) fn max_depth() -> usize {
    MAX_DEPTH.load(Ordering::Relaxed)
}

#[inline]
pub(super) fn max_pickle_values() -> usize {
    MAX_PICKLE_VALUES.load(Ordering::Relaxed)
}

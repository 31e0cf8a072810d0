//! The default codec between native peers: bincode 2, standard configuration (little-endian, varint).

use std::io;

use bincode::config::{self, Config};
use bincode::serde::{decode_from_slice, encode_into_slice, encode_into_std_write};
use serde::{Serialize, de::DeserializeOwned};

use super::{Codec, DecodeError, EncodeError};

/// Serde values as bincode.
///
/// ```
/// use slimerpc::wire::{Bincode, Codec};
/// let mut slot = [0; 16];
/// let len = Bincode::encode(&(1_i64, "two"), &mut slot).unwrap();
/// let back: (i64, String) = Bincode::decode(&slot[..len]).unwrap();
/// assert_eq!(back, (1, "two".to_owned()));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Bincode;

impl Bincode {
    /// Encodes any serde value; see [`Codec::encode`].
    ///
    /// # Errors
    /// As [`Codec::encode`].
    pub fn encode<T: Serialize + ?Sized>(value: &T, into: &mut [u8]) -> Result<usize, EncodeError> {
        match encode_into_slice(value, into, config::standard()) {
            Ok(len) => Ok(len),
            Err(bincode::error::EncodeError::UnexpectedEnd) => Err(EncodeError::TooLarge {
                size: encoded_size(value)?,
                limit: into.len(),
            }),
            Err(other) => Err(EncodeError::Value(other.to_string())),
        }
    }

    /// Decodes any owned serde value; see [`Codec::decode`].
    ///
    /// # Errors
    /// As [`Codec::decode`].
    pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
        // A hostile length must not allocate more than a small multiple of what was really sent; bincode's
        // limit is a compile-time number, so there are a few of them to choose from.
        match bytes.len() {
            0..=0x1000 => decode_limited(bytes, config::standard().with_limit::<0x1_0000>()),
            0x1001..=0x4_0000 => {
                decode_limited(bytes, config::standard().with_limit::<0x40_0000>())
            }
            0x4_0001..=0x100_0000 => {
                decode_limited(bytes, config::standard().with_limit::<0x1000_0000>())
            }
            _ => decode_limited(bytes, config::standard().with_limit::<0x1_0000_0000>()),
        }
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Bincode {
    type Owned = T;

    fn encode(value: &T, into: &mut [u8]) -> Result<usize, EncodeError> {
        Self::encode(value, into)
    }

    fn decode(bytes: &[u8]) -> Result<T, DecodeError> {
        Self::decode(bytes)
    }
}

fn decode_limited<T: DeserializeOwned, C: Config>(
    bytes: &[u8],
    config: C,
) -> Result<T, DecodeError> {
    let (value, used) =
        decode_from_slice(bytes, config).map_err(|error| DecodeError::Malformed {
            reason: error.to_string(),
        })?;
    match bytes.len() - used {
        0 => Ok(value),
        extra => Err(DecodeError::Trailing { extra }),
    }
}

/// Bytes that `value` takes, found by encoding it to nowhere. Only for error messages.
fn encoded_size<T: Serialize + ?Sized>(value: &T) -> Result<usize, EncodeError> {
    encode_into_std_write(value, &mut io::sink(), config::standard())
        .map_err(|error| EncodeError::Value(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Leaf(Option<i128>, String),
        Node(Vec<Tree>, BTreeMap<u16, Vec<u8>>),
    }

    fn any_tree() -> impl Strategy<Value = Tree> {
        let leaf = (any::<Option<i128>>(), ".*").prop_map(|(n, s)| Tree::Leaf(n, s));
        leaf.prop_recursive(4, 32, 4, |inner| {
            let map = proptest::collection::btree_map(any::<u16>(), any::<Vec<u8>>(), 0..3);
            (proptest::collection::vec(inner, 0..4), map).prop_map(|(t, m)| Tree::Node(t, m))
        })
    }

    proptest! {
        #[test]
        fn values_come_back(tree in any_tree()) {
            let mut slot = vec![0; 1 << 16];
            let len = Bincode::encode(&tree, &mut slot).unwrap();
            prop_assert_eq!(Bincode::decode::<Tree>(&slot[..len]).unwrap(), tree);
        }

        #[test]
        fn input_1_any_bytes_decode_to_a_value_or_an_error(bytes in any::<Vec<u8>>()) {
            let _ = Bincode::decode::<Tree>(&bytes);
            let _ = Bincode::decode::<Vec<String>>(&bytes);
            let _ = Bincode::decode::<(u64, f32, char, bool)>(&bytes);
        }
    }

    #[test]
    fn what_is_too_large_names_its_size_and_the_limit() {
        let error = Bincode::encode(&"x".repeat(100), &mut [0; 64]).unwrap_err();
        assert_eq!(
            error,
            EncodeError::TooLarge {
                size: 101,
                limit: 64
            }
        );
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        let error = Bincode::decode::<u8>(&[1, 2, 3]).unwrap_err();
        assert_eq!(error, DecodeError::Trailing { extra: 2 });
    }

    #[test]
    fn input_1_a_hostile_length_does_not_allocate() {
        // A string that claims 2^60 bytes.
        let bytes = [253, 0, 0, 0, 0, 0, 0, 0, 16, 1, 2, 3];
        assert!(matches!(
            Bincode::decode::<String>(&bytes),
            Err(DecodeError::Malformed { .. })
        ));
        assert!(matches!(
            Bincode::decode::<Vec<u64>>(&bytes),
            Err(DecodeError::Malformed { .. })
        ));
    }
}

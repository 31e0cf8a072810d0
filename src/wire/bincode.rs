//! The default codec between native peers: bincode 2, standard configuration (little-endian,
//! varint).
//!
//! Four bytes of a [shape](super::guard) follow a value that has variants or fields.

use std::io;
use std::marker::PhantomData;

use bincode::config;
use bincode::error as inner;
use bincode::serde::{encode_into_slice, encode_into_std_write, seed_decode_from_slice};
use serde::{Serialize, de::DeserializeOwned};

use super::guard::{Guard, Nested, Seed};
use super::{Codec, DecodeError, EncodeError};

/// Serde values in bincode.
///
/// Bincode writes neither names nor types. Values whose reader would have to be told are therefore
/// refused when they are written: those with fields that are left out (serde's
/// `skip_serializing_if`), and `flatten`. Values that were written with other fields or variants
/// than they are read with (`skip_serializing` and its like, or another type) are refused when they
/// are read. See [`CodecLimits`](super::CodecLimits), too.
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
    /// The errors of [`Codec::encode`].
    pub fn encode<T: Serialize + ?Sized>(value: &T, into: &mut [u8]) -> Result<usize, EncodeError> {
        let guard = Guard::encoding();
        let level = guard.level();
        let len = match encode_into_slice(Nested { value, level }, into, config::standard()) {
            Ok(len) => len,
            Err(inner::EncodeError::UnexpectedEnd) => return Err(too_large(value, into.len())),
            Err(other) => return Err(refused(other)),
        };
        guard.check_elements(len)?;
        let Some(shape) = guard.shape() else {
            return Ok(len);
        };
        let (size, limit) = (len + shape.len(), into.len());
        let room = into.get_mut(len..size);
        let room = room.ok_or(EncodeError::TooLarge { size, limit })?;
        room.copy_from_slice(&shape);
        Ok(size)
    }

    /// Decodes any owned serde value; see [`Codec::decode`].
    ///
    /// # Errors
    /// The errors of [`Codec::decode`].
    pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
        let guard = Guard::decoding(bytes.len());
        let seed = Seed::<PhantomData<T>>::outermost(&guard);
        let decoded = seed_decode_from_slice(seed, bytes, config::standard());
        let (value, used) = decoded.map_err(malformed)?;
        guard.check_shape(&bytes[used..])?;
        Ok(value)
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

/// Finds the size of `value`, by encoding it without output.
#[cold]
fn too_large<T: Serialize + ?Sized>(value: &T, limit: usize) -> EncodeError {
    let guard = Guard::encoding();
    let level = guard.level();
    let nested = Nested { value, level };
    let encoded = encode_into_std_write(nested, &mut io::sink(), config::standard());
    let checked = encoded.map_err(refused).and_then(|len| {
        guard.check_elements(len)?;
        Ok(len + guard.shape().map_or(0, |shape| shape.len()))
    });
    match checked {
        Ok(size) => EncodeError::TooLarge { size, limit },
        Err(error) => error,
    }
}

#[cold]
fn refused(error: inner::EncodeError) -> EncodeError {
    EncodeError::Value(match error {
        inner::EncodeError::OtherString(reason) => reason,
        other => other.to_string(),
    })
}

#[cold]
fn malformed(error: inner::DecodeError) -> DecodeError {
    let reason = match error {
        inner::DecodeError::OtherString(reason) => reason,
        inner::DecodeError::UnexpectedEnd { additional } => {
            format!("it ends early: {additional} bytes or more are missing")
        }
        inner::DecodeError::Serde(_) => {
            "its type asks the bytes what they are (serde's untagged, tag or flatten, or a \
            value of any type): bincode does not say, `codec = \"pickle\"` does"
                .to_owned()
        }
        other => other.to_string(),
    };
    DecodeError::Malformed { reason }
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

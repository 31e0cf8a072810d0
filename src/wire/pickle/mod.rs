//! Pickle as data: the format of Python's typed payloads, without its code.
//!
//! Protocols 2 to 5 are read, protocol 4 is written. A pickle is a program for a stack machine;
//! this one has the opcodes that build plain values and refuses those that would look up or call
//! anything. It is iterative and limits depth, the number of values and bytes (shared ones count
//! each time they appear); see [`CodecLimits`](super::CodecLimits). Its memory is at most some 20
//! times the size of the pickle, besides the decoded values.
//!
//! | Python | Rust |
//! | --- | --- |
//! | `None` | `()`, `Option::None`; an empty payload, too |
//! | `bool`, `int`, `float` | `bool`, integers (checked for range), floats (of ints, too) |
//! | `str`, `bytes` | `String`, `char`; `Vec<u8>`, `[u8; N]` and tuple structs when read, `serde_bytes` when written |
//! | `list`, `set`; `tuple` | `Vec` and the like; tuples of exactly that arity |
//! | `dict` | maps; structs by field name |
//! | `"Name"`, `{"Name": content}` | variants of an enum without and with content |
//! | anything | [`Value`] |
//!
//! Values that would not survive a round trip are refused when they are written: `Some(None)` and
//! `Some(())`, which are `None` to Python, and keys and members that Python cannot hash (lists and
//! dicts, so also `Vec`, structs and variants with content).

mod de;
mod exception;
mod heap;
mod machine;
mod opcode;
mod ser;
mod value;

pub use exception::Exception;
pub use num_bigint::BigInt;
pub(super) use value::VALUE;
pub use value::Value;

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed};

use self::de::Ref;
use self::heap::{Heap, Item};
use super::guard::{Guard, Seed};
use super::{Codec, DecodeError, EncodeError, codec};

/// Most values, in addition to one for each byte.
const SHARED_VALUES: usize = 1 << 20;

/// Serde values in Python's pickle format.
///
/// ```
/// use slimerpc::wire::Pickle;
/// let mut slot = [0; 16];
/// let len = Pickle::encode(&(1, 2), &mut slot).unwrap();
/// assert_eq!(slot[..len], *b"\x80\x04K\x01K\x02\x86.");
/// assert_eq!(Pickle::decode::<(i64, i64)>(&slot[..len]).unwrap(), (1, 2));
/// assert_eq!(Pickle::decode::<Option<i64>>(b"").unwrap(), None); // what DLSlime answers for None
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Pickle;

impl Pickle {
    /// Encodes any serde value; see [`Codec::encode`].
    ///
    /// # Errors
    /// The errors of [`Codec::encode`].
    pub fn encode<T: Serialize + ?Sized>(value: &T, into: &mut [u8]) -> Result<usize, EncodeError> {
        ser::write(value, into)
    }

    /// Decodes any owned serde value; see [`Codec::decode`]. An empty payload is `None`.
    ///
    /// # Errors
    /// The errors of [`Codec::decode`].
    pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
        let (heap, item) = match bytes {
            [] => (Heap::new(bytes, 0), Item::None),
            bytes => machine::run(bytes)?,
        };
        let values = bytes.len().saturating_add(SHARED_VALUES);
        let values = values.min(codec::max_pickle_values());
        let guard = Guard::decoding_named(bytes.len(), values);
        let heap = &heap;
        Seed::<PhantomData<T>>::outermost(&guard).deserialize(Ref { heap, item })
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Pickle {
    type Owned = T;

    fn encode(value: &T, into: &mut [u8]) -> Result<usize, EncodeError> {
        Self::encode(value, into)
    }

    fn decode(bytes: &[u8]) -> Result<T, DecodeError> {
        Self::decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    fn pickled<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        let len = Pickle::encode(value, &mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Nothing,
        Leaf(Option<i128>, String),
        Node {
            name: char,
            below: Vec<Tree>,
            map: BTreeMap<u16, f64>,
        },
        Wide(u64, i8, bool, u128, ()),
    }

    fn any_tree() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![
            Just(Tree::Nothing),
            (any::<Option<i128>>(), ".*").prop_map(|(n, s)| Tree::Leaf(n, s)),
            (any::<u64>(), any::<i8>(), any::<bool>(), any::<u128>())
                .prop_map(|(a, b, c, d)| Tree::Wide(a, b, c, d, ())),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let map = proptest::collection::btree_map(any::<u16>(), -1e300..1e300, 0..3);
            let below = proptest::collection::vec(inner, 0..4);
            (any::<char>(), below, map).prop_map(|(name, below, map)| Tree::Node {
                name,
                below,
                map,
            })
        })
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::None),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (any::<Vec<u8>>(), any::<bool>()).prop_map(|(bytes, negative)| {
                let int = BigInt::from_signed_bytes_le(&bytes);
                Value::from(if negative { -int } else { int })
            }),
            any::<f64>()
                .prop_filter("NaN equals nothing", |x| !x.is_nan())
                .prop_map(Value::Float),
            ".*".prop_map(Value::Str),
            any::<Vec<u8>>().prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            let some = proptest::collection::vec(inner.clone(), 0..6);
            let keys = proptest::collection::vec(any_key(), 0..6);
            prop_oneof![
                some.clone().prop_map(Value::List),
                some.prop_map(Value::Tuple),
                keys.prop_map(Value::Set),
                proptest::collection::vec((any_key(), inner), 0..4).prop_map(Value::Dict),
            ]
        })
    }

    /// What Python can hash.
    fn any_key() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::None),
            any::<i64>().prop_map(Value::Int),
            ".*".prop_map(Value::Str),
            any::<Vec<u8>>().prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            let some = proptest::collection::vec(inner, 0..3);
            prop_oneof![
                some.clone().prop_map(Value::Tuple),
                some.prop_map(Value::Set)
            ]
        })
    }

    proptest! {
        #[test]
        fn typed_values_come_back(tree in any_tree()) {
            prop_assert_eq!(Pickle::decode::<Tree>(&pickled(&tree)).unwrap(), tree);
        }

        #[test]
        fn dynamic_values_come_back_exactly(value in any_value()) {
            prop_assert_eq!(Pickle::decode::<Value>(&pickled(&value)).unwrap(), value);
        }

        #[test]
        fn input_1_any_bytes_are_a_value_or_an_error(bytes in any::<Vec<u8>>()) {
            let _ = Pickle::decode::<Value>(&bytes);
            let _ = Pickle::decode::<Tree>(&bytes);
        }

        #[test]
        fn input_1_a_damaged_pickle_is_a_value_or_an_error(value in any_value(), at in any::<usize>(), bit in 0..8_u8) {
            let mut bytes = pickled(&value);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = Pickle::decode::<Value>(&bytes);
            let _ = Pickle::decode::<Value>(&bytes[..at]);
        }
    }

    #[test]
    fn what_is_too_large_names_its_true_size() {
        let error = Pickle::encode(&"x".repeat(1000), &mut [0; 64]).unwrap_err();
        let true_size = pickled(&"x".repeat(1000)).len();
        assert_eq!(
            error,
            EncodeError::TooLarge {
                size: true_size,
                limit: 64
            }
        );
    }

    #[test]
    fn numbers_are_checked_for_range_and_tuples_for_arity() {
        let reason = |result: Result<(), DecodeError>| result.unwrap_err().to_string();
        let four = pickled(&(1, 2, 3, 4));
        let text = reason(Pickle::decode::<(i64, i64, i64)>(&four).map(drop));
        assert!(text.contains('4') && text.contains('3'), "{text}");
        let text = reason(Pickle::decode::<u8>(&pickled(&300)).map(drop));
        assert!(text.contains("300") && text.contains("u8"), "{text}");
        let text = reason(Pickle::decode::<u64>(&pickled(&-1)).map(drop));
        assert!(text.contains("-1"), "{text}");
        assert!(Pickle::decode::<i64>(&pickled("one")).is_err());
        assert!(Pickle::decode::<i64>(&pickled(&true)).is_err());
        assert_eq!(Pickle::decode::<f64>(&pickled(&3)).unwrap(), 3.0);
        let huge: BigInt = BigInt::from(1) << 100;
        assert!(Pickle::decode::<i64>(&pickled(&Value::from(huge.clone()))).is_err());
        assert_eq!(
            Pickle::decode::<i128>(&pickled(&Value::from(huge))).unwrap(),
            1 << 100
        );
    }

    #[test]
    fn bytes_are_read_as_bytes_and_as_numbers() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Rgb(u8, u8, u8);
        #[derive(Debug, PartialEq, Deserialize)]
        struct Digest([u8; 3]);
        #[derive(Debug, PartialEq, Deserialize)]
        enum Named {
            Rgb(u8, u8, u8),
        }
        let bytes = pickled(&Value::Bytes(vec![1, 2, 255]));
        let bytearray = b"\x80\x05\x96\x03\0\0\0\0\0\0\0\x01\x02\xff.".to_vec();
        // bytearray(b"..") of protocol 2, and bytes(..) of it.
        let text =
            b"\x80\x02c__builtin__\nbytearray\nX\x04\0\0\0\x01\x02\xc3\xbfX\x07\0\0\0latin-1\x86R."
                .to_vec();
        let encoded =
            b"\x80\x02c_codecs\nencode\nX\x04\0\0\0\x01\x02\xc3\xbfX\x06\0\0\0latin1\x86R."
                .to_vec();
        for bytes in [bytes, bytearray, text, encoded] {
            assert_eq!(Pickle::decode::<Vec<u8>>(&bytes).unwrap(), [1, 2, 255]);
            assert_eq!(Pickle::decode::<[u8; 3]>(&bytes).unwrap(), [1, 2, 255]);
            assert_eq!(Pickle::decode::<(u8, u8, u8)>(&bytes).unwrap(), (1, 2, 255));
            assert_eq!(Pickle::decode::<Rgb>(&bytes).unwrap(), Rgb(1, 2, 255));
            assert_eq!(
                Pickle::decode::<Digest>(&bytes).unwrap(),
                Digest([1, 2, 255])
            );
            let value = Pickle::decode::<Value>(&bytes).unwrap();
            assert_eq!(value, Value::Bytes(vec![1, 2, 255]));
            let named = Value::Dict(vec![("Rgb".into(), value)]);
            assert_eq!(
                Pickle::decode::<Named>(&pickled(&named)).unwrap(),
                Named::Rgb(1, 2, 255)
            );
            let text = Pickle::decode::<[u8; 4]>(&bytes).unwrap_err().to_string();
            assert!(text.contains("3 values where 4"), "{text}");
            Pickle::decode::<[i8; 3]>(&bytes).unwrap_err();
        }
    }

    #[track_caller]
    fn refused<T: Serialize>(value: T, why: &str) {
        let error = Pickle::encode(&value, &mut [0; 1000])
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{error}");
        // Also where there is no room for it.
        let error = Pickle::encode(&value, &mut [0; 3]).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn a_some_that_would_arrive_as_none_is_refused() {
        #[derive(Serialize)]
        struct Unit;
        #[derive(Serialize)]
        struct Newtype(Option<u8>);
        refused(Some(None::<u8>), "`Some(None)`");
        refused(Some(()), "`Some(())`");
        refused(Some(Unit), "arrive as `None`");
        refused(Some(Newtype(None)), "arrive as `None`");
        refused(Some(Some(None::<u8>)), "arrive as `None`");
        refused(Some(Value::None), "arrive as `None`");
        refused(vec![Some(Some(1)), Some(None)], "arrive as `None`");
        refused(BTreeMap::from([(1, Some(()))]), "arrive as `None`");
        for value in [None, Some(Some(1)), Some(Some(0))] {
            assert_eq!(
                Pickle::decode::<Option<Option<u8>>>(&pickled(&value)).unwrap(),
                value
            );
        }
        let tuple = Some((None::<u8>,));
        assert_eq!(
            Pickle::decode::<Option<(Option<u8>,)>>(&pickled(&tuple)).unwrap(),
            tuple
        );
        let list = Some(vec![None::<u8>]);
        assert_eq!(
            Pickle::decode::<Option<Vec<Option<u8>>>>(&pickled(&list)).unwrap(),
            list
        );
        let result = Some(Ok::<_, ()>(()));
        assert_eq!(
            Pickle::decode::<Option<Result<(), ()>>>(&pickled(&result)).unwrap(),
            result
        );
    }

    #[test]
    fn keys_and_members_that_python_cannot_hash_are_refused() {
        #[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
        struct Point {
            x: u8,
        }
        #[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
        enum Key {
            Plain,
            Newtype(u8),
            Tuple(u8, u8),
            Struct { x: u8 },
        }
        let map = |key| BTreeMap::from([(key, 1)]);
        refused(map(vec![1]), "key number 1 of a map");
        refused(BTreeMap::from([(Point { x: 1 }, 1)]), "`Point`");
        refused(BTreeMap::from([((1, vec![1]), 1)]), "a list");
        refused(BTreeMap::from([(Some(vec![1]), 1)]), "a list");
        refused(BTreeMap::from([(BTreeMap::from([(1, 1)]), 1)]), "a dict");
        refused(
            BTreeMap::from([(Key::Plain, 1), (Key::Newtype(1), 2)]),
            "key number 2 of a map is or has in it `Key::Newtype`",
        );
        refused(BTreeMap::from([(Key::Tuple(1, 2), 1)]), "`Key::Tuple`");
        refused(
            vec![BTreeMap::from([(Key::Struct { x: 1 }, 1)])],
            "`Key::Struct`",
        );
        let list = || Value::List(vec![]);
        refused(
            Value::Set(vec![1.into(), list()]),
            "member number 2 of a set",
        );
        refused(Value::Set(vec![Value::Tuple(vec![list()])]), "a list");
        refused(Value::Dict(vec![(list(), 1.into())]), "a list");
        refused(Value::Dict(vec![(Value::Dict(vec![]), 1.into())]), "a dict");
        // What stands behind a key is none.
        pickled(&BTreeMap::from([(1, vec![1])]));
        pickled(&BTreeMap::from([((1, "a"), Point { x: 1 })]));
        pickled(&Value::Dict(vec![(1.into(), list()), (2.into(), list())]));
        // A set that is a key is written as a frozenset.
        let set = Value::Set(vec![1.into()]);
        assert_eq!(
            pickled(&Value::Set(vec![set.clone()])),
            b"\x80\x04\x8f((K\x01\x91\x90."
        );
        assert_eq!(pickled(&set), b"\x80\x04\x8f(K\x01\x90.");
    }

    #[test]
    fn the_arguments_of_a_call_without_any_are_an_empty_tuple() {
        let nothing: [(); 0] = [];
        assert_eq!(pickled(&nothing), b"\x80\x04).");
        Pickle::decode::<[(); 0]>(b"\x80\x05).").unwrap();
        assert!(Pickle::decode::<[(); 0]>(&pickled(&(1,))).is_err());
    }
}

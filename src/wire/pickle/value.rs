//! Values of any of Python's plain types.

use std::fmt;

use num_bigint::BigInt;
use serde::de::{EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq, SerializeTuple};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value whose type is known only at run time.
///
/// ```
/// use slimerpc::wire::{Pickle, pickle::Value};
/// let value = Value::Tuple(vec![1.into(), "two".into(), Value::None]);
/// let mut slot = [0; 32];
/// let len = Pickle::encode(&value, &mut slot).unwrap();
/// assert_eq!(Pickle::decode::<Value>(&slot[..len]).unwrap(), value);
/// assert_eq!(value.to_string(), "(1, \"two\", None)");
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// Python's `None`.
    #[default]
    None,
    /// Python's `bool`.
    Bool(bool),
    /// Python's `int` of at most 64 bits.
    Int(i64),
    /// Python's `int` that does not fit [`Int`](Self::Int); made by `From<BigInt>`.
    BigInt(BigInt),
    /// Python's `float`.
    Float(f64),
    /// Python's `str`.
    Str(String),
    /// Python's `bytes` or `bytearray`.
    Bytes(Vec<u8>),
    /// Python's `list`.
    List(Vec<Value>),
    /// Python's `tuple`.
    Tuple(Vec<Value>),
    /// Python's `set` or `frozenset`, in the order of the pickle.
    Set(Vec<Value>),
    /// Python's `dict`, in its order.
    Dict(Vec<(Value, Value)>),
}

/// Names under which values that serde does not know pass through it.
pub(in crate::wire) const VALUE: &str = "$slimerpc::pickle::Value";
pub(super) const BIG_INT: &str = "$slimerpc::pickle::BigInt";
pub(super) const SET: &str = "$slimerpc::pickle::Set";
pub(super) const TUPLE: &str = "$slimerpc::pickle::Tuple";

impl Value {
    /// The value as an `int` of any size; `None` if it is something else.
    pub fn to_int(&self) -> Option<BigInt> {
        match self {
            Self::Int(int) => Some((*int).into()),
            Self::BigInt(int) => Some(int.clone()),
            _ => None,
        }
    }

    /// The value as a `float`, or the nearest float to an `int`; `None` if it is something else, or
    /// too large.
    pub fn to_float(&self) -> Option<f64> {
        match self {
            Self::Float(float) => Some(*float),
            Self::Int(int) => Some(*int as f64),
            Self::BigInt(int) => nearest_float(int),
            _ => None,
        }
    }

    /// Python's name of the value's type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::BigInt(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Set(_) => "set",
            Self::Dict(_) => "dict",
        }
    }
}

/// Printing takes time quadratic in the number of digits, so like Python this prints no more than
/// this many.
const MAX_DIGITS_BITS: u64 = 4300 * 10 / 3;

/// The float nearest to `int`, if there is one.
pub(super) fn nearest_float(int: &BigInt) -> Option<f64> {
    if int.bits() > 1024 {
        return None;
    }
    let float: f64 = int.to_string().parse().ok()?;
    float.is_finite().then_some(float)
}

impl From<BigInt> for Value {
    fn from(int: BigInt) -> Self {
        i64::try_from(&int).map_or(Self::BigInt(int), Self::Int)
    }
}

impl From<i64> for Value {
    fn from(int: i64) -> Self {
        Self::Int(int)
    }
}

impl From<bool> for Value {
    fn from(bool: bool) -> Self {
        Self::Bool(bool)
    }
}

impl From<f64> for Value {
    fn from(float: f64) -> Self {
        Self::Float(float)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Str(text)
    }
}

impl fmt::Display for Value {
    /// Writes the value nearly as Python prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |f: &mut fmt::Formatter<'_>, items: &[Self], ends: [&str; 2]| {
            f.write_str(ends[0])?;
            for (at, item) in items.iter().enumerate() {
                let comma = if at == 0 { "" } else { ", " };
                write!(f, "{comma}{item}")?;
            }
            f.write_str(ends[1])
        };
        match self {
            Self::None => f.write_str("None"),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(int) => int.fmt(f),
            Self::BigInt(int) if int.bits() > MAX_DIGITS_BITS => {
                write!(f, "<int of {} bits>", int.bits())
            }
            Self::BigInt(int) => int.fmt(f),
            Self::Float(float) => write!(f, "{float:?}"),
            Self::Str(text) => write!(f, "{text:?}"),
            Self::Bytes(bytes) => write!(f, "b\"{}\"", bytes.escape_ascii()),
            Self::List(items) => all(f, items, ["[", "]"]),
            Self::Tuple(items) => all(f, items, ["(", if items.len() == 1 { ",)" } else { ")" }]),
            Self::Set(items) => all(f, items, ["{", "}"]),
            Self::Dict(items) => {
                f.write_str("{")?;
                for (at, (key, value)) in items.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}{key}: {value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_none(),
            Self::Bool(bool) => serializer.serialize_bool(*bool),
            Self::Int(int) => serializer.serialize_i64(*int),
            Self::BigInt(int) => {
                serializer.serialize_newtype_struct(BIG_INT, &Raw(&int.to_signed_bytes_le()))
            }
            Self::Float(float) => serializer.serialize_f64(*float),
            Self::Str(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Self::List(items) => sequence(serializer, items),
            Self::Tuple(items) => {
                let mut tuple = serializer.serialize_tuple(items.len())?;
                for item in items {
                    tuple.serialize_element(item)?;
                }
                tuple.end()
            }
            Self::Set(items) => serializer.serialize_newtype_struct(SET, &Items(items)),
            Self::Dict(items) => {
                let mut map = serializer.serialize_map(Some(items.len()))?;
                for (key, value) in items {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

fn sequence<S: Serializer>(serializer: S, items: &[Value]) -> Result<S::Ok, S::Error> {
    let mut sequence = serializer.serialize_seq(Some(items.len()))?;
    for item in items {
        sequence.serialize_element(item)?;
    }
    sequence.end()
}

struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

struct Items<'a>(&'a [Value]);

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        sequence(serializer, self.0)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(VALUE, ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain value")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Value, E> {
        Ok(Value::Bool(bool))
    }

    fn visit_i64<E>(self, int: i64) -> Result<Value, E> {
        Ok(Value::Int(int))
    }

    fn visit_u64<E>(self, int: u64) -> Result<Value, E> {
        Ok(BigInt::from(int).into())
    }

    fn visit_f64<E>(self, float: f64) -> Result<Value, E> {
        Ok(Value::Float(float))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Str(text))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(bytes.to_vec()))
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Value, E> {
        Ok(Value::Bytes(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        // The codec has counted the elements.
        let mut list = Vec::with_capacity(items.size_hint().unwrap_or(0));
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut dict = Vec::with_capacity(items.size_hint().unwrap_or(0));
        while let Some(item) = items.next_entry()? {
            dict.push(item);
        }
        Ok(Value::Dict(dict))
    }

    /// A kind that serde has no word for comes as a variant with its name.
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let (name, content) = data.variant::<String>()?;
        match &*name {
            TUPLE | SET | BIG_INT => match (content.tuple_variant(0, self)?, &*name) {
                (Value::List(items), TUPLE) => Ok(Value::Tuple(items)),
                (Value::List(items), SET) => Ok(Value::Set(items)),
                (Value::Bytes(bytes), BIG_INT) => Ok(BigInt::from_signed_bytes_le(&bytes).into()),
                (other, _) => Ok(other),
            },
            _ => Err(A::Error::unknown_variant(&name, &[TUPLE, SET, BIG_INT])),
        }
    }
}

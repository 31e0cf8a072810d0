//! Makes serde values of [`Value`]s.

use std::fmt;

use num_bigint::BigInt;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, VariantAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::value::{BIG_INT, SET, TUPLE, VALUE, Value};
use crate::wire::DecodeError;

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Malformed {
            reason: message.to_string(),
        }
    }
}

impl IntoDeserializer<'_, DecodeError> for Value {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

fn visit_seq<'de, V: Visitor<'de>>(items: Vec<Value>, visitor: V) -> Result<V::Value, DecodeError> {
    let mut items = SeqDeserializer::new(items.into_iter());
    let visited = visitor.visit_seq(&mut items)?;
    items.end()?;
    Ok(visited)
}

fn visit_map<'de, V: Visitor<'de>>(
    items: Vec<(Value, Value)>,
    visitor: V,
) -> Result<V::Value, DecodeError> {
    let mut items = MapDeserializer::new(items.into_iter());
    let visited = visitor.visit_map(&mut items)?;
    items.end()?;
    Ok(visited)
}

impl Value {
    fn unexpected(&self, expected: &dyn de::Expected) -> DecodeError {
        DecodeError::custom(format_args!(
            "a {} where {expected} is expected",
            self.type_name()
        ))
    }

    /// As a [`Value`] reads itself: what serde has no word for comes as a variant.
    fn visit_exactly<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let special = |name, content| Variant {
            name: Value::from(name),
            content: Some(content),
        };
        match self {
            Self::Tuple(items) => visitor.visit_enum(special(TUPLE, Self::List(items))),
            Self::Set(items) => visitor.visit_enum(special(SET, Self::List(items))),
            Self::BigInt(int) => {
                visitor.visit_enum(special(BIG_INT, Self::Bytes(int.to_signed_bytes_le())))
            }
            other => other.deserialize_any(visitor),
        }
    }
}

fn visit_big_int<'de, V: Visitor<'de>>(int: &BigInt, visitor: V) -> Result<V::Value, DecodeError> {
    if let Ok(int) = u64::try_from(int) {
        visitor.visit_u64(int)
    } else if let Ok(int) = i128::try_from(int) {
        visitor.visit_i128(int)
    } else if let Ok(int) = u128::try_from(int) {
        visitor.visit_u128(int)
    } else {
        Err(DecodeError::custom(format_args!(
            "an int of {} bits",
            int.bits()
        )))
    }
}

impl<'de> Deserializer<'de> for Value {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self {
            Self::None => visitor.visit_unit(),
            Self::Bool(bool) => visitor.visit_bool(bool),
            Self::Int(int) => visitor.visit_i64(int),
            Self::BigInt(int) => visit_big_int(&int, visitor),
            Self::Float(float) => visitor.visit_f64(float),
            Self::Str(text) => visitor.visit_string(text),
            Self::Bytes(bytes) => visitor.visit_byte_buf(bytes),
            Self::List(items) | Self::Tuple(items) | Self::Set(items) => visit_seq(items, visitor),
            Self::Dict(items) => visit_map(items, visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.to_float() {
            Some(float) => visitor.visit_f64(float),
            None => Err(self.unexpected(&visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self {
            Self::None => visitor.visit_none(),
            some => visitor.visit_some(some),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match name {
            VALUE => self.visit_exactly(visitor),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self {
            Self::List(items) | Self::Tuple(items) | Self::Set(items) => visit_seq(items, visitor),
            Self::Bytes(bytes) => {
                let items = bytes.into_iter().map(|byte| Self::Int(byte.into()));
                visit_seq(items.collect(), visitor)
            }
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self {
            Self::List(items) | Self::Tuple(items) if items.len() == len => {
                visit_seq(items, visitor)
            }
            Self::List(items) | Self::Tuple(items) => Err(DecodeError::custom(format_args!(
                "{} values where {len} are expected",
                items.len()
            ))),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self {
            Self::Dict(items) => visit_map(items, visitor),
            other => other.deserialize_tuple(fields.len(), visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let variant = match self {
            Self::Str(_) => Variant {
                name: self,
                content: None,
            },
            Self::Dict(items) if items.len() == 1 => {
                let (name, content) = items.into_iter().next().unwrap_or_default();
                Variant {
                    name,
                    content: Some(content),
                }
            }
            other => return Err(other.unexpected(&visitor)),
        };
        visitor.visit_enum(variant)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char str string bytes byte_buf unit map identifier
    }
}

/// A variant of an enum: its name, and its content if it has one.
struct Variant {
    name: Value,
    content: Option<Value>,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = DecodeError;
    type Variant = Content;

    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Content), DecodeError> {
        Ok((seed.deserialize(self.name)?, Content(self.content)))
    }
}

struct Content(Option<Value>);

impl Content {
    fn some(self) -> Result<Value, DecodeError> {
        self.0
            .ok_or_else(|| DecodeError::custom("a variant without its content"))
    }
}

impl<'de> VariantAccess<'de> for Content {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        match self.0 {
            None | Some(Value::None) => Ok(()),
            Some(other) => Err(other.unexpected(&"a variant without content")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, DecodeError> {
        seed.deserialize(self.some()?)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.some()?.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.some()?.deserialize_struct("", fields, visitor)
    }
}

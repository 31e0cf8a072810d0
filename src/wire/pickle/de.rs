//! Reads serde values from a pickle's heap.

use std::fmt;

use num_bigint::BigInt;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, VariantAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::heap::{Heap, Item, Items, Literal, Node, significant};
use super::value::{BIG_INT, SET, TUPLE, VALUE, nearest_float};
use crate::wire::DecodeError;

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Malformed {
            reason: message.to_string(),
        }
    }
}

/// A value in a heap.
#[derive(Clone, Copy)]
pub(super) struct Ref<'m, 'de> {
    pub(super) heap: &'m Heap<'de>,
    pub(super) item: Item,
}

/// The kind of value that it is to Python.
enum Kind<'m, 'de> {
    None,
    Bool(bool),
    Int(i64),
    /// More than 64 bits of two's complement.
    BigInt(&'de [u8]),
    Float(f64),
    Str(&'de str),
    Bytes(&'de [u8]),
    OwnedBytes(Vec<u8>),
    List(Items<'m>),
    Tuple(Items<'m>),
    Set(Items<'m>),
    Dict(Items<'m>),
}

impl Kind<'_, '_> {
    fn name(&self) -> &'static str {
        match self {
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::BigInt(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Bytes(_) | Self::OwnedBytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Set(_) => "set",
            Self::Dict(_) => "dict",
        }
    }

    fn unexpected(&self, expected: &dyn de::Expected) -> DecodeError {
        DecodeError::custom(format_args!(
            "a {} where {expected} is expected",
            self.name()
        ))
    }
}

impl<'de> IntoDeserializer<'de, DecodeError> for Ref<'_, 'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'m, 'de> Ref<'m, 'de> {
    fn of(self, item: Item) -> Self {
        Self { item, ..self }
    }

    /// Its kind. Texts and bytes count against the limit, because they are about to be read.
    fn kind(self) -> Result<Kind<'m, 'de>, DecodeError> {
        let heap = self.heap;
        Ok(match self.item {
            Item::None => Kind::None,
            Item::Bool(bool) => Kind::Bool(bool),
            Item::Int(int) => Kind::Int(int.into()),
            Item::EmptyBytes => Kind::Bytes(&[]),
            Item::EmptyTuple => Kind::Tuple(heap.items(super::heap::Chain::EMPTY)),
            Item::Constructor(_) => {
                return Err(DecodeError::custom("pickle: a function is no plain value"));
            }
            Item::Literal(at) => match heap.literal(at) {
                Some(Literal::Float(float)) => Kind::Float(float),
                Some(Literal::Str(text)) => {
                    heap.spend(text.len())?;
                    Kind::Str(text)
                }
                Some(Literal::Bytes(bytes)) => {
                    heap.spend(bytes.len())?;
                    Kind::Bytes(bytes)
                }
                Some(Literal::Int(bytes)) => {
                    heap.spend(bytes.len())?;
                    let bytes = significant(bytes);
                    sign_extended(bytes).map_or(Kind::BigInt(bytes), Kind::Int)
                }
                None => return Err(DecodeError::custom("pickle: no value")),
            },
            Item::Node(_) => match heap.node(self.item) {
                Some(Node::List(chain)) => Kind::List(heap.items(*chain)),
                Some(Node::Tuple(chain)) => Kind::Tuple(heap.items(*chain)),
                Some(Node::Set(chain) | Node::FrozenSet(chain)) => Kind::Set(heap.items(*chain)),
                Some(Node::Dict(chain)) => Kind::Dict(heap.items(*chain)),
                Some(Node::Latin1(at)) => {
                    let text = heap.text(Item::Literal(*at)).unwrap_or_default();
                    heap.spend(text.len())?;
                    let bytes = text.chars().map(|letter| u8::try_from(letter).ok());
                    let bytes = bytes.collect::<Option<Vec<u8>>>();
                    Kind::OwnedBytes(bytes.ok_or_else(|| {
                        DecodeError::custom("pickle: bytes as a text that is not latin1")
                    })?)
                }
                None => return Err(DecodeError::custom("pickle: no value")),
            },
        })
    }

    fn visit_seq<V: Visitor<'de>>(
        self,
        items: Items<'m>,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let mut items = SeqDeserializer::new(items.map(|item| self.of(item)));
        let visited = visitor.visit_seq(&mut items)?;
        items.end()?;
        Ok(visited)
    }

    fn visit_map<V: Visitor<'de>>(
        self,
        items: Items<'m>,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let pairs = Pairs(items).map(|(key, value)| (self.of(key), self.of(value)));
        let mut pairs = MapDeserializer::new(pairs);
        let visited = visitor.visit_map(&mut pairs)?;
        pairs.end()?;
        Ok(visited)
    }

    /// Visits a value that contains no others.
    fn visit_scalar<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.kind()? {
            kind @ (Kind::List(_) | Kind::Tuple(_) | Kind::Set(_) | Kind::Dict(_)) => {
                Err(kind.unexpected(&visitor))
            }
            kind => self.visit(kind, visitor),
        }
    }

    fn visit<V: Visitor<'de>>(
        self,
        kind: Kind<'m, 'de>,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match kind {
            Kind::None => visitor.visit_unit(),
            Kind::Bool(bool) => visitor.visit_bool(bool),
            Kind::Int(int) => visitor.visit_i64(int),
            Kind::BigInt(bytes) => visit_big_int(bytes, visitor),
            Kind::Float(float) => visitor.visit_f64(float),
            Kind::Str(text) => visitor.visit_borrowed_str(text),
            Kind::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Kind::OwnedBytes(bytes) => visitor.visit_byte_buf(bytes),
            Kind::List(items) | Kind::Tuple(items) | Kind::Set(items) => {
                self.visit_seq(items, visitor)
            }
            Kind::Dict(items) => self.visit_map(items, visitor),
        }
    }

    /// Visits as a [`Value`](super::Value) reads itself: kinds that serde has no word for come as
    /// variants.
    fn visit_exactly<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let (name, content) = match self.kind()? {
            Kind::Tuple(items) => (TUPLE, Content::Items(self, items)),
            Kind::Set(items) => (SET, Content::Items(self, items)),
            Kind::BigInt(bytes) => (BIG_INT, Content::BigInt(bytes)),
            other => return self.visit(other, visitor),
        };
        visitor.visit_enum(Variant {
            name: Name::Special(name),
            content,
        })
    }
}

/// Keys with their values.
struct Pairs<'m>(Items<'m>);

impl Iterator for Pairs<'_> {
    type Item = (Item, Item);

    fn next(&mut self) -> Option<(Item, Item)> {
        Some((self.0.next()?, self.0.next()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let pairs = self.0.len() / 2;
        (pairs, Some(pairs))
    }
}

/// A number of at most 64 bits.
fn sign_extended(bytes: &[u8]) -> Option<i64> {
    let is_negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut wide = [if is_negative { 0xff } else { 0 }; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}

fn visit_big_int<'de, V: Visitor<'de>>(bytes: &[u8], visitor: V) -> Result<V::Value, DecodeError> {
    // 128 bits and a sign are all that serde has words for.
    if bytes.len() <= 17 {
        let int = BigInt::from_signed_bytes_le(bytes);
        if let Ok(int) = u64::try_from(&int) {
            return visitor.visit_u64(int);
        } else if let Ok(int) = i128::try_from(&int) {
            return visitor.visit_i128(int);
        } else if let Ok(int) = u128::try_from(&int) {
            return visitor.visit_u128(int);
        }
    }
    Err(DecodeError::custom(format_args!(
        "an int of {} bytes",
        bytes.len()
    )))
}

fn visit_bytes<'de, V: Visitor<'de>>(bytes: &[u8], visitor: V) -> Result<V::Value, DecodeError> {
    let mut bytes = SeqDeserializer::new(bytes.iter().copied());
    let visited = visitor.visit_seq(&mut bytes)?;
    bytes.end()?;
    Ok(visited)
}

macro_rules! scalars {
    ($($method:ident),+ $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            self.visit_scalar(visitor)
        })+
    };
}

impl<'de> Deserializer<'de> for Ref<'_, 'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.visit(self.kind()?, visitor)
    }

    scalars!(
        deserialize_bool,
        deserialize_i8,
        deserialize_i16,
        deserialize_i32,
        deserialize_i64,
        deserialize_i128,
        deserialize_u8,
        deserialize_u16,
        deserialize_u32,
        deserialize_u64,
        deserialize_u128,
        deserialize_char,
        deserialize_str,
        deserialize_string,
        deserialize_unit,
        deserialize_identifier,
    );

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let float = match self.kind()? {
            Kind::Float(float) => Some(float),
            Kind::Int(int) => Some(int as f64),
            Kind::BigInt(bytes) => nearest_float(&BigInt::from_signed_bytes_le(bytes)),
            other => return Err(other.unexpected(&visitor)),
        };
        match float {
            Some(float) => visitor.visit_f64(float),
            None => Err(DecodeError::custom("an int that is too large for a float")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.item {
            Item::None => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.visit_scalar(visitor)
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
        match self.kind()? {
            Kind::List(items) | Kind::Tuple(items) | Kind::Set(items) => {
                self.visit_seq(items, visitor)
            }
            Kind::Bytes(bytes) => visit_bytes(bytes, visitor),
            Kind::OwnedBytes(bytes) => visit_bytes(&bytes, visitor),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let kind = self.kind()?;
        let found = match &kind {
            Kind::List(items) | Kind::Tuple(items) => items.len(),
            Kind::Bytes(bytes) => bytes.len(),
            Kind::OwnedBytes(bytes) => bytes.len(),
            other => return Err(other.unexpected(&visitor)),
        };
        if found != len {
            return Err(DecodeError::custom(format_args!(
                "{found} values where {len} are expected"
            )));
        }
        match kind {
            Kind::Bytes(bytes) => visit_bytes(bytes, visitor),
            Kind::OwnedBytes(bytes) => visit_bytes(&bytes, visitor),
            kind => self.visit(kind, visitor),
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

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.kind()? {
            Kind::Dict(items) => self.visit_map(items, visitor),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.kind()? {
            Kind::Dict(items) => self.visit_map(items, visitor),
            _ => self.deserialize_tuple(fields.len(), visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let (name, content) = match self.kind()? {
            Kind::Str(_) => (self, Content::None),
            Kind::Dict(items) => match (Pairs(items.clone()).next(), items.len()) {
                (Some((name, content)), 2) => (self.of(name), Content::Value(self.of(content))),
                _ => return Err(Kind::Dict(items).unexpected(&visitor)),
            },
            other => return Err(other.unexpected(&visitor)),
        };
        visitor.visit_enum(Variant {
            name: Name::Value(name),
            content,
        })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bytes byte_buf
    }
}

/// A variant of an enum: its name, and its content if it has one.
struct Variant<'m, 'de> {
    name: Name<'m, 'de>,
    content: Content<'m, 'de>,
}

enum Name<'m, 'de> {
    Value(Ref<'m, 'de>),
    Special(&'static str),
}

enum Content<'m, 'de> {
    None,
    Value(Ref<'m, 'de>),
    /// The elements of a tuple or set, whatever their number.
    Items(Ref<'m, 'de>, Items<'m>),
    BigInt(&'de [u8]),
}

impl<'m, 'de> EnumAccess<'de> for Variant<'m, 'de> {
    type Error = DecodeError;
    type Variant = Content<'m, 'de>;

    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Content<'m, 'de>), DecodeError> {
        let name = match self.name {
            Name::Value(name) => seed.deserialize(name)?,
            Name::Special(name) => {
                let name: de::value::StrDeserializer<'_, DecodeError> = name.into_deserializer();
                seed.deserialize(name)?
            }
        };
        Ok((name, self.content))
    }
}

impl<'m, 'de> Content<'m, 'de> {
    fn value(self) -> Result<Ref<'m, 'de>, DecodeError> {
        match self {
            Self::Value(value) => Ok(value),
            _ => Err(DecodeError::custom("a variant without its content")),
        }
    }
}

impl<'de> VariantAccess<'de> for Content<'_, 'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        match self {
            Self::None => Ok(()),
            content => match content.value()?.kind()? {
                Kind::None => Ok(()),
                other => Err(other.unexpected(&"a variant without content")),
            },
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, DecodeError> {
        seed.deserialize(self.value()?)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self {
            Self::Items(value, items) => value.visit_seq(items, visitor),
            Self::BigInt(bytes) => visitor.visit_borrowed_bytes(bytes),
            content => content.value()?.deserialize_tuple(len, visitor),
        }
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.value()?.deserialize_struct("", fields, visitor)
    }
}

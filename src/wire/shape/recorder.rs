//! A deserializer that makes values up and records what it is asked for.

use std::any::type_name;

use serde::Deserializer;
use serde::de::value::{StrDeserializer, U32Deserializer};
use serde::de::{
    DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::explorer::{Explorer, Stop, TypeStep};
use super::graph::{Id, Names, UNIT_VARIANT};
use crate::wire::PayloadCodec;
use crate::wire::pickle::VALUE;

const NUMBERS: [u8; 6] = [1, 0, 2, 7, 16, 100];
const TEXTS: [&str; 18] = [
    "a",
    "1",
    "",
    "127.0.0.1",
    "::1",
    "127.0.0.1:80",
    "2000-01-01",
    "2000-01-01T00:00:00",
    "2000-01-01T00:00:00Z",
    "00:00:00",
    "00000000-0000-4000-8000-000000000000",
    "http://localhost/",
    "a@example.com",
    "1.0.0",
    "#000000",
    "/",
    "Mon",
    "00",
];
const LETTERS: [char; 4] = ['a', 'A', '0', ' '];
/// Lengths of byte strings to offer: of addresses, ids and digests.
const LENGTHS: [usize; 9] = [1, 16, 0, 4, 8, 12, 20, 32, 64];

/// Records one value.
pub(super) struct Recorder<'a> {
    explorer: &'a mut Explorer,
    /// Where it is recorded.
    at: Id,
    /// The Rust type that asks, and its place in the one around it.
    of: &'static str,
    index: usize,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(explorer: &'a mut Explorer, at: Id, of: &'static str, index: usize) -> Self {
        Self {
            explorer,
            at,
            of,
            index,
        }
    }

    /// Records a type without parts. Returns which value to make up.
    fn leaf(&mut self, kind: &'static str) -> Result<usize, Stop> {
        self.explorer.step()?;
        self.explorer.graph.leaf(self.at, kind);
        Ok(self.explorer.offer(self.of, self.index, kind))
    }

    /// Records that the type asks the data what it is.
    fn any<'de, V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let offer = self.leaf("any")?;
        if self.explorer.codec == PayloadCodec::Bincode {
            return Err(self.explorer.obstacle(what_asks(type_name::<V>()), self.of));
        }
        match offer % 6 {
            0 => visitor.visit_unit(),
            1 => visitor.visit_i64(1),
            2 => visitor.visit_string("a".to_owned()),
            3 => visitor.visit_bool(true),
            4 => visitor.visit_seq(Elements::none(self.explorer)),
            _ => visitor.visit_f64(1.0),
        }
    }
}

/// What a visitor that accepts any value is part of, told by its name.
fn what_asks(visitor: &str) -> &'static str {
    if visitor.contains("TaggedContentVisitor") {
        "has `#[serde(tag = \"..\")]`, which looks for the tag among the fields"
    } else if visitor.contains("ContentVisitor") {
        "has `#[serde(untagged)]` or `#[serde(flatten)]`, which try what fits"
    } else if visitor.contains("serde_json::") {
        "is a value of JSON, which can be anything"
    } else if visitor.contains("pickle::") {
        "is a value of Python, which can be anything"
    } else {
        "asks the data what it is (`deserialize_any`)"
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $kind:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
            let offer = self.leaf($kind)?;
            visitor.$visit(NUMBERS[offer % NUMBERS.len()].into())
        }
    )*};
}

impl<'de> Deserializer<'de> for Recorder<'_> {
    type Error = Stop;

    fn is_human_readable(&self) -> bool {
        self.explorer.codec == PayloadCodec::Pickle
    }

    numbers! {
        deserialize_u8 visit_u8 "u8";
        deserialize_u16 visit_u16 "u16";
        deserialize_u32 visit_u32 "u32";
        deserialize_u64 visit_u64 "u64";
        deserialize_u128 visit_u128 "u128";
        deserialize_i16 visit_i16 "i16";
        deserialize_i32 visit_i32 "i32";
        deserialize_i64 visit_i64 "i64";
        deserialize_i128 visit_i128 "i128";
        deserialize_f32 visit_f32 "f32";
        deserialize_f64 visit_f64 "f64";
    }

    fn deserialize_i8<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let offer = self.leaf("i8")?;
        visitor.visit_i8(NUMBERS[offer % NUMBERS.len()].cast_signed())
    }

    fn deserialize_bool<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let offer = self.leaf("bool")?;
        visitor.visit_bool(offer.is_multiple_of(2))
    }

    fn deserialize_char<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let offer = self.leaf("char")?;
        visitor.visit_char(LETTERS[offer % LETTERS.len()])
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let offer = self.leaf("str")?;
        visitor.visit_string(TEXTS[offer % TEXTS.len()].to_owned())
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let offer = self.leaf("bytes")?;
        visitor.visit_byte_buf(vec![1; LENGTHS[offer % LENGTHS.len()]])
    }

    fn deserialize_unit<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        self.leaf("()")?;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.any(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.any(visitor)
    }

    /// Others supply the names of fields and variants; a type that asks for one here wants it to be
    /// part of the data.
    fn deserialize_identifier<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let offer = self.leaf("name")?;
        if self.explorer.codec == PayloadCodec::Bincode {
            let what = "has `#[serde(flatten)]`, or `#[serde(tag = \"..\", content = \"..\")]`, which look for names among the data";
            return Err(self.explorer.obstacle(what, self.of));
        }
        visitor.visit_string(TEXTS[offer % TEXTS.len()].to_owned())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.explorer.step()?;
        let [some] = self.explorer.graph.arranged(self.at, "option");
        if self.explorer.is_again() {
            return visitor.visit_none();
        }
        let depth = self.explorer.go(TypeStep::Some);
        let visited = visitor.visit_some(Recorder::new(self.explorer, some, self.of, self.index));
        self.explorer.back_to(depth);
        visited
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.explorer.step()?;
        if name == VALUE {
            return self.any(visitor);
        }
        let depth = self.explorer.depth();
        let id = self.explorer.enter::<V>(self.at, name, &[]);
        let inner = Recorder::new(self.explorer, id, self.of, self.index);
        let visited = visitor.visit_newtype_struct(inner);
        self.explorer.back_to(depth);
        visited
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.explorer.step()?;
        let parts: [Id; 1] = self.explorer.graph.arranged(self.at, "seq");
        let parts = if self.explorer.is_again() {
            Vec::new()
        } else {
            parts.to_vec()
        };
        visitor.visit_seq(Elements {
            left: parts.len(),
            parts,
            next: 0,
            place: |_| TypeStep::Element,
            explorer: self.explorer,
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Stop> {
        self.explorer.step()?;
        let parts = self.explorer.graph.tuple(self.at, len);
        visitor.visit_seq(Elements {
            parts,
            left: len,
            next: 0,
            place: TypeStep::Item,
            explorer: self.explorer,
        })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.explorer.step()?;
        let depth = self.explorer.depth();
        let id = self.explorer.enter::<V>(self.at, name, &[]);
        let inner = Recorder::new(self.explorer, id, self.of, self.index);
        let visited = inner.deserialize_tuple(len, visitor);
        self.explorer.back_to(depth);
        visited
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.explorer.step()?;
        let [key, value] = self.explorer.graph.arranged(self.at, "map");
        visitor.visit_map(Entries {
            is_left: !self.explorer.is_again(),
            key,
            value,
            explorer: self.explorer,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: Names,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.explorer.step()?;
        let depth = self.explorer.depth();
        let id = self.explorer.enter::<V>(self.at, name, names);
        let visited = read_fields(self.explorer, id, names, visitor);
        self.explorer.back_to(depth);
        visited
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: Names,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.explorer.step()?;
        let depth = self.explorer.depth();
        let id = self.explorer.enter::<V>(self.at, name, names);
        let contents = self.explorer.graph.variants(id, names);
        let number = self.explorer.choose(id);
        let Some(&content) = contents.get(number) else {
            // The enum has no variants, so it has no value.
            return Err(Stop::NoVariant);
        };
        self.explorer.try_part(id, number);
        let variant = names[number];
        self.explorer.go(TypeStep::Variant(variant));
        let visited = visitor.visit_enum(Variant {
            explorer: self.explorer,
            id,
            of: name,
            names,
            number,
            name: variant,
            content,
        });
        self.explorer.back_to(depth);
        if visited.is_ok() {
            self.explorer.has_read(id, number);
        }
        visited
    }
}

/// Reads the fields of a struct, or of a variant that looks like one.
fn read_fields<'de, V: Visitor<'de>>(
    explorer: &mut Explorer,
    id: Id,
    names: Names,
    visitor: V,
) -> Result<V::Value, Stop> {
    let parts = explorer.graph.fields(id, names);
    if let Some(order) = explorer.order(id) {
        let mut asked = 0;
        let visited = visitor.visit_map(NamedFields {
            explorer: &mut *explorer,
            id,
            names,
            parts,
            order: order.into_iter(),
            next: 0,
            asked: &mut asked,
        });
        if asked == 0 {
            explorer.by_order_only(id);
        }
        return visited;
    }
    let mut asked = 0;
    let visited = visitor.visit_seq(Fields {
        explorer: &mut *explorer,
        id,
        names,
        parts,
        asked: &mut asked,
    })?;
    if asked < names.len() {
        explorer.forget_parts(id, asked);
    }
    Ok(visited)
}

/// The type that a seed reads, if it is not the seed's own.
fn asking<T>() -> &'static str {
    let seed = type_name::<T>();
    let of = seed
        .strip_prefix("core::marker::PhantomData<")
        .and_then(|of| of.strip_suffix('>'));
    of.unwrap_or(seed)
}

/// The elements of a tuple, by number.
struct Elements<'a> {
    explorer: &'a mut Explorer,
    /// The last one stands for all after it.
    parts: Vec<Id>,
    left: usize,
    next: usize,
    place: fn(usize) -> TypeStep,
}

impl<'a> Elements<'a> {
    fn none(explorer: &'a mut Explorer) -> Self {
        Self {
            explorer,
            parts: Vec::new(),
            left: 0,
            next: 0,
            place: TypeStep::Item,
        }
    }
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Stop> {
        let last = self.parts.len().saturating_sub(1);
        if self.left == 0 || self.parts.is_empty() {
            return Ok(None);
        }
        self.left -= 1;
        let (index, part) = (self.next, self.parts[self.next.min(last)]);
        self.next += 1;
        let depth = self.explorer.go((self.place)(index));
        let recorder = Recorder::new(self.explorer, part, asking::<T>(), index.min(last));
        let value = seed.deserialize(recorder);
        self.explorer.back_to(depth);
        value.map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// The fields of a struct in order.
struct Fields<'a> {
    explorer: &'a mut Explorer,
    id: Id,
    names: Names,
    parts: Vec<Id>,
    asked: &'a mut usize,
}

impl<'de> SeqAccess<'de> for Fields<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Stop> {
        let at = *self.asked;
        let Some(&part) = self.parts.get(at) else {
            return Ok(None);
        };
        *self.asked += 1;
        read_field(self.explorer, self.id, at, part, self.names[at], seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.parts.len() - *self.asked)
    }
}

/// The fields of a struct by name.
struct NamedFields<'a> {
    explorer: &'a mut Explorer,
    id: Id,
    names: Names,
    parts: Vec<Id>,
    order: std::vec::IntoIter<usize>,
    next: usize,
    asked: &'a mut usize,
}

impl<'de> MapAccess<'de> for NamedFields<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Stop> {
        let Some(at) = self.order.next() else {
            return Ok(None);
        };
        self.next = at;
        *self.asked += 1;
        let name: StrDeserializer<'_, Stop> = self.names[at].into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Stop> {
        let at = self.next;
        let Some(&part) = self.parts.get(at) else {
            return Err(Stop::Refused);
        };
        read_field(self.explorer, self.id, at, part, self.names[at], seed)
    }
}

fn read_field<'de, T: DeserializeSeed<'de>>(
    explorer: &mut Explorer,
    id: Id,
    at: usize,
    part: Id,
    name: &'static str,
    seed: T,
) -> Result<T::Value, Stop> {
    explorer.try_part(id, at);
    let depth = explorer.go(TypeStep::Field(name));
    let value = seed.deserialize(Recorder::new(explorer, part, asking::<T>(), at));
    explorer.back_to(depth);
    if value.is_ok() {
        explorer.has_read(id, at);
    }
    value
}

/// The entries of a map: one or none.
struct Entries<'a> {
    explorer: &'a mut Explorer,
    is_left: bool,
    key: Id,
    value: Id,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Stop> {
        if !std::mem::replace(&mut self.is_left, false) {
            return Ok(None);
        }
        let depth = self.explorer.go(TypeStep::Key);
        let key = seed.deserialize(Recorder::new(self.explorer, self.key, asking::<K>(), 0));
        self.explorer.back_to(depth);
        key.map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Stop> {
        let depth = self.explorer.go(TypeStep::Value);
        let value = seed.deserialize(Recorder::new(self.explorer, self.value, asking::<T>(), 1));
        self.explorer.back_to(depth);
        value
    }

    fn size_hint(&self) -> Option<usize> {
        Some(usize::from(self.is_left))
    }
}

/// A variant of an enum.
struct Variant<'a> {
    explorer: &'a mut Explorer,
    id: Id,
    /// The enum.
    of: &'static str,
    names: Names,
    number: usize,
    name: &'static str,
    content: Id,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Stop;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Stop> {
        let (explorer, id, number) = (&mut *self.explorer, self.id, self.number);
        let by_name = |name: &'static str, seed: T| {
            let name: StrDeserializer<'_, Stop> = name.into_deserializer();
            seed.deserialize(name).ok()
        };
        let chosen = match explorer.codec {
            PayloadCodec::Pickle => by_name(self.name, seed),
            PayloadCodec::Bincode => {
                if let Some(at) = explorer.name_to_ask(id) {
                    let named = by_name(self.names[at], seed);
                    return Err(explorer.note_name(id, named.as_ref(), self.of));
                }
                let value: U32Deserializer<Stop> = (number as u32).into_deserializer();
                let chosen = seed.deserialize(value).ok();
                explorer.note_number(id, number, chosen.as_ref());
                chosen
            }
        };
        match chosen {
            Some(chosen) => Ok((chosen, self)),
            None => {
                explorer.no_variant(id, number, self.content);
                Err(Stop::NoVariant)
            }
        }
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Stop;

    fn unit_variant(self) -> Result<(), Stop> {
        self.explorer.graph.leaf(self.content, UNIT_VARIANT);
        self.explorer.is_unit(self.id, self.number);
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Stop> {
        let [part] = self.explorer.graph.arranged(self.content, "variant");
        seed.deserialize(Recorder::new(
            self.explorer,
            part,
            asking::<T>(),
            self.number,
        ))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Stop> {
        Recorder::new(self.explorer, self.content, self.name, self.number)
            .deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, names: Names, visitor: V) -> Result<V::Value, Stop> {
        read_fields(self.explorer, self.content, names, visitor)
    }
}

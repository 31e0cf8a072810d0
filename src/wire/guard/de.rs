//! Wraps a codec's deserializer.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::U32Deserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::{Guard, Guarded, Level, NEWTYPE, TooMany, UNIT};

/// A value to be read, with its level.
pub(in crate::wire) struct Seed<'g, T> {
    seed: T,
    level: Level<'g>,
}

impl<'g, T> Seed<'g, PhantomData<T>> {
    /// Reads any `T` at the outermost level.
    #[inline]
    pub(in crate::wire) fn outermost(guard: &'g Guard) -> Self {
        Self {
            seed: PhantomData,
            level: guard.level(),
        }
    }
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<'_, T> {
    type Value = T::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T::Value, D::Error> {
        let level = self.level;
        self.seed.deserialize(Guarded { inner, level })
    }
}

/// The kind of a sequence for its reader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sequence {
    /// The bytes determine the number of elements.
    Elements,
    /// The type determines the number of elements.
    Tuple,
    /// The type determines the number, unless attributes change it.
    Fields,
}

/// Visits a value at `level`.
struct Visit<'g, V> {
    visitor: V,
    level: Level<'g>,
    sequence: Sequence,
    /// The variants of the enum that is read.
    variants: &'static [&'static str],
}

impl<'g, D> Guarded<'g, D> {
    #[inline]
    fn visit<V>(&self, visitor: V, sequence: Sequence) -> Visit<'g, V> {
        Visit {
            visitor,
            level: self.level,
            sequence,
            variants: &[],
        }
    }
}

macro_rules! scalars {
    ($($method:ident),+ $(,)?) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        })+
    };
}

macro_rules! elements {
    ($($method:ident: $inner:ident),+ $(,)?) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let visitor = self.visit(visitor, Sequence::Elements);
            self.inner.$inner(visitor)
        })+
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Guarded<'_, D> {
    type Error = D::Error;

    // No codec answers these with values that contain others.
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
        deserialize_f32,
        deserialize_f64,
        deserialize_char,
        deserialize_str,
        deserialize_unit,
        deserialize_identifier,
        deserialize_ignored_any,
    );

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        if type_name::<V>().contains("ContentVisitor") {
            self.level.guard.spend_on_content().map_err(refuse)?;
        }
        let visitor = self.visit(visitor, Sequence::Elements);
        self.inner.deserialize_any(visitor)
    }

    elements!(
        deserialize_seq: deserialize_seq,
        deserialize_map: deserialize_map,
        deserialize_option: deserialize_option,
        // Borrowed, so that nothing is allocated before it is known that the bytes exist.
        deserialize_bytes: deserialize_bytes,
        deserialize_byte_buf: deserialize_bytes,
    );

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_str(visitor)
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visit(visitor, Sequence::Elements);
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visit(visitor, Sequence::Tuple);
        self.inner.deserialize_tuple(len, visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visit(visitor, Sequence::Fields);
        self.inner.deserialize_tuple_struct(name, len, visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visit(visitor, Sequence::Fields);
        self.inner.deserialize_struct(name, fields, visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = Visit {
            variants,
            ..self.visit(visitor, Sequence::Elements)
        };
        self.inner.deserialize_enum(name, variants, visitor)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

#[cold]
#[inline(never)]
fn refuse<E: Error>(reason: impl fmt::Display) -> E {
    E::custom(reason)
}

impl<'g, V> Visit<'g, V> {
    #[inline]
    fn deeper<E: Error>(&self) -> Result<Level<'g>, E> {
        self.level.deeper().map_err(refuse)
    }

    /// The level of the parts of a `T`, which may be in a box.
    #[inline]
    fn inside<T, E: Error>(&self) -> Result<Level<'g>, E> {
        self.level.guard.spend_on::<T>().map_err(refuse)?;
        self.deeper()
    }

    /// Elements are counted before memory or time is spent on them.
    #[inline]
    fn count<E: Error>(&self, hint: Option<usize>) -> Result<(), E> {
        let guard = self.level.guard;
        // Both codecs know the number.
        let elements = hint.unwrap_or(0);
        match guard.elements.get().checked_sub(elements) {
            Some(left) => {
                guard.elements.set(left);
                Ok(())
            }
            None if guard.is_named => Err(refuse(TooMany::Values)),
            None => Err(refuse(TooMany::Elements(elements))),
        }
    }
}

macro_rules! visits {
    ($($method:ident: $type:ty),+ $(,)?) => {
        $(#[inline]
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        })+
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Visit<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visits!(
        visit_bool: bool,
        visit_i8: i8,
        visit_i16: i16,
        visit_i32: i32,
        visit_i64: i64,
        visit_i128: i128,
        visit_u8: u8,
        visit_u16: u16,
        visit_u32: u32,
        visit_u64: u64,
        visit_u128: u128,
        visit_f32: f32,
        visit_f64: f64,
        visit_char: char,
        visit_str: &str,
        visit_borrowed_str: &'de str,
        visit_string: String,
        visit_bytes: &[u8],
        visit_borrowed_bytes: &'de [u8],
        visit_byte_buf: Vec<u8>,
    );

    #[inline]
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    #[inline]
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let level = self.deeper()?;
        let visited = self.visitor.visit_some(Guarded { inner, level });
        level.leave();
        visited
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let level = self.level.beside().map_err(refuse)?;
        level.guard.spend_on::<V::Value>().map_err(refuse)?;
        self.visitor.visit_newtype_struct(Guarded { inner, level })
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let level = self.inside::<V::Value, _>()?;
        let guard = level.guard;
        if self.sequence == Sequence::Elements || guard.is_named {
            self.count(inner.size_hint())?;
        }
        let mut parts = Parts { inner, level };
        if self.sequence != Sequence::Fields {
            let visited = self.visitor.visit_seq(parts);
            level.leave();
            return visited;
        }
        let mut fields = Counted {
            parts: &mut parts,
            read: 0,
        };
        let visited = self.visitor.visit_seq(&mut fields);
        level.leave();
        let visited = visited?;
        guard.fold(fields.read);
        Ok(visited)
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let level = self.inside::<V::Value, _>()?;
        self.count(inner.size_hint())?;
        let parts = Parts { inner, level };
        let visited = self.visitor.visit_map(parts);
        level.leave();
        visited
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let guard = self.level.guard;
        guard.spend_on::<V::Value>().map_err(refuse)?;
        self.visitor.visit_enum(Variants {
            inner,
            level: self.level,
            names: self.variants,
        })
    }
}

/// Visits the parts of a value, one by one.
struct Parts<'g, A> {
    inner: A,
    /// Level of the parts.
    level: Level<'g>,
}

/// Visits fields, which are counted as they are read.
struct Counted<'p, 'g, A> {
    parts: &'p mut Parts<'g, A>,
    read: u32,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Counted<'_, '_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        let next = self.parts.next_element_seed(seed)?;
        self.read = self.read.wrapping_add(u32::from(next.is_some()));
        Ok(next)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.parts.size_hint()
    }
}

impl<'g, A> Parts<'g, A> {
    /// Reads the next part. Its attempt is noted even if there is none.
    #[inline]
    fn nested<'de, T: DeserializeSeed<'de>, E: Error>(&self, seed: T) -> Result<Seed<'g, T>, E> {
        let level = self.level;
        level.guard.spend_on::<T::Value>().map_err(refuse)?;
        Ok(Seed { seed, level })
    }

    /// The size hint for the reader's allocation: elements that take memory take bytes of the
    /// payload, too.
    #[inline]
    fn hint(&self, inner: Option<usize>) -> Option<usize> {
        inner.map(|len| len.min(self.level.guard.payload_len))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Parts<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        let nested = self.nested(seed)?;
        self.inner.next_element_seed(nested)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.hint(self.inner.size_hint())
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Parts<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        let nested = self.nested(seed)?;
        self.inner.next_key_seed(nested)
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        let nested = self.nested(seed)?;
        self.inner.next_value_seed(nested)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.hint(self.inner.size_hint())
    }
}

/// A variant and its content.
struct Variants<'g, A> {
    inner: A,
    level: Level<'g>,
    names: &'static [&'static str],
}

impl<'de, 'g, A: EnumAccess<'de>> EnumAccess<'de> for Variants<'g, A> {
    type Error = A::Error;
    type Variant = Guarded<'g, A::Variant>;

    #[inline]
    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Self::Variant), A::Error> {
        let level = self.level;
        let (value, inner) = if level.guard.is_named {
            self.inner.variant_seed(seed)?
        } else {
            let (guard, names) = (level.guard, self.names);
            self.inner.variant_seed(Number { seed, guard, names })?
        };
        Ok((value, Guarded { inner, level }))
    }
}

/// A variant whose number is in the bytes. Serde numbers all variants when it writes, but only the
/// readable ones when it reads, while `names` also has the other names of a variant (serde's
/// `alias`). So the name is noted, and read: one that is not what was written shows in the shape.
struct Number<'g, T> {
    seed: T,
    guard: &'g Guard,
    names: &'static [&'static str],
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Number<'_, T> {
    type Value = T::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T::Value, D::Error> {
        let number = u32::deserialize(inner)?;
        let name = self.names.get(number as usize).copied();
        self.guard.fold_name(name.unwrap_or_default());
        self.seed.deserialize(Named {
            name,
            number: number.into_deserializer(),
        })
    }
}

/// A variant, with its name for a reader that asks for it.
struct Named<E> {
    name: Option<&'static str>,
    number: U32Deserializer<E>,
}

macro_rules! by_name {
    ($($method:ident),+) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
            match self.name {
                Some(name) => visitor.visit_borrowed_str(name),
                None => self.number.$method(visitor),
            }
        })+
    };
}

impl<'de, E: Error> Deserializer<'de> for Named<E> {
    type Error = E;

    by_name!(deserialize_identifier, deserialize_str, deserialize_string);

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        self.number.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map struct enum ignored_any
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.level.guard.fold(UNIT);
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        let level = self.level.deeper().map_err(refuse)?;
        level.guard.fold(NEWTYPE);
        let made = self.inner.newtype_variant_seed(Seed { seed, level });
        level.leave();
        made
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        let visitor = self.visit(visitor, Sequence::Fields);
        self.inner.tuple_variant(len, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let visitor = self.visit(visitor, Sequence::Fields);
        self.inner.struct_variant(fields, visitor)
    }
}

//! Wraps a codec's serializer.

use std::fmt::{self, Display};

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::{Guarded, Level, NEWTYPE, UNIT};

/// A value with its level.
pub(in crate::wire) struct Nested<'g, 'v, T: ?Sized> {
    pub(in crate::wire) value: &'v T,
    pub(in crate::wire) level: Level<'g>,
}

impl<T: Serialize + ?Sized> Serialize for Nested<'_, '_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        let level = self.level;
        self.value.serialize(Guarded { inner, level })
    }
}

/// An item with its level.
struct Item<'g, T> {
    value: T,
    level: Level<'g>,
}

impl<T: Serialize> Serialize for Item<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        let level = self.level;
        self.value.serialize(Guarded { inner, level })
    }
}

/// Writes the parts of a value, one by one.
pub(in crate::wire) struct Parts<'g, C> {
    inner: C,
    /// Level of the parts.
    level: Level<'g>,
    name: &'static str,
    /// How many were announced.
    announced: Option<usize>,
    written: usize,
}

impl<'g, C> Parts<'g, C> {
    #[inline]
    fn nested<'v, T: ?Sized>(&self, value: &'v T) -> Nested<'g, 'v, T> {
        Nested {
            value,
            level: self.level,
        }
    }

    /// Ends the parts: their number must be the announced one, unless the codec writes where they
    /// end.
    #[inline]
    fn check<E: Error>(&self) -> Result<(), E> {
        let Self {
            name,
            announced,
            written,
            ..
        } = *self;
        self.level.leave();
        match announced {
            Some(announced) if announced != written && !self.level.guard.is_named => {
                Err(refuse(Miscounted {
                    name,
                    announced,
                    written,
                }))
            }
            _ => Ok(()),
        }
    }

    /// Ends fields.
    #[inline]
    fn check_fields<E: Error>(&self) -> Result<(), E> {
        self.check()?;
        self.level.guard.fold(self.written as u32);
        Ok(())
    }
}

/// Out of line, so that the code around it is small enough to be inlined into the caller's loops.
#[cold]
#[inline(never)]
fn refuse<E: Error>(reason: impl Display) -> E {
    E::custom(reason)
}

/// Made of copies: a counter whose address is taken is kept in memory by loops.
struct Miscounted {
    name: &'static str,
    announced: usize,
    written: usize,
}

impl Display for Miscounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            announced,
            written,
        } = self;
        let name = if name.is_empty() { "a value" } else { name };
        write!(
            f,
            "`Serialize` of {name} announces {announced} parts and writes {written}"
        )
    }
}

impl<'g, S: Serializer> Guarded<'g, S> {
    #[inline]
    fn deeper(&self) -> Result<Level<'g>, S::Error> {
        self.level.deeper().map_err(refuse)
    }

    /// The number must be known in advance, unless the codec writes where the elements end.
    #[inline]
    fn count(&self, len: Option<usize>) -> Result<(), S::Error> {
        let guard = self.level.guard;
        match len {
            Some(len) => {
                let elements = guard.elements.get().saturating_add(len);
                guard.elements.set(elements);
                Ok(())
            }
            None if guard.is_named => Ok(()),
            None => Err(refuse(
                "a sequence or map that does not know its length (serde's flatten makes one): bincode cannot carry that, \
                 `codec = \"pickle\"` can",
            )),
        }
    }
}

macro_rules! scalars {
    ($($method:ident: $type:ty),+ $(,)?) => {
        $(#[inline]
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        })+
    };
}

impl<'g, S: Serializer> Serializer for Guarded<'g, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Parts<'g, S::SerializeSeq>;
    type SerializeTuple = Parts<'g, S::SerializeTuple>;
    type SerializeTupleStruct = Parts<'g, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Parts<'g, S::SerializeTupleVariant>;
    type SerializeMap = Parts<'g, S::SerializeMap>;
    type SerializeStruct = Parts<'g, S::SerializeStruct>;
    type SerializeStructVariant = Parts<'g, S::SerializeStructVariant>;

    scalars!(
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_u128: u128,
        serialize_f32: f32,
        serialize_f64: f64,
        serialize_char: char,
        serialize_str: &str,
        serialize_bytes: &[u8],
        serialize_unit_struct: &'static str,
    );

    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_none()
    }

    #[inline]
    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let level = self.deeper()?;
        let done = self.inner.serialize_some(&Nested { value, level })?;
        level.leave();
        Ok(done)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let level = self.level.beside().map_err(refuse)?;
        let nested = Nested { value, level };
        self.inner.serialize_newtype_struct(name, &nested)
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.level.guard.fold_name(variant);
        self.level.guard.fold(UNIT);
        self.inner.serialize_unit_variant(name, index, variant)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let level = self.deeper()?;
        level.guard.fold_name(variant);
        level.guard.fold(NEWTYPE);
        let nested = Nested { value, level };
        let done = self
            .inner
            .serialize_newtype_variant(name, index, variant, &nested)?;
        level.leave();
        Ok(done)
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        let level = self.deeper()?;
        self.count(len)?;
        Ok(Parts {
            inner: self.inner.serialize_seq(len)?,
            level,
            name: "",
            announced: len,
            written: 0,
        })
    }

    /// An iterator of known length need not be counted, so that numbers in a row are copied in one
    /// piece.
    #[inline]
    fn collect_seq<I: IntoIterator<Item: Serialize>>(self, items: I) -> Result<S::Ok, S::Error> {
        let items = items.into_iter();
        let (least, most) = items.size_hint();
        let len = most.filter(|most| *most == least);
        let level = self.deeper()?;
        self.count(len)?;
        let done = self
            .inner
            .collect_seq(items.map(|value| Item { value, level }))?;
        level.leave();
        Ok(done)
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        let level = self.deeper()?;
        self.count(len)?;
        Ok(Parts {
            inner: self.inner.serialize_map(len)?,
            level,
            name: "",
            announced: len,
            written: 0,
        })
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        let level = self.deeper()?;
        Ok(Parts {
            inner: self.inner.serialize_tuple(len)?,
            level,
            name: "",
            announced: Some(len),
            written: 0,
        })
    }

    #[inline]
    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        let level = self.deeper()?;
        Ok(Parts {
            inner: self.inner.serialize_tuple_struct(name, len)?,
            level,
            name,
            announced: Some(len),
            written: 0,
        })
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        let level = self.deeper()?;
        level.guard.fold_name(variant);
        Ok(Parts {
            inner: self
                .inner
                .serialize_tuple_variant(name, index, variant, len)?,
            level,
            name: variant,
            announced: Some(len),
            written: 0,
        })
    }

    #[inline]
    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        let level = self.deeper()?;
        Ok(Parts {
            inner: self.inner.serialize_struct(name, len)?,
            level,
            name,
            announced: Some(len),
            written: 0,
        })
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        let level = self.deeper()?;
        level.guard.fold_name(variant);
        Ok(Parts {
            inner: self
                .inner
                .serialize_struct_variant(name, index, variant, len)?,
            level,
            name: variant,
            announced: Some(len),
            written: 0,
        })
    }
}

impl<C: SerializeSeq> SerializeSeq for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.written += 1;
        let nested = self.nested(value);
        self.inner.serialize_element(&nested)
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.check()?;
        self.inner.end()
    }
}

impl<C: SerializeTuple> SerializeTuple for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.written += 1;
        let nested = self.nested(value);
        self.inner.serialize_element(&nested)
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.check()?;
        self.inner.end()
    }
}

impl<C: SerializeMap> SerializeMap for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.written += 1;
        let nested = self.nested(key);
        self.inner.serialize_key(&nested)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let nested = self.nested(value);
        self.inner.serialize_value(&nested)
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.check()?;
        self.inner.end()
    }
}

macro_rules! unnamed_fields {
    ($($traits:ident),+) => {
        $(impl<C: $traits> $traits for Parts<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                self.written += 1;
                let nested = self.nested(value);
                self.inner.serialize_field(&nested)
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.check_fields()?;
                self.inner.end()
            }
        })+
    };
}

unnamed_fields!(SerializeTupleStruct, SerializeTupleVariant);

macro_rules! named_fields {
    ($($traits:ident),+) => {
        $(impl<C: $traits> $traits for Parts<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), C::Error> {
                self.written += 1;
                let nested = self.nested(value);
                self.inner.serialize_field(key, &nested)
            }

            fn skip_field(&mut self, key: &'static str) -> Result<(), C::Error> {
                if self.level.guard.is_named {
                    return self.inner.skip_field(key);
                }
                Err(C::Error::custom(format_args!(
                    "`{}` leaves out its field `{key}` (serde's skip_serializing_if): a reader of bincode would take what \
                     follows for it. Remove the attribute, or use `codec = \"pickle\"`",
                    self.name
                )))
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.check_fields()?;
                self.inner.end()
            }
        })+
    };
}

named_fields!(SerializeStruct, SerializeStructVariant);

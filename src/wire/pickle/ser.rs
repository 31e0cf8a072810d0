//! Writes serde values as pickles of protocol 4.

use std::fmt;

use serde::ser::{self, Error as _, Serialize, Serializer};

use super::heap::significant;
use super::opcode::*;
use super::value::{BIG_INT, SET};
use crate::wire::EncodeError;
use crate::wire::guard::{Guard, Nested};

/// Writes `value` to the beginning of `into`, and returns how many bytes it took.
pub(super) fn write<T: Serialize + ?Sized>(
    value: &T,
    into: &mut [u8],
) -> Result<usize, EncodeError> {
    let limit = into.len();
    let mut writer = Writer {
        into,
        len: 0,
        meant: Meant::Itself,
        hashed: None,
        last_none: usize::MAX,
    };
    writer.put(&[PROTO, 4]);
    let guard = Guard::encoding_named();
    let level = guard.level();
    Nested { value, level }.serialize(&mut writer)?;
    writer.put(&[STOP]);
    match writer.len {
        size if size > limit => Err(EncodeError::TooLarge { size, limit }),
        len => Ok(len),
    }
}

/// Bytes beyond the end are counted only.
struct Writer<'a> {
    into: &'a mut [u8],
    len: usize,
    meant: Meant,
    /// The key or member that is being written, which Python will hash.
    hashed: Option<Hashed>,
    /// Where the last `None` was written.
    last_none: usize,
}

/// A place whose value Python hashes, with its number there.
#[derive(Clone, Copy)]
enum Hashed {
    Key(usize),
    Member(usize),
}

impl fmt::Display for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(number) => write!(f, "key number {number} of a map"),
            Self::Member(number) => write!(f, "member number {number} of a set"),
        }
    }
}

/// The Python type of the next bytes or sequence.
#[derive(PartialEq)]
enum Meant {
    Itself,
    BigInt,
    Set,
}

impl ser::Error for EncodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Value(message.to_string())
    }
}

impl<'a> Writer<'a> {
    fn elements(&mut self, end: Terminator) -> Elements<'_, 'a> {
        Elements {
            writer: self,
            end,
            written: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        if let Some(room) = self.into.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
        }
        self.len = end;
    }

    /// Writes bytes after their count, with the opcode of the narrowest count that is wide enough.
    fn counted(&mut self, bytes: &[u8], [short, medium, long]: [u8; 3]) {
        match bytes.len() {
            len @ 0..=0xff => self.put(&[short, len as u8]),
            len @ 0x100..=0xffff_ffff => {
                self.put(&[medium]);
                self.put(&(len as u32).to_le_bytes());
            }
            len => {
                self.put(&[long]);
                self.put(&(len as u64).to_le_bytes());
            }
        }
        self.put(bytes);
    }

    fn int(&mut self, int: i128) {
        if let Ok(byte) = u8::try_from(int) {
            self.put(&[BININT1, byte]);
        } else if let Ok(short) = u16::try_from(int) {
            self.put(&[BININT2]);
            self.put(&short.to_le_bytes());
        } else if let Ok(word) = i32::try_from(int) {
            self.put(&[BININT]);
            self.put(&word.to_le_bytes());
        } else {
            self.long(&int.to_le_bytes());
        }
    }

    /// A little-endian number in two's complement.
    fn long(&mut self, bytes: &[u8]) {
        let bytes = significant(bytes);
        match u8::try_from(bytes.len()) {
            Ok(len) => self.put(&[LONG1, len]),
            Err(_) => {
                self.put(&[LONG4]);
                self.put(&(bytes.len() as u32).to_le_bytes());
            }
        }
        self.put(bytes);
    }

    fn str(&mut self, text: &str) {
        self.counted(text.as_bytes(), [SHORT_BINUNICODE, BINUNICODE, BINUNICODE8]);
    }

    fn begin_tuple(&mut self, len: usize) {
        if len > 3 {
            self.put(&[MARK]);
        }
    }

    /// Refuses a value that Python would have to hash and cannot.
    fn check_hashable(&self, what: impl fmt::Display) -> Result<(), EncodeError> {
        match self.hashed {
            None => Ok(()),
            Some(hashed) => Err(EncodeError::custom(format_args!(
                "{hashed} is or has in it {what}, which Python cannot hash: a number, a text, bytes or a tuple of them can be \
                 there"
            ))),
        }
    }

    fn hashing<T: Serialize + ?Sized>(
        &mut self,
        hashed: Hashed,
        value: &T,
    ) -> Result<(), EncodeError> {
        // A tuple that is a key may have a set in it.
        let outer = self.hashed.replace(self.hashed.unwrap_or(hashed));
        value.serialize(&mut *self)?;
        self.hashed = outer;
        Ok(())
    }

    /// `{name: `
    fn begin_variant(&mut self, name: &str) {
        self.put(&[EMPTY_DICT]);
        self.str(name);
    }
}

/// What is still to be written after the elements.
pub(super) struct Elements<'w, 'a> {
    writer: &'w mut Writer<'a>,
    end: Terminator,
    /// Number of elements written; lists and structs do not need it.
    written: usize,
}

enum Terminator {
    List,
    Set,
    FrozenSet,
    Dict,
    Tuple(usize),
    TupleVariant(usize),
    StructVariant,
}

impl Elements<'_, '_> {
    fn end(self) -> Result<(), EncodeError> {
        let written = self.written;
        let tuple = |len| match len {
            // These opcodes use the values on the stack, whatever code has put them there.
            ..=3 if len != written => Err(EncodeError::custom(format_args!(
                "`Serialize` of a tuple announces {len} parts and writes {written}"
            ))),
            0 => Ok(EMPTY_TUPLE),
            1..=3 => Ok(TUPLE1 + len as u8 - 1),
            _ => Ok(TUPLE),
        };
        match self.end {
            Terminator::List => self.writer.put(&[APPENDS]),
            Terminator::Set => self.writer.put(&[ADDITEMS]),
            Terminator::FrozenSet => self.writer.put(&[FROZENSET]),
            Terminator::Dict => self.writer.put(&[SETITEMS]),
            Terminator::Tuple(len) => self.writer.put(&[tuple(len)?]),
            Terminator::TupleVariant(len) => self.writer.put(&[tuple(len)?, SETITEM]),
            Terminator::StructVariant => self.writer.put(&[SETITEMS, SETITEM]),
        }
        Ok(())
    }
}

macro_rules! ints {
    ($($method:ident: $int:ty),+) => {
        $(fn $method(self, int: $int) -> Result<(), EncodeError> {
            self.int(int.into());
            Ok(())
        })+
    };
}

impl<'w, 'a> Serializer for &'w mut Writer<'a> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = Elements<'w, 'a>;
    type SerializeTuple = Elements<'w, 'a>;
    type SerializeTupleStruct = Elements<'w, 'a>;
    type SerializeTupleVariant = Elements<'w, 'a>;
    type SerializeMap = Elements<'w, 'a>;
    type SerializeStruct = Elements<'w, 'a>;
    type SerializeStructVariant = Elements<'w, 'a>;

    ints!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    );

    fn serialize_u128(self, int: u128) -> Result<(), EncodeError> {
        match i128::try_from(int) {
            Ok(int) => self.int(int),
            Err(_) => {
                let mut wide = [0; 17];
                wide[..16].copy_from_slice(&int.to_le_bytes());
                self.long(&wide);
            }
        }
        Ok(())
    }

    fn serialize_bool(self, bool: bool) -> Result<(), EncodeError> {
        self.put(&[if bool { NEWTRUE } else { NEWFALSE }]);
        Ok(())
    }

    fn serialize_f32(self, float: f32) -> Result<(), EncodeError> {
        self.serialize_f64(float.into())
    }

    fn serialize_f64(self, float: f64) -> Result<(), EncodeError> {
        self.put(&[BINFLOAT]);
        self.put(&float.to_be_bytes());
        Ok(())
    }

    fn serialize_char(self, letter: char) -> Result<(), EncodeError> {
        self.str(letter.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn serialize_str(self, text: &str) -> Result<(), EncodeError> {
        self.str(text);
        Ok(())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), EncodeError> {
        match std::mem::replace(&mut self.meant, Meant::Itself) {
            Meant::BigInt => self.long(bytes),
            _ => self.counted(bytes, [SHORT_BINBYTES, BINBYTES, BINBYTES8]),
        }
        Ok(())
    }

    fn serialize_none(self) -> Result<(), EncodeError> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), EncodeError> {
        let at = self.len;
        value.serialize(&mut *self)?;
        if self.last_none == at && self.len == at + 1 {
            return Err(EncodeError::custom(
                "`Some(None)`, or `Some` of another value that is None to Python, such as `Some(())`: it would arrive as \
                 `None`. Put what is in it into a tuple of one, or use the codec bincode",
            ));
        }
        Ok(())
    }

    fn serialize_unit(self) -> Result<(), EncodeError> {
        self.last_none = self.len;
        self.put(&[NONE]);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), EncodeError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), EncodeError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        self.meant = match name {
            BIG_INT => Meant::BigInt,
            SET => Meant::Set,
            _ => Meant::Itself,
        };
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        self.check_hashable(format_args!("`{name}::{variant}`, a dict"))?;
        self.begin_variant(variant);
        value.serialize(&mut *self)?;
        self.put(&[SETITEM]);
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Elements<'w, 'a>, EncodeError> {
        let end = match std::mem::replace(&mut self.meant, Meant::Itself) {
            Meant::Set if self.hashed.is_some() => {
                self.put(&[MARK]);
                Terminator::FrozenSet
            }
            Meant::Set => {
                self.put(&[EMPTY_SET, MARK]);
                Terminator::Set
            }
            _ => {
                self.check_hashable("a list")?;
                self.put(&[EMPTY_LIST, MARK]);
                Terminator::List
            }
        };
        Ok(self.elements(end))
    }

    fn serialize_tuple(self, len: usize) -> Result<Elements<'w, 'a>, EncodeError> {
        self.begin_tuple(len);
        Ok(self.elements(Terminator::Tuple(len)))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        len: usize,
    ) -> Result<Elements<'w, 'a>, EncodeError> {
        self.serialize_tuple(len)
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Elements<'w, 'a>, EncodeError> {
        self.check_hashable(format_args!("`{name}::{variant}`, a dict"))?;
        self.begin_variant(variant);
        self.begin_tuple(len);
        Ok(self.elements(Terminator::TupleVariant(len)))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Elements<'w, 'a>, EncodeError> {
        self.check_hashable("a dict")?;
        self.put(&[EMPTY_DICT, MARK]);
        Ok(self.elements(Terminator::Dict))
    }

    fn serialize_struct(
        self,
        name: &'static str,
        _: usize,
    ) -> Result<Elements<'w, 'a>, EncodeError> {
        self.check_hashable(format_args!("a struct `{name}`, a dict"))?;
        self.serialize_map(None)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Elements<'w, 'a>, EncodeError> {
        self.check_hashable(format_args!("`{name}::{variant}`, a dict"))?;
        self.begin_variant(variant);
        self.put(&[EMPTY_DICT, MARK]);
        Ok(self.elements(Terminator::StructVariant))
    }
}

macro_rules! elements {
    ($($traits:ident: $method:ident),+) => {
        $(impl ser::$traits for Elements<'_, '_> {
            type Ok = ();
            type Error = EncodeError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
                self.written += 1;
                value.serialize(&mut *self.writer)
            }

            fn end(self) -> Result<(), EncodeError> {
                Elements::end(self)
            }
        })+
    };
}

impl ser::SerializeSeq for Elements<'_, '_> {
    type Ok = ();
    type Error = EncodeError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        match self.end {
            Terminator::Set | Terminator::FrozenSet => {
                self.written += 1;
                self.writer.hashing(Hashed::Member(self.written), value)
            }
            _ => value.serialize(&mut *self.writer),
        }
    }

    fn end(self) -> Result<(), EncodeError> {
        Elements::end(self)
    }
}

elements!(
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
);

impl ser::SerializeMap for Elements<'_, '_> {
    type Ok = ();
    type Error = EncodeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), EncodeError> {
        self.written += 1;
        self.writer.hashing(Hashed::Key(self.written), key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), EncodeError> {
        Elements::end(self)
    }
}

macro_rules! fields {
    ($($traits:ident),+) => {
        $(impl ser::$traits for Elements<'_, '_> {
            type Ok = ();
            type Error = EncodeError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), EncodeError> {
                self.writer.str(name);
                value.serialize(&mut *self.writer)
            }

            fn end(self) -> Result<(), EncodeError> {
                Elements::end(self)
            }
        })+
    };
}

fields!(SerializeStruct, SerializeStructVariant);

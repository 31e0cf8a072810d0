//! Wraps the serializer and the deserializer of a codec: every value passes through here, in both
//! directions.
//!
//! The wrappers hold a value to its limits ([`CodecLimits`](super::CodecLimits), and a number of
//! elements in proportion to the payload), because a peer chooses its depth and its lengths. And
//! they notice where writer and reader do not see the same thing, which bytes without a description
//! would turn into other values: serde calls `Serialize` and `Deserialize` of a type independently,
//! and attributes such as `skip_serializing` change one of them only. Both sides compute a
//! [shape](Guard::shape), of the variants by name and of the number of fields, and it travels.

mod de;
mod ser;

use std::cell::Cell;
use std::fmt;

pub(super) use de::Seed;
pub(super) use ser::Nested;

use super::{DecodeError, EncodeError, codec};

/// Elements of sequences and maps that need not have a byte each.
const FREE_ELEMENTS: usize = 1 << 16;
/// Bytes of memory that decoded values may take without bytes in the payload, and for each byte of
/// it.
const FREE_MEMORY: usize = 128 << 20;
const MEMORY_PER_BYTE: usize = 512;
/// Up to this size, the number of elements is limit enough for the memory of values.
const SMALL: usize = 64;
/// Size of serde's buffer for a value whose type it does not know yet (`untagged`, `tag`,
/// `flatten`).
const CONTENT: usize = 32;
/// Half of the default stack of a thread.
const MAX_STACK: usize = 1 << 20;

const UNIT: u32 = 1 << 30;
const NEWTYPE: u32 = 1 << 31;

/// A value with limits, around the codec's serializer, deserializer or part of one.
pub(super) struct Guarded<'g, T> {
    pub(super) inner: T,
    pub(super) level: Level<'g>,
}

/// The state of one encoding or decoding.
pub(super) struct Guard {
    /// Stack address at its beginning.
    stack: usize,
    max_depth: usize,
    /// Levels that are still allowed below the present one.
    depth_left: Cell<usize>,
    /// Whether the codec writes names, so that writer and reader may differ in what they leave out.
    is_named: bool,
    /// When decoding: elements that may still come. When encoding: elements so far.
    elements: Cell<usize>,
    /// Bytes of memory that large decoded values have taken.
    memory: Cell<usize>,
    /// Bytes to decode.
    payload_len: usize,
    /// The shape so far; 0 while there is no variant or field.
    shape: Cell<u32>,
}

/// The level of a value, with its guard: a codec's serializer and this are two words, which travel
/// in registers, so that the compiler sees how little a loop over elements does.
#[derive(Clone, Copy)]
pub(super) struct Level<'g> {
    guard: &'g Guard,
}

/// An address in the stack frame of the caller, or near it.
#[inline(always)]
fn stack_address() -> usize {
    let here = 0_u8;
    std::ptr::from_ref(&here).addr()
}

impl Guard {
    fn new(is_named: bool, elements: usize, payload_len: usize) -> Self {
        let max_depth = codec::max_depth();
        Self {
            stack: stack_address(),
            max_depth,
            depth_left: Cell::new(max_depth),
            is_named,
            elements: Cell::new(elements),
            memory: Cell::new(0),
            payload_len,
            shape: Cell::new(0),
        }
    }

    /// Makes a guard for encoding without names.
    #[inline]
    pub(super) fn encoding() -> Self {
        Self::new(false, 0, 0)
    }

    /// Makes a guard for decoding without names.
    #[inline]
    pub(super) fn decoding(payload_len: usize) -> Self {
        Self::new(
            false,
            payload_len.saturating_add(FREE_ELEMENTS),
            payload_len,
        )
    }

    pub(super) fn encoding_named() -> Self {
        Self::new(true, 0, 0)
    }

    pub(super) fn decoding_named(payload_len: usize, elements: usize) -> Self {
        Self::new(true, elements, payload_len)
    }

    /// Accounts for reading a `T`, which may take memory without taking bytes (fields with serde's
    /// `skip`, the room of an option that is none). Its parts may be accounted for again.
    #[inline]
    fn spend_on<T>(&self) -> Result<(), TooMuch> {
        match size_of::<T>() {
            ..=SMALL => Ok(()),
            size => self.spend(size),
        }
    }

    fn spend(&self, bytes: usize) -> Result<(), TooMuch> {
        let limit = self.payload_len.saturating_mul(MEMORY_PER_BYTE);
        let memory = self.memory.get().saturating_add(bytes);
        self.memory.set(memory);
        if memory > limit.saturating_add(FREE_MEMORY) {
            return Err(TooMuch(memory));
        }
        Ok(())
    }

    /// Accounts for a value that serde buffers until it knows its type. It is copied for each
    /// enclosing value that does not know, and converted without passing here again.
    fn spend_on_content(&self) -> Result<(), TooMuch> {
        let depth = self.max_depth.saturating_sub(self.depth_left.get());
        self.spend(CONTENT.saturating_mul(depth + 1))
    }

    /// The outermost level.
    #[inline]
    pub(super) fn level(&self) -> Level<'_> {
        Level { guard: self }
    }

    /// Checks the elements that were encoded into `len` bytes, as the reader will.
    #[inline]
    pub(super) fn check_elements(&self, len: usize) -> Result<(), EncodeError> {
        let elements = self.elements.get();
        if elements > len.saturating_add(FREE_ELEMENTS) {
            return Err(too_many(elements));
        }
        Ok(())
    }

    /// The shape of the variants and fields; `None` if there were none.
    #[inline]
    pub(super) fn shape(&self) -> Option<[u8; 4]> {
        match self.shape.get() {
            0 => None,
            shape => Some(shape.to_le_bytes()),
        }
    }

    /// Checks the shape that follows the value.
    #[inline]
    pub(super) fn check_shape(&self, rest: &[u8]) -> Result<(), DecodeError> {
        match (self.shape(), rest) {
            (None, []) => Ok(()),
            (Some(shape), rest) if rest == shape => Ok(()),
            (shape, rest) => {
                let expected = shape.map_or(0, |shape| shape.len());
                Err(wrong_shape(rest.len().saturating_sub(expected)))
            }
        }
    }

    #[inline]
    fn fold(&self, part: u32) {
        let mixed = (self.shape.get().rotate_left(5) ^ part).wrapping_mul(0x9e37_79b1);
        // Never 0: there has been a variant or field.
        self.shape.set(mixed | 1);
    }

    /// Adds the FNV-1a hash of a variant's name.
    #[inline]
    fn fold_name(&self, name: &str) {
        let add = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        self.fold(name.bytes().fold(0x811c_9dc5, add));
    }
}

#[cold]
fn wrong_shape(extra: usize) -> DecodeError {
    match extra {
        0 => DecodeError::Malformed {
            reason: OTHER_SHAPE.to_owned(),
        },
        extra => DecodeError::Trailing { extra },
    }
}

impl Level<'_> {
    /// Enters the level of the parts, until [`leave`](Self::leave). A reader may go on after an
    /// error, a writer does not.
    #[inline]
    fn deeper(self) -> Result<Self, TooDeep> {
        match self.guard.depth_left.get().checked_sub(1) {
            Some(left) => {
                self.beside()?;
                self.guard.depth_left.set(left);
                Ok(self)
            }
            None => Err(TooDeep::Levels(self.guard.max_depth)),
        }
    }

    /// Leaves the level of the parts.
    #[inline]
    fn leave(self) {
        self.guard.depth_left.set(self.guard.depth_left.get() + 1);
    }

    /// Enters the parts without going a level deeper.
    #[inline]
    fn beside(self) -> Result<Self, TooDeep> {
        if self.guard.stack.abs_diff(stack_address()) > MAX_STACK {
            return Err(TooDeep::Stack);
        }
        Ok(self)
    }
}

enum TooDeep {
    Levels(usize),
    Stack,
}

impl fmt::Display for TooDeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Levels(limit) => write!(
                f,
                "nested more than {limit} deep; both ends allow more with `max_depth` or SLIME_RPC_MAX_DEPTH"
            ),
            Self::Stack => write!(
                f,
                "nested so deep that it takes more than {MAX_STACK} bytes of stack"
            ),
        }
    }
}

/// The value takes this many bytes of memory.
struct TooMuch(usize);

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = self;
        write!(
            f,
            "values that take {bytes} bytes of memory or more, too many for the bytes of the payload"
        )
    }
}

#[cold]
fn too_many(elements: usize) -> EncodeError {
    EncodeError::Value(TooMany::Elements(elements).to_string())
}

enum TooMany {
    /// The number of elements.
    Elements(usize),
    /// Values in a pickle, which may refer to a value more than once.
    Values,
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elements(elements) => write!(
                f,
                "a sequence or map of {elements} elements, too many for the bytes of the payload"
            ),
            Self::Values => f.write_str(TOO_MANY_VALUES),
        }
    }
}

/// The error of a pickle with too many values.
pub(super) const TOO_MANY_VALUES: &str = "too many values: shared ones count each time; `max_pickle_values` or \
    SLIME_RPC_MAX_PICKLE_VALUES allows more";

const OTHER_SHAPE: &str = "it was written with other fields or variants than it is read with. If both ends declare the \
    same type, some serde attribute changes only its `Serialize` or only its `Deserialize` (skip_serializing, \
    skip_deserializing, skip_serializing_if, other, into without from), or it skips, renames or aliases a variant; \
    bincode cannot carry that, `codec = \"pickle\"` can carry most of it";

#[cfg(test)]
mod tests;

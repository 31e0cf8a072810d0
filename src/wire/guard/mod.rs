//! What every value passes on its way through a codec, in both directions: a serializer and a
//! deserializer around the codec's own.
//!
//! They hold a value to its limits ([`CodecLimits`](super::CodecLimits), and a number of elements
//! in proportion to the payload), since a peer chooses its depth and its lengths. And they notice
//! where writer and reader do not see the same thing, which bytes that do not describe themselves
//! would turn into other values: serde calls `Serialize` and `Deserialize` of a type independently,
//! and attributes such as `skip_serializing` change one of them only. Both sides compute a
//! [shape](Guard::shape), of the variants by name and of the number of fields, and it travels.

mod de;
mod ser;

use std::cell::Cell;
use std::fmt;

pub(super) use de::Seed;
pub(super) use ser::Nested;

use super::{DecodeError, EncodeError, limits};

/// Elements of sequences and maps that need not have a byte each.
const FREE_ELEMENTS: usize = 1 << 16;
/// Bytes in memory of values that are read which need not have any in the payload, and those that
/// go with each that is there.
const FREE_MEMORY: usize = 128 << 20;
const MEMORY_PER_BYTE: usize = 512;
/// Up to this size the number of elements limits what values take.
const SMALL: usize = 64;
/// What serde keeps a value in that it reads before it knows what it is (`untagged`, `tag`,
/// `flatten`).
const CONTENT: usize = 32;
/// Half of what a thread has unless it is told otherwise.
const MAX_STACK: usize = 1 << 20;

const UNIT: u32 = 1 << 30;
const NEWTYPE: u32 = 1 << 31;

/// A value with limits, around the codec's serializer, deserializer or part of one.
pub(super) struct Guarded<'g, T> {
    pub(super) inner: T,
    pub(super) level: Level<'g>,
}

/// What one encoding or decoding has come across.
pub(super) struct Guard {
    /// Where the stack stood at its beginning.
    stack: usize,
    max_depth: usize,
    /// Levels that there may be below the present one.
    depth_left: Cell<usize>,
    /// Whether the codec writes names, so that writer and reader may differ in what they leave out.
    is_named: bool,
    /// When decoding: elements that may yet come. When encoding: those that have been.
    elements: Cell<usize>,
    /// Bytes of memory that large values took which were read.
    memory: Cell<usize>,
    /// Bytes to decode.
    payload_len: usize,
    /// 0 as long as there is no variant or field.
    shape: Cell<u32>,
}

/// A value's place among those that it is in, which the guard knows: a codec's serializer and this
/// are two words, which travel in registers, so that the compiler sees how little a loop over
/// elements does.
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
        let max_depth = limits::max_depth();
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

    /// For bytes that say no names.
    #[inline]
    pub(super) fn encoding() -> Self {
        Self::new(false, 0, 0)
    }

    /// For bytes that say no names.
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

    /// Notes that a `T` is read: it may take memory without taking bytes (fields with serde's
    /// `skip`, the room of an option that is none). What is in it may be noted again.
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

    /// Notes a value that serde keeps until it knows what it is. It is copied for each of those
    /// around it that do not know, and what it becomes is made out of our sight.
    fn spend_on_content(&self) -> Result<(), TooMuch> {
        let depth = self.max_depth.saturating_sub(self.depth_left.get());
        self.spend(CONTENT.saturating_mul(depth + 1))
    }

    /// The outermost level.
    #[inline]
    pub(super) fn level(&self) -> Level<'_> {
        Level { guard: self }
    }

    /// Checks what has been encoded into `len` bytes, as its reader will.
    #[inline]
    pub(super) fn check_elements(&self, len: usize) -> Result<(), EncodeError> {
        let elements = self.elements.get();
        if elements > len.saturating_add(FREE_ELEMENTS) {
            return Err(too_many(elements));
        }
        Ok(())
    }

    /// What variants and fields there were. `None` if there were none.
    #[inline]
    pub(super) fn shape(&self) -> Option<[u8; 4]> {
        match self.shape.get() {
            0 => None,
            shape => Some(shape.to_le_bytes()),
        }
    }

    /// Checks what stands behind the value.
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
        // Never 0: there has been something.
        self.shape.set(mixed | 1);
    }

    /// FNV-1a of a variant's name.
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
    /// The level of what is in it, until [`leave`](Self::leave). A reader may go on after an error,
    /// a writer does not.
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

    /// What was in it is done.
    #[inline]
    fn leave(self) {
        self.guard.depth_left.set(self.guard.depth_left.get() + 1);
    }

    /// The level of what is in it without being a level deeper.
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

/// So many bytes of memory.
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
    /// So many.
    Elements(usize),
    /// In a pickle, which may refer to a value more than once.
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

/// What a pickle may not have in it.
pub(super) const TOO_MANY_VALUES: &str = "too many values: shared ones count each time; `max_pickle_values` or \
    SLIME_RPC_MAX_PICKLE_VALUES allows more";

const OTHER_SHAPE: &str = "it was written with other fields or variants than it is read with. If both ends declare the \
    same type, some serde attribute changes only its `Serialize` or only its `Deserialize` (skip_serializing, \
    skip_deserializing, skip_serializing_if, other, into without from), or it skips, renames or aliases a variant; \
    bincode cannot carry that, `codec = \"pickle\"` can carry most of it";

#[cfg(test)]
mod tests;

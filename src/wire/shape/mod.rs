//! The shape of a type, found by making the type read made-up values.

mod explorer;
mod graph;
mod recorder;

use std::any::type_name;

use serde::de::DeserializeOwned;

use self::explorer::Explorer;
use super::PayloadCodec;

/// The shape of a type: what its `Deserialize` asks for, in which order.
///
/// Kinds, widths and signs of numbers, names and order of fields, names, order and contents of
/// variants, options, sequences, maps and lengths of tuples are part of it. Names of Rust types and
/// modules are not, and a newtype is what it wraps. Two types of one shape are thus read from the
/// same bytes, field by field, and renaming a type or moving it changes nothing.
///
/// The shape is found by running `Deserialize` with made-up values, many times, until nothing new
/// is seen. A type that refuses such a value (a date in a string, say) is offered others; a part
/// that it never reaches stays unseen and is written as `?`. Not seen, therefore, are:
/// - what follows a value that is always refused, in a tuple or in a variant that is a tuple (other
///   fields of a struct are seen);
/// - what a hand-written `Deserialize` asks for only after certain values;
/// - where other names of the last variant of an enum are (serde's `alias`), of which bincode
///   refuses the variant when it is read if one of them comes first in the alphabet;
/// - what `Serialize` does: a type whose two halves disagree has the shape of its `Deserialize`;
/// - what bytes or strings contain, and what a value means: `struct Metres(f64)` and `struct
///   Feet(f64)` have one shape.
///
/// ```
/// use serde::Deserialize;
/// use slimerpc::wire::{PayloadCodec, Shape};
///
/// #[derive(Deserialize)]
/// enum Tree {
///     Leaf(u64),
///     Node { below: Vec<Tree> },
/// }
/// let shape = Shape::of::<(Tree, Option<String>)>(PayloadCodec::Bincode);
/// assert_eq!(shape.text(), "(#1=enum {Leaf(u64), Node{below: [#1]}}, option<str>)");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    text: String,
    obstacle: Option<String>,
}

impl Shape {
    /// Explores the shape of `T` as `codec` presents it.
    ///
    /// It runs `T`'s `Deserialize` with values that no peer has sent. A type should refuse a value
    /// with an error. A panic counts as one, but the panic hook runs first (the default one
    /// prints), and a program that is compiled with `panic = "abort"` ends.
    pub fn of<T: DeserializeOwned>(codec: PayloadCodec) -> Self {
        let mut explorer = Explorer::new(codec);
        explorer.explore(type_name::<T>(), |recorder| {
            T::deserialize(recorder).map(drop)
        });
        Self {
            text: explorer.text(),
            obstacle: explorer.into_obstacle(),
        }
    }

    /// The shape of a type of which nothing is known.
    pub fn unseen() -> Self {
        Self {
            text: "?".to_owned(),
            obstacle: None,
        }
    }

    /// The shape as text, to read and compare.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Why the codec cannot carry such values, if it cannot: which part of the type asks the data
    /// what it is, which bincode does not write.
    pub fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }
}

#[cfg(test)]
mod tests;

//! Traits by which the code that `#[service]` generates finds out what a type can do.
//!
//! A bound without any parameter, as `Vec<u8>: Clone`, must hold, or the program does not compile.
//! A bound with its own lifetime is a condition: `for<'a> Vec<u8>: CloneField<'a>`.

use std::fmt::Debug;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use slimerpc::wire::{PayloadCodec, Shape};

use crate::service::panics::expected;

/// `(&ShapeOf::<T>::new()).shape(codec)` is [`Shaped`]'s if `T` can be deserialized, otherwise
/// [`Shapeless`]'s: method lookup finds the one that needs no further reference first.
#[derive(Debug)]
pub struct ShapeOf<T: ?Sized>(PhantomData<T>);

impl<T: ?Sized> ShapeOf<T> {
    /// Makes the probe for `T`.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

/// A type that can be deserialized.
pub trait Shaped {
    /// The shape of the type.
    fn shape(&self, codec: PayloadCodec) -> Shape;
}

impl<T: DeserializeOwned> Shaped for ShapeOf<T> {
    fn shape(&self, codec: PayloadCodec) -> Shape {
        expected(|| Shape::of::<T>(codec))
    }
}

/// A type that cannot be deserialized.
pub trait Shapeless {
    /// The shape of a type of which nothing is known.
    fn shape(&self, codec: PayloadCodec) -> Shape;
}

impl<T: ?Sized> Shapeless for &ShapeOf<T> {
    fn shape(&self, _: PayloadCodec) -> Shape {
        Shape::unseen()
    }
}

/// An argument that implements `Clone`.
pub trait CloneField<'a>: Sized {
    /// Clones the argument.
    fn clone_field(&self) -> Self;
}

impl<T: Clone> CloneField<'_> for T {
    fn clone_field(&self) -> Self {
        self.clone()
    }
}

/// An argument that implements `Debug`.
pub trait DebugField<'a> {
    /// Returns the argument for display.
    fn as_debug(&self) -> &dyn Debug;
}

impl<T: Debug> DebugField<'_> for T {
    fn as_debug(&self) -> &dyn Debug {
        self
    }
}

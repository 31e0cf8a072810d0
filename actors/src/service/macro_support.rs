//! Traits by which the code that `#[service]` writes finds out what a type can do.
//!
//! A bound without any parameter, as `Vec<u8>: Clone`, must hold, or the program does not compile.
//! One with a lifetime of its own is a condition: `for<'a> Vec<u8>: CloneField<'a>`.

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
    /// Of `T`.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

/// Of a type that can be deserialized.
pub trait Shaped {
    /// Its shape.
    fn shape(&self, codec: PayloadCodec) -> Shape;
}

impl<T: DeserializeOwned> Shaped for ShapeOf<T> {
    fn shape(&self, codec: PayloadCodec) -> Shape {
        expected(|| Shape::of::<T>(codec))
    }
}

/// Of any other.
pub trait Shapeless {
    /// Nothing is known of it.
    fn shape(&self, codec: PayloadCodec) -> Shape;
}

impl<T: ?Sized> Shapeless for &ShapeOf<T> {
    fn shape(&self, _: PayloadCodec) -> Shape {
        Shape::unseen()
    }
}

/// An argument that can be cloned.
pub trait CloneField<'a>: Sized {
    /// A clone.
    fn clone_field(&self) -> Self;
}

impl<T: Clone> CloneField<'_> for T {
    fn clone_field(&self) -> Self {
        self.clone()
    }
}

/// An argument that can be shown.
pub trait DebugField<'a> {
    /// What shows it.
    fn as_debug(&self) -> &dyn Debug;
}

impl<T: Debug> DebugField<'_> for T {
    fn as_debug(&self) -> &dyn Debug {
        self
    }
}

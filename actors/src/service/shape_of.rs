//! The shape of a type that may be none for serde.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use slimerpc::wire::{PayloadCodec, Shape};

use crate::service::panics::expected;

/// `(&ShapeOf::<T>::new()).shape(codec)` is [`Shaped`]'s if `T` can be deserialized, otherwise [`Shapeless`]'s: method lookup finds
/// the one that needs no further reference first.
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

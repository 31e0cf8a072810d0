//! `Clone` and `Debug` for messages whose arguments have them.
//!
//! A bound without any parameter, as `Vec<u8>: Clone`, must hold, or the program does not compile. One with a lifetime of its own
//! is a condition: `for<'a> Vec<u8>: CloneField<'a>`.

use std::fmt::Debug;

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

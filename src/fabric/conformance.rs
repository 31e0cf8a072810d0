//! The executable specification of a fabric.

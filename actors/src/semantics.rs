//! What a call promises, and what it does not. Nothing here is code: it is the chapter
//! `docs/semantics.md` of the book.
//!
#![doc = include_str!("semantics.md")]

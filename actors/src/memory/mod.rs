//! Memory that peers read and write one-sided.

pub(crate) mod buffer;
pub(crate) mod devices;
pub(crate) mod remote_buffer;

//! Memory that peers read and write.

pub(crate) mod buffer;
pub(crate) mod remote_buffer;

//! The agent: its handle, its settings, its supervisor, what it serves.

pub(crate) mod arbiter;
pub(crate) mod builder;
pub(crate) mod environment;
pub(crate) mod handle;
pub(crate) mod handshake;
pub(crate) mod handshake_json;
pub(crate) mod launch;
pub(crate) mod log;
pub(crate) mod serve;
pub(crate) mod settings;
pub(crate) mod supervisor;

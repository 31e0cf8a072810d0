//! An instance of a service as an actor: its rings, its handlers and their replies.

pub(crate) mod answer;
pub(crate) mod answer_stream;
pub(crate) mod front;
pub(crate) mod instance;
pub(crate) mod mailboxes;
pub(crate) mod once;
pub(crate) mod order;
pub(crate) mod panics;
pub(crate) mod pool;
pub(crate) mod ring_context;
pub(crate) mod serial;
pub(crate) mod shape_of;

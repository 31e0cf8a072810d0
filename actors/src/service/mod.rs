//! Service instances as actors: their rings, handlers and replies.

pub(crate) mod answer;
pub(crate) mod answer_stream;
pub(crate) mod dispatch;
pub(crate) mod instance;
pub(crate) mod macro_support;
pub(crate) mod mailboxes;
pub(crate) mod one_shot_server;
pub(crate) mod panics;
pub(crate) mod parallel_dispatcher;
pub(crate) mod pool;
pub(crate) mod ring_context;
pub(crate) mod running;
pub(crate) mod serial;
pub(crate) mod served_by;

//! Decides whether, when and how often instances of services end and are restarted.

pub(crate) mod current_handler;
pub(crate) mod factory;
pub(crate) mod lifecycle;
pub(crate) mod restart;
pub(crate) mod supervised;

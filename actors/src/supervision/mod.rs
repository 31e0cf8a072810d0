//! Decides whether, when and how often instances of services end and are restarted.

pub(crate) mod current_handler;
pub(crate) mod end_cause;
pub(crate) mod exit_request;
pub(crate) mod factory;
pub(crate) mod instance_id;
pub(crate) mod lifecycle;
pub(crate) mod restart;
pub(crate) mod restarts;
pub(crate) mod strategy;
pub(crate) mod supervised;

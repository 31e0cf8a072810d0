//! Services that are found by their type.

pub(crate) mod find;
pub(crate) mod live_service;
pub(crate) mod service_changes;

//! Finds services by their type.

pub(crate) mod find;
pub(crate) mod service_changes;
pub(crate) mod service_instance;

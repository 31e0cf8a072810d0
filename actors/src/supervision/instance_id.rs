//! The identity of a service instance.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Identifies a service instance within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceId(u64);

impl InstanceId {
    /// Identifies the instance that this incarnation of an agent serves under this name.
    /// Incarnations are random numbers, so instances of other processes do not collide with it.
    pub(crate) fn new(incarnation: u64, service: &str) -> Self {
        Self(xxh3_64_with_seed(service.as_bytes(), incarnation))
    }
}

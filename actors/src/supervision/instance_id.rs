//! The identity of a service instance.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A service instance of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceId(u64);

impl InstanceId {
    /// The instance that the agent of this life serves under this name. Lives have random numbers, so instances of
    /// other processes do not get in the way.
    pub(crate) fn new(incarnation: u64, service: &str) -> Self {
        Self(xxh3_64_with_seed(service.as_bytes(), incarnation))
    }
}

//! The identity of a service instance.

/// A service instance of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceId(u64);

impl InstanceId {
    /// The instance that the agent of this life serves under this name. Lives have random numbers, so instances of
    /// other processes do not get in the way.
    pub(crate) fn new(incarnation: u64, service: &str) -> Self {
        // FNV-1a, from the incarnation on.
        let hash = service.bytes().fold(incarnation, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash)
    }
}

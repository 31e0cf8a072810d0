//! How long the keys of an agent in Redis outlive it.

/// Lease in seconds of keys that a native agent renews with each heartbeat. DLSlime uses the same
/// for registrations.
pub(crate) const NATIVE: u32 = 60;

/// Lease in seconds of keys that belong to a DLSlime agent. It does not publish lost keys again, so
/// they must survive an outage of the server, which renews them.
pub(crate) const FOREIGN: u32 = 3600;

/// Lease in seconds of keys for an agent that is not registered, or not yet.
pub(crate) const UNKNOWN: u32 = 600;

/// Prefixes `body` with the functions of `lease.lua`.
pub(crate) fn script(body: &str) -> String {
    let functions = include_str!("lease.lua");
    format!("local NATIVE, FOREIGN, UNKNOWN = {NATIVE}, {FOREIGN}, {UNKNOWN}\n{functions}\n{body}")
}

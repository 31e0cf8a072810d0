//! How long what an agent has in Redis outlives it.

/// Lease of what a native agent renews with each heartbeat, in seconds; DLSlime has the same for registrations.
pub(crate) const NATIVE: u32 = 60;

/// Lease of what belongs to an agent of DLSlime. It does not publish again what was lost, so it has to survive an outage of the
/// server, which renews it.
pub(crate) const FOREIGN: u32 = 3600;

/// Lease of what is for an agent that is not registered, or not yet.
pub(crate) const UNKNOWN: u32 = 600;

/// `body` behind the functions of `lease.lua`.
pub(crate) fn script(body: &str) -> String {
    let functions = include_str!("lease.lua");
    format!("local NATIVE, FOREIGN, UNKNOWN = {NATIVE}, {FOREIGN}, {UNKNOWN}\n{functions}\n{body}")
}

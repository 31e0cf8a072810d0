//! Numbers that tell apart what must never be taken for each other: lives of agents, attempts,
//! servers.

use std::hash::{BuildHasher, RandomState};

/// A number that nobody else draws, in this process, another one or on another host.
pub fn unique() -> u64 {
    // The keys of a `RandomState` come from the system. Generators of random numbers are commonly
    // seeded with the time since boot, which hosts that are started from one image share.
    RandomState::new().hash_one(())
}

//! Unique numbers: for incarnations of agents, attempts and servers.

use std::hash::{BuildHasher, RandomState};

/// Returns a number that no other process draws, on this host or another.
pub fn unique() -> u64 {
    // The keys of a `RandomState` come from the system. Generators of random numbers are commonly
    // seeded with the time since boot, which hosts that are started from one image share.
    RandomState::new().hash_one(())
}

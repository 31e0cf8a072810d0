//! What the tests of SlimeRPC share: servers of their own, agents with names of their own, and ways
//! to wait that end in a failure when what they wait for does not come.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

mod agents;
pub mod alone;
pub mod certificates;
pub mod fake_http;
mod gate;
pub mod job;
mod resource_usage;
mod servers;
mod tally;
pub mod verbs;
mod wait;

pub use agents::{DEVICE, agent, credits_are_back, unique};
pub use gate::Gate;
pub use resource_usage::ResourceUsage;
pub use servers::{NanoCtrlServer, Redis, free_port, program};
pub use tally::{Tally, TallyOnDrop};
pub use wait::{PATIENCE, joined, until, until_within, wait_until, within};

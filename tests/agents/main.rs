//! Agents that talk with each other: calls, streams, buffers, supervision, discovery, and peers
//! that die or lie.

mod accounts;
mod buffers;
mod calls;
mod completions;
mod discovery;
mod dlslime_peers;
mod fabrics;
mod faults;
mod groups;
mod hostile_peers;
mod idle;
mod large_payloads;
mod liveness;
mod local;
mod logs;
mod metrics;
mod outages;
mod panics;
mod parallel;
mod resting;
mod rewritten;
mod semantics;
mod settings;
mod sleeping;
mod streams;
mod supervision;
mod tls;
mod two_hosts;
mod types;

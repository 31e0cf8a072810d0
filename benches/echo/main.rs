//! The suite: what an RPC costs beyond the fabric, beside the limits of this machine, and whether
//! that meets its targets.
//!
//!     cargo bench --bench echo                         # everything; --list says what there is
//!     cargo bench --bench echo -- latency throughput   # some of it
//!     cargo bench --bench echo -- --csv figures.csv    # and into a file, for the bench `plot`
//!     cargo bench --features verbs --bench echo -- --device rxe0 latency sizes
//!
//! The parent process measures. It starts itself once more for the other end of whatever is
//! measured. A row whose device, program (`redis-server`, `strace`) or memory is not there is
//! skipped, and says so.
//!
//! # How it is measured
//!
//! Machines are noisy, and what disturbs one measurement spares the next: figures of different
//! minutes say little about each other. So whatever a ratio is made of is measured in turns, a
//! slice of each at a time, in several rounds (`--rounds`), and the best of its medians (and 99th
//! percentiles, and rates) is taken on both sides: what comes closest to a machine that does
//! nothing else. Only those two processes are awake that are measured; the others sleep meanwhile.
//! Of processor time, and of what is counted (allocations, system calls, commands to Redis), there
//! is nothing to choose from: it is what it was.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod account;
mod args;
mod asleep;
mod cache_line;
mod callers;
mod commands;
mod connect;
mod connections;
mod copies;
mod fairness;
mod idle;
mod in_turns;
mod latency;
mod memory;
mod metrics;
mod missing;
mod over_tcp;
mod polling;
mod pong;
mod registry;
mod report;
mod resting;
mod role;
mod row;
mod sizes;
mod slices;
mod socket;
mod steady;
mod strace;
mod subset;
mod suite;
mod tcp_stream;
mod throughput;
mod traces;
mod worker;

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use args::Args;
use suite::Suite;
use support::ended;

/// Counts what is allocated.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes of a small call.
const SMALL: usize = 64;
/// Round trips for each figure at least, in each round.
const LEAST: usize = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.role {
        Some(role) => ended(role.clone().0.play()),
        None if args.list => {
            subset::list();
            ExitCode::SUCCESS
        }
        None => ended(Suite::new(args).and_then(|suite| suite.run())),
    }
}

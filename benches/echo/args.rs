//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use slimerpc::fabric;

use crate::role::Role;
use crate::subset::Subset;

const AFTER: &str = "\
Figures are the best of several rounds. Exit status: 0 everything was measured or skipped for a reason that is told, \
whether targets are met or not; 1 something failed; 2 the command line makes no sense.";

/// Measures calls between two processes beside the limits of this machine
#[derive(Parser)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// What to measure [default: everything]
    #[arg(value_enum, value_name = "SUBSET")]
    pub(crate) subsets: Vec<Subset>,
    /// Say what can be measured, and end
    #[arg(long)]
    pub(crate) list: bool,
    /// Device that carries the bytes
    #[arg(long, default_value = fabric::SHM, value_name = "NAME")]
    pub(crate) device: String,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Seconds for each figure, 0.01 to 3600, in all rounds together
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Rounds of which the best counts, 1 to 100
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Largest payload, in bytes, 64 to 1 GiB
    #[arg(long, default_value_t = 16 << 20, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(64..=1 << 30))]
    pub(crate) largest: u32,
    /// Connections that do nothing, 1 to 1000
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) connections: u32,
    /// Seconds for which they do nothing
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) idle: f64,
    /// Agents that connect to one worker in the end, 16 to 1000
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=1000))]
    pub(crate) agents: u32,
    /// Be the other process
    #[arg(long, hide = true)]
    pub(crate) role: Option<RoleArg>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    pub(crate) fn largest(&self) -> usize {
        self.largest as usize
    }

    pub(crate) fn is_shared_memory(&self) -> bool {
        self.device == fabric::SHM
    }
}

/// A role, as the parent says it.
#[derive(Clone)]
pub(crate) struct RoleArg(pub(crate) Role);

impl FromStr for RoleArg {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text).map(Self)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(0.01..=3600.0).contains(&seconds) {
        return Err("0.01 to 3600 seconds are possible".to_owned());
    }
    Ok(seconds)
}

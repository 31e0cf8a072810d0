//! The command line.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand};

use support::DEVICE;

const AFTER: &str = "\
Each case runs in a process of its own with a private NanoCtrl server and Redis (`redis-server` must be installed), starts
workers and drivers as processes, does to them what its name says, and then compares their journals: every call was
answered exactly once or ended with an error that says truthfully whether it was run.

The soak does all of it at once, by chance, at full load. The same seed gives the same schedule.

Exit status: 0 all passed; 1 something failed; 2 the command line makes no sense.";

/// Kills, stops and restarts processes under load, and takes account
#[derive(Parser)]
#[command(name = "chaos", after_help = AFTER, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    /// Run only cases whose names contain one of these
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Name the cases, and say what each is about
    #[arg(long)]
    pub(crate) list: bool,
    /// Device by name; shm0 is shared memory [default: what SLIME_TEST_DEVICE names, or else
    /// chosen]
    #[arg(long, value_name = "D")]
    device: Option<String>,
    /// Cases side by side [default: 3 on shared memory, otherwise 1]
    #[arg(long, alias = "test-threads", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) jobs: Option<u16>,
    /// Instead of the cases, mix everything
    #[arg(long, requires = "minutes", conflicts_with = "names")]
    pub(crate) soak: bool,
    /// How long to mix; may be a fraction
    #[arg(long, value_name = "N", requires = "soak", value_parser = minutes)]
    pub(crate) minutes: Option<f64>,
    /// Seed of the schedule [default: by chance; it is printed]
    #[arg(long, value_name = "S", requires = "soak")]
    pub(crate) seed: Option<u64>,
    /// `cargo test -- --nocapture` says this to every test
    #[arg(long, hide = true)]
    pub(crate) nocapture: bool,
}

impl Args {
    pub(crate) fn device(&self) -> Option<String> {
        let named = self.device.clone();
        named.or_else(|| std::env::var(DEVICE).ok())
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes > 0.0 && minutes <= 100_000.0 => Ok(minutes),
        Ok(_) => Err("more than 0 minutes, and no more than 100,000".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What this program starts itself as.
#[derive(Subcommand)]
pub(crate) enum Role {
    #[command(name = "as:worker", hide = true)]
    Worker(RoleArgs),
    #[command(name = "as:driver", hide = true)]
    Driver(RoleArgs),
    #[command(name = "as:case", hide = true)]
    Case(CaseArgs),
}

#[derive(Group)]
pub(crate) struct RoleArgs {
    #[arg(long)]
    pub(crate) alias: String,
    #[arg(long)]
    pub(crate) ctrl: String,
    /// Of this life
    #[arg(long)]
    pub(crate) number: u64,
    #[arg(long)]
    pub(crate) journal: PathBuf,
    /// Make a call of each kind now and then only
    #[arg(long)]
    pub(crate) calm: bool,
    pub(crate) peers: Vec<String>,
}

#[derive(Group)]
pub(crate) struct CaseArgs {
    pub(crate) name: String,
    #[arg(long)]
    pub(crate) dir: PathBuf,
}

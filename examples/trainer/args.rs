//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use slimerpc_actors::{Builder, Limits, PeerAgent};

use crate::digits::{CLASSES, PIXELS};
use crate::report::Report;

const AFTER: &str = "\
Workers find the driver through this host, or through the NanoCtrl server that --ctrl names.

The same training is done in this process first, without workers. In the end both are compared, to the bit.

Exit status: 0 both came to the same weights; 1 they did not, or something failed; 2 the command line makes no sense; 130
interrupted: the workers were ended.";

/// In flight between two agents: an order and whatever is asked beside it.
const MAX_INFLIGHT: usize = 2;
/// Room in a slot for what stands before a payload.
const HEADERS: usize = 256;

/// Trains a network in worker processes, and goes on when they die
#[derive(Parser)]
#[command(after_help = AFTER, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    /// Worker processes, at least 1 and at most one for each image to train with
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: u32,
    /// How often each image is looked at, 1 to 10,000 times
    #[arg(long, default_value_t = 16, value_name = "E", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) epochs: u32,
    /// Images for each worker in a step, 1 to 65,536; fewer if there are not as many
    #[arg(long, default_value_t = 360, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) batch: u32,
    /// Hidden neurons of the network, 1 to 100,000, with 75 weights each
    #[arg(long, default_value_t = 13_600, value_name = "H", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) hidden: u32,
    /// How far to go down a gradient, above 0 and up to 10 [default: 150 / H, or 0.5 if that is
    /// less]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) rate: Option<f32>,
    /// Who sums the gradients
    #[arg(long, value_enum, default_value_t = Mode::Driver)]
    pub(crate) mode: Mode,
    /// Kill -9 a worker in this step, the first being 1
    #[arg(long, value_name = "STEP", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) kill_worker_at: Option<u32>,
    /// Write the loss of each step to this file, as a picture (SVG)
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Device by name; shm0 is shared memory [default: chosen]
    #[arg(long, value_name = "D")]
    pub(crate) device: Option<String>,
    /// Where workers find the driver: URL of a NanoCtrl server, or `host`
    #[arg(long, value_name = "URL|host", default_value = "host")]
    pub(crate) ctrl: String,
}

impl Args {
    /// The more neurons have a say, the less each may change.
    pub(crate) fn rate(&self) -> f32 {
        self.rate.unwrap_or((150.0 / self.hidden as f32).min(0.5))
    }
}

/// Who sums the gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The driver, in the order of ranks
    Driver,
    /// The workers, each calling the next
    Ring,
}

#[derive(Subcommand)]
pub(crate) enum Role {
    /// What the driver starts
    #[command(hide = true)]
    Worker(WorkerArgs),
}

#[derive(clap::Args)]
pub(crate) struct WorkerArgs {
    #[arg(long)]
    pub(crate) alias: String,
    #[arg(long)]
    pub(crate) ctrl: String,
    #[arg(long)]
    pub(crate) scope: String,
    #[arg(long)]
    pub(crate) device: Option<String>,
    #[arg(long)]
    pub(crate) hidden: u32,
}

/// An agent with these settings, in whose slots a gradient has room: so it is written in place.
pub(crate) fn agent(
    alias: &str,
    ctrl: &str,
    scope: &str,
    device: Option<&str>,
    hidden: u32,
) -> Builder {
    let weights = hidden as usize * (PIXELS + 1 + CLASSES) + CLASSES;
    let slot = HEADERS + Report::LEN + size_of::<f32>() * weights;
    let agent = PeerAgent::builder().alias(alias);
    let agent = agent.control(ctrl).scope(scope);
    let agent = agent.limits(Limits::default().max_inflight(MAX_INFLIGHT));
    let agent = agent.limits(Limits::default().slot_size(slot.next_multiple_of(8)));
    match device {
        Some(device) => agent.device(device),
        None => agent,
    }
}

fn rate(text: &str) -> Result<f32, String> {
    let rate: f32 = text.parse().map_err(|_| "it is not a number".to_owned())?;
    if !(rate > 0.0 && rate <= 10.0) {
        return Err("it must be above 0 and at most 10".to_owned());
    }
    Ok(rate)
}

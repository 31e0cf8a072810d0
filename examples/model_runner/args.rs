//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use slimerpc_actors::{Builder, PeerAgent};

const AFTER: &str = "\
Workers find the driver through this host, or through the NanoCtrl server that --ctrl names.

Exit status: 0 every request was answered, exactly as a single process would; 1 not so, or something failed; 2 the command
line makes no sense; 130 interrupted: what was in flight was answered and the workers were ended.";

/// Runs a model in worker processes, and goes on when they die
#[derive(Parser)]
#[command(after_help = AFTER, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    /// Worker processes, 1 to 64
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Requests, 1 to 10,000,000; each is a batch of images to read
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) requests: u32,
    /// When all are answered, send as many once more, and kill -9 a worker every so often
    /// meanwhile: 500ms, 1.5s, 2m
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub(crate) kill_every: Option<Duration>,
    /// Images in a request, 1 to 360
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=360))]
    pub(crate) batch: u32,
    /// Hidden neurons of the network, 1 to 10,000: how much work a request is
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) neurons: u32,
    /// Device by name; shm0 is shared memory [default: chosen]
    #[arg(long, value_name = "D")]
    pub(crate) device: Option<String>,
    /// Where workers find the driver: URL of a NanoCtrl server, or `host`
    #[arg(long, value_name = "URL|host", default_value = "host")]
    pub(crate) ctrl: String,
    /// Program that the workers run; it is given the arguments of this one's workers [default: this
    /// one]
    #[arg(long, value_name = "PATH")]
    pub(crate) program: Option<PathBuf>,
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
}

/// An agent with these settings.
pub(crate) fn agent(alias: &str, ctrl: &str, scope: &str, device: Option<&str>) -> Builder {
    let agent = PeerAgent::builder().alias(alias);
    let agent = agent.control(ctrl).scope(scope);
    match device {
        Some(device) => agent.device(device),
        None => agent,
    }
}

/// A number and a unit; between 10 ms, in which no worker gets anything done, and an hour.
fn interval(text: &str) -> Result<Duration, String> {
    const ALLOWED: std::ops::RangeInclusive<f64> = 0.01..=3600.0;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err("a time is a number and ms, s or m, for instance 500ms".to_owned()),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| format!("`{digits}` is not a number"))?;
    let time = number * seconds;
    if !ALLOWED.contains(&time) {
        return Err("it must be 10ms to 60m".to_owned());
    }
    Ok(Duration::from_secs_f64(time))
}

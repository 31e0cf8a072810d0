//! Pictures of what the suite has measured, as SVG.
//!
//!     cargo bench --bench echo -- --csv docs/plots/echo.csv
//!     cargo bench --bench plot [-- --peers FILE]
//!     cargo bench --bench echo -- callers --agents 1000 --csv docs/plots/callers.csv
//!     cargo bench --bench plot -- --csv docs/plots/callers.csv
//!
//! `latency.svg`: time against size, with the limits of the machine and the peers.
//! `throughput.svg`: calls a second against calls in flight. `polling.svg`: what polling before
//! sleeping gains and costs. `callers.svg`: what idle callers cost a service.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod callers;
mod chart;
mod latency;
mod peers;
mod polling;
mod throughput;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use peers::PeerRow;
use support::record::{self, Record};
use support::{Result, ended};

/// Draws what `cargo bench --bench echo -- --csv FILE` has measured
#[derive(Parser)]
struct Args {
    /// Figures of the suite
    #[arg(long, value_name = "FILE", default_value = "docs/plots/echo.csv")]
    csv: PathBuf,
    /// Figures of peers: peer,size,inflight,p50_us,p99_us,calls_per_s
    #[arg(long, value_name = "FILE")]
    peers: Option<PathBuf>,
    /// Where the pictures go
    #[arg(long, value_name = "DIR", default_value = "docs/plots")]
    out: PathBuf,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

type Draw = fn(&Path, &[Record], &[PeerRow]) -> Result<()>;

/// Each with the subset of the suite that it is drawn from.
const PICTURES: [(&str, &str, Draw); 4] = [
    ("latency.svg", "sizes", latency::draw),
    ("throughput.svg", "throughput", throughput::draw),
    ("polling.svg", "polling", polling::draw),
    ("callers.svg", "callers", callers::draw),
];

fn run(args: &Args) -> Result<()> {
    let csv = args.csv.display();
    if !args.csv.exists() {
        return Err(format!(
            "there is no {csv}; measure first: cargo bench --bench echo -- --csv {csv}"
        )
        .into());
    }
    let records: Vec<Record> = record::read(&args.csv)?;
    let peers = match &args.peers {
        Some(path) => record::read(path)?,
        None => Vec::new(),
    };
    fs::create_dir_all(&args.out)?;
    let mut drawn = 0;
    for (name, subset, draw) in PICTURES {
        let path = args.out.join(name);
        let of_subset = |record: &&Record| record.subset == subset && record.value.is_none();
        if !records.iter().any(|record| of_subset(&record)) {
            println!("{name}: skipped: {csv} has no figures of the subset `{subset}`");
            continue;
        }
        draw(&path, &records, &peers)?;
        println!("{}", path.display());
        drawn += 1;
    }
    if drawn == 0 {
        return Err(format!(
            "{csv} has nothing to draw; measure first: cargo bench --bench echo -- --csv {csv}"
        )
        .into());
    }
    Ok(())
}

fn main() -> ExitCode {
    ended(run(&Args::parse()))
}

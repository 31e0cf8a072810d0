//! The same echo by other means, beside ours: two processes on this machine, of which the parent
//! measures.
//!
//!     cargo run --release --manifest-path benches/peers/Cargo.toml \
//!         [-- tarpc tonic --seconds 2 --csv FILE]
//!
//! Everything runs one after the other in one run, so ratios are worth more than times. A peer is a
//! file in `peers/`; each says what it does with the bytes, and `--list` prints it. A peer that
//! lacks a package, a device or memory is skipped and says why.

#[macro_use]
#[path = "../../support/mod.rs"]
mod support;

mod child;
mod load;
mod measure;
mod memory;
mod peers;
mod socket;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use slimerpc::fabric;

use measure::{Job, Missing};
use peers::{OURS, PEERS, Peer};
use support::{Result, ended};
use table::{Report, Table};

#[derive(Parser)]
#[command(about = "Round trips and calls a second of one echo, by other means and by ours")]
struct Args {
    /// Only these, and ours raw, with which all are compared [default: all]
    #[arg(value_name = "PEER", value_parser = PossibleValuesParser::new(PEERS.map(|peer| peer.name)))]
    peers: Vec<String>,
    /// Print the peers and what each does with its bytes
    #[arg(long)]
    list: bool,
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_values_t = [64, 1 << 10, 64 << 10, 1 << 20])]
    #[arg(value_parser = clap::value_parser!(u32).range(64..=256 << 20))]
    sizes: Vec<u32>,
    /// Calls under way at once, of the first size; round trips of all sizes are measured anyway
    #[arg(long, value_name = "CALLS", value_delimiter = ',', default_values_t = [64])]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=1024))]
    inflight: Vec<u16>,
    /// Seconds for each figure
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    seconds: f64,
    /// Device that carries our bytes; dlslime's, too, if it is an RDMA device
    #[arg(long, default_value = fabric::SHM)]
    device: String,
    /// Threads of each tokio runtime; 1 makes it a current_thread runtime, with which round trips
    /// are faster
    #[arg(long, default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Python that has the packages `ray` and `dlslime`
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
    /// Also write the figures to this file, as they come
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Be the other process of this peer
    #[arg(long, value_name = "PEER", hide = true, requires = "at")]
    serve: Option<String>,
    /// Where to be found
    #[arg(long, hide = true)]
    at: Option<String>,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("0.01 to 600 seconds".to_owned()),
    }
}

impl Args {
    fn job(&self) -> Job {
        Job {
            sizes: self.sizes.iter().map(|size| *size as usize).collect(),
            inflight: self.inflight.iter().copied().map(usize::from).collect(),
            seconds: self.seconds,
            device: self.device.clone(),
            python: self.python.clone(),
        }
    }

    /// Ours first.
    fn chosen(&self) -> Vec<&'static Peer> {
        let is_chosen = |name| self.peers.is_empty() || self.peers.iter().any(|peer| peer == name);
        let all = PEERS.iter();
        all.filter(|peer| peer.name == OURS || is_chosen(peer.name))
            .collect()
    }
}

fn list() {
    for Peer { name, bytes, .. } in &PEERS {
        println!("{name:<16} {bytes}");
    }
}

fn run(args: &Args) -> Result<()> {
    let job = args.job();
    let chosen = args.chosen();
    let rows = job.sizes.len() + job.inflight.len();
    if let Some(note) = load::note() {
        eprintln!("{note}");
    }
    let mut table = Table::new(rows * chosen.len(), args.csv.as_deref())?;
    let mut failures = 0;
    for (done, peer) in (1..).zip(&chosen) {
        let mut report = table.of(peer.name);
        let measured = measure(peer, &job, &mut report);
        match measured {
            Ok(()) => {}
            Err(Unmeasured::Missing(why)) => report.skip_all(&why),
            Err(Unmeasured::Failed(why)) => {
                failures += 1;
                report.failed(&why);
            }
        }
        table.advance_to(rows * done);
    }
    table.end();
    match failures {
        0 => Ok(()),
        count => Err(format!("{count} of {} failed, see above", chosen.len()).into()),
    }
}

/// Why a peer has no figures, or not all.
enum Unmeasured {
    Missing(String),
    Failed(String),
}

/// On a thread of its own, so that neither a panic nor what a runtime leaves behind is the next
/// one's.
fn measure(peer: &Peer, job: &Job, report: &mut Report) -> std::result::Result<(), Unmeasured> {
    let measured = thread::scope(|scope| {
        let measuring = scope.spawn(|| {
            (peer.measure)(job, report).map_err(|error| match error.downcast::<Missing>() {
                Ok(missing) => Unmeasured::Missing(missing.to_string()),
                Err(error) => Unmeasured::Failed(error.to_string()),
            })
        });
        measuring.join()
    });
    measured.unwrap_or_else(|_| Err(Unmeasured::Failed("it panicked, see above".to_owned())))
}

fn serve(name: &str, at: &str) -> Result<()> {
    child::end_with_parent();
    match PEERS.iter().find(|peer| peer.name == name) {
        Some(Peer {
            serve: Some(serve), ..
        }) => serve(at),
        _ => Err(format!("{name} has no other process").into()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    peers::set_threads(args.threads.into());
    ended(match (&args.serve, &args.at) {
        (Some(name), Some(at)) => serve(name, at),
        _ if args.list => {
            list();
            Ok(())
        }
        _ => run(&args),
    })
}

//! Steps of a trainer as traces: a driver, two workers, and the calls between them in one tree a
//! step, whichever process they ran in.
//!
//!     cargo run --release -p slimerpc-example-traces
//!
//! prints the trees. With `--otlp http://127.0.0.1:4318` they go to the collector there instead
//! (an OpenTelemetry Collector, Jaeger, Tempo, ..).

mod collector;
mod services;
mod telemetry;
mod tree;

use std::process::Stdio;

use clap::Parser;
use futures_util::future::try_join_all;
use slimerpc_actors::PeerAgent;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tracing::Instrument;

use crate::collector::Collector;
use crate::services::{Loader, Reducer, Trainer};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Alias of the driver.
const DRIVER: &str = "driver";

/// Runs a few steps of a trainer over three processes, and shows where each step's time went.
#[derive(Parser)]
struct Args {
    /// Steps to run.
    #[arg(long, default_value_t = 2)]
    steps: u64,
    /// Worker processes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Send spans to this collector (OTLP over HTTP), instead of printing them.
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
    /// Part of the steps that is recorded, from 0 to 1. Others leave no trace in any process.
    #[arg(long, default_value_t = 1.0)]
    part: f64,
    /// In a worker: its number.
    #[arg(long, hide = true)]
    worker: Option<u16>,
    /// In a worker: where the agents of this run find each other.
    #[arg(long, hide = true, default_value = "")]
    scope: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let system = actix::System::new();
    match (args.worker, &args.otlp) {
        (Some(number), Some(endpoint)) => system.block_on(work(&args, number, endpoint)),
        _ => system.block_on(drive(&args)),
    }
}

/// The driver: starts workers, and has them do the steps.
async fn drive(args: &Args) -> Result<()> {
    let collector = Collector::default();
    let endpoint = match &args.otlp {
        Some(endpoint) => endpoint.clone(),
        None => format!("http://{}", collector.start().await?),
    };
    let spans = telemetry::start(DRIVER, &endpoint, args.part)?;
    let scope = format!("traces-{}", std::process::id());
    let agent = PeerAgent::builder()
        .host()
        .scope(&scope)
        .alias(DRIVER)
        .start()
        .await?;
    agent.serve(Loader).await?;
    agent.serve(Reducer::default()).await?;

    let start = |number| start_worker(args, &scope, &endpoint, number);
    let mut children = (0..args.workers).map(start).collect::<Result<Vec<_>>>()?;
    let peers: Vec<_> = (0..args.workers).map(worker).collect();
    let trainers = peers.iter().map(|peer| agent.proxy::<Trainer>(peer));
    let trainers = try_join_all(trainers).await?;
    for number in 1..=args.steps {
        let span = tracing::info_span!("step", otel.name = format!("step {number}"));
        // Calls are made, and not only awaited, inside of the span.
        let calls = async { try_join_all(trainers.iter().map(|it| it.step(number))).await };
        let sums = calls.instrument(span).await?;
        println!("step {number}: gradients add up to {sums:?}");
    }
    drop(trainers);
    // The end of its input asks a worker to leave.
    for child in &mut children {
        drop(child.stdin.take());
    }
    for mut child in children {
        let status = child.wait().await?;
        if !status.success() {
            return Err(format!("a worker ended with {status}").into());
        }
    }
    agent.shutdown().await?;
    telemetry::end(spans).await?;
    if args.otlp.is_none() {
        print!("\n{}", tree::draw(collector.take()));
    }
    Ok(())
}

/// Alias of a worker.
fn worker(number: u16) -> String {
    format!("worker:{number}")
}

fn start_worker(args: &Args, scope: &str, endpoint: &str, number: u16) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--scope", scope, "--otlp", endpoint]);
    command.arg("--worker").arg(number.to_string());
    command.arg("--part").arg(args.part.to_string());
    Ok(command.stdin(Stdio::piped()).kill_on_drop(true).spawn()?)
}

/// A worker: serves its trainer until its input ends.
async fn work(args: &Args, number: u16, endpoint: &str) -> Result<()> {
    let alias = worker(number);
    let spans = telemetry::start(&alias, endpoint, args.part)?;
    let agent = PeerAgent::builder().host().scope(&args.scope).alias(alias);
    let agent = agent.start().await?;
    let (loader, reducer) = (agent.proxy(DRIVER).await?, agent.proxy(DRIVER).await?);
    agent.serve(Trainer { loader, reducer }).await?;
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    agent.shutdown().await?;
    telemetry::end(spans).await
}

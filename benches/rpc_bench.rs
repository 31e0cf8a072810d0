//! The original's RPC benchmark: raw echoes of 1 KB to 16 MB between a worker and a driver, with
//! its options and columns.
//!
//!     # Both, over shared memory:
//!     cargo bench --bench rpc_bench
//!     # One terminal, or host, and another:
//!     cargo bench --features verbs --bench rpc_bench -- --role worker --device mlx5_0
//!     cargo bench --features verbs --bench rpc_bench -- --role driver --device mlx5_0 \
//!         --out ours.csv
//!
//! Columns are `size,avg_us,p50_us,p99_us,bw_gbps`: bytes, microseconds for a round trip, and 10^9
//! bytes a second, both ways counted. So are rounds: 20 to warm up, then 500, or fewer for more
//! than 100 KB, but 50 at least. As there, the worker writes its reply in place, and the driver is
//! given a copy. Either role may be DLSlime's: its worker and driver have these aliases, this scope
//! and this service.

#[macro_use]
mod support;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use slimerpc::fabric;
use slimerpc_actors::{Limits, PeerAgent, Polling, Proxy, Timeouts, service};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use support::{HOST, Peer, Result, ended};

const WORKER: &str = "bench-worker";
const DRIVER: &str = "bench-driver";
const SMALLEST: usize = 1 << 10;
/// Each size is so many times the one before.
const STEP: usize = 4;
const WARM_UP: usize = 20;
/// Bytes of all requests of a size, unless that makes too few or too many rounds.
const BYTES: usize = 50_000_000;
/// For the other side to come.
const PATIENCE: Duration = Duration::from_secs(120);
/// For one call.
const LIMIT: Duration = Duration::from_secs(60);
/// For a worker, which waits for its driver as long as it lives.
const FOREVER: Duration = Duration::from_secs(86_400);

#[derive(Parser)]
#[command(
    about = "Raw echoes of 1 KB to 16 MB between a worker and a driver, as DLSlime measures its own"
)]
struct Args {
    /// Which side to be [default: both, in two processes of this host]
    #[arg(long)]
    role: Option<Role>,
    /// URL of the NanoCtrl (or dlslime-ctrl) server, or `host` for processes of this host
    #[arg(long, value_name = "URL|host", default_value = "http://127.0.0.1:3000")]
    ctrl: String,
    /// Isolates jobs that share a server; equal on both sides
    #[arg(long, default_value = "rpc-bench")]
    scope: String,
    /// MiB of a slot, which carries one message; equal on both sides
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    buf_mb: u16,
    /// Largest message in MiB; it must be smaller than a slot
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_size_mb: u16,
    /// Slots; equal on both sides. One call is under way at a time all the same
    #[arg(long, value_name = "SLOTS", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    max_inflight: u16,
    /// Write the figures to this file, too
    #[arg(long, value_name = "FILE")]
    out: Option<std::path::PathBuf>,
    /// Device that carries the bytes [default: shared memory on one host, otherwise the first
    /// usable RDMA port]
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// How long waiters poll before they sleep; 0 where other programs keep the cores busy
    #[arg(long, value_name = "US", default_value_t = 100_000)]
    busy_poll: u64,
    /// Be the worker of another process
    #[arg(long, hide = true)]
    peer_of: Option<String>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// Serves the echo until it is interrupted; start it first
    Worker,
    /// Calls and measures
    Driver,
}

struct EchoService;

#[service]
impl EchoService {
    /// Says how many bytes are the reply; more than there is room for is refused by name.
    #[method(raw, inplace)]
    fn echo(&mut self, request: &[u8], reply: &mut [u8]) -> usize {
        if let Some(reply) = reply.get_mut(..request.len()) {
            reply.copy_from_slice(request);
        }
        request.len()
    }
}

impl Args {
    fn slot_size(&self) -> usize {
        usize::from(self.buf_mb) << 20
    }

    /// # Errors
    /// The largest does not fit a slot.
    fn sizes(&self) -> Result<Vec<usize>> {
        let largest = usize::from(self.max_size_mb) << 20;
        if largest >= self.slot_size() {
            let Self {
                max_size_mb,
                buf_mb,
                ..
            } = self;
            return Err(format!(
                "messages of {max_size_mb} MiB do not fit slots of {buf_mb} MiB: give both sides a larger --buf-mb, or the \
                 driver a smaller --max-size-mb"
            )
            .into());
        }
        let sizes = std::iter::successors(Some(SMALLEST), |size| Some(size * STEP));
        Ok(sizes.take_while(|size| *size <= largest).collect())
    }

    async fn agent(&self, alias: &str, control: &str) -> Result<PeerAgent> {
        let mut agent = PeerAgent::builder()
            .control(control)
            .alias(alias)
            .scope(&self.scope)
            .limits(
                Limits::default()
                    .slot_size(self.slot_size())
                    .max_inflight(self.max_inflight.into()),
            )
            .timeouts(Timeouts::default().connect_timeout(PATIENCE))
            .polling(Polling::default().busy_poll(Duration::from_micros(self.busy_poll)));
        if let Some(device) = &self.device {
            agent = agent.device(device);
        }
        Ok(agent.start().await?)
    }
}

fn rounds(size: usize) -> usize {
    (BYTES / size).clamp(50, 500)
}

/// One line of figures.
struct Row {
    size: usize,
    avg_us: f64,
    p50_us: f64,
    p99_us: f64,
    bw_gbps: f64,
}

impl Row {
    fn new(size: usize, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let avg_us = samples.iter().sum::<f64>() / samples.len() as f64;
        let at = |part: f64| samples[(samples.len() as f64 * part) as usize];
        Self {
            size,
            avg_us,
            p50_us: at(0.5),
            p99_us: at(0.99),
            bw_gbps: 2.0 * size as f64 / 1e3 / avg_us,
        }
    }
}

/// As the original names its sizes.
fn label(size: usize) -> String {
    match size {
        0..0x10_0000 => format!("{}KB", size >> 10),
        _ => format!("{}MB", size >> 20),
    }
}

/// Serves until `over`.
async fn work(
    args: &Args,
    control: &str,
    over: impl Future<Output = std::io::Result<()>>,
) -> Result<()> {
    let agent = args.agent(WORKER, control).await?;
    agent.serve(EchoService).await?;
    println!("{WORKER} serves; --role driver measures");
    let connecting = async {
        let connected = agent.connect_to(DRIVER).timeout(FOREVER).await;
        if let Err(error) = connected {
            eprintln!("{DRIVER}: {error}");
        }
        std::future::pending().await
    };
    tokio::select! {
        ended = over => ended?,
        () = connecting => {}
    }
    Ok(agent.shutdown().await?)
}

async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// Until the process that started us says something, or ends.
async fn released() -> std::io::Result<()> {
    let reading = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    reading.await.map_err(std::io::Error::other)?.map(drop)
}

fn drive(args: &Args, control: &str) -> Result<()> {
    let sizes = args.sizes()?;
    let out = args.out.as_deref().map(create).transpose()?;
    // The agent lives on threads of the library's, this one only waits for replies.
    let runtime = Runtime::new()?;
    let agent = runtime.block_on(args.agent(DRIVER, control))?;
    eprintln!("waiting for {WORKER}");
    let connected = runtime.block_on(async {
        agent.connect_to(WORKER).await?;
        Ok::<_, Box<dyn std::error::Error>>(agent.proxy::<EchoService>(WORKER).await?)
    });
    let measured = connected.and_then(|echo| measure(&echo, &sizes, out));
    runtime.block_on(agent.shutdown())?;
    measured
}

fn create(path: &Path) -> Result<File> {
    let created = File::create(path);
    created.map_err(|error| format!("cannot write {}: {error}", path.display()).into())
}

fn measure(echo: &Proxy<EchoService>, sizes: &[usize], mut out: Option<File>) -> Result<()> {
    let calls: usize = sizes.iter().map(|size| WARM_UP + rounds(*size)).sum();
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} calls, {elapsed}, {msg}")?;
    let bar = ProgressBar::new(calls as u64).with_style(style);
    let head = "size,avg_us,p50_us,p99_us,bw_gbps";
    if let Some(out) = &mut out {
        writeln!(out, "{head}")?;
    }
    println!(
        "{:<8} {:>12} {:>12} {:>12} {:>10}",
        "size", "avg, us", "p50, us", "p99, us", "GB/s"
    );
    for &size in sizes {
        bar.set_message(label(size));
        let row = echoes(echo, size, &bar)?;
        let Row {
            avg_us,
            p50_us,
            p99_us,
            bw_gbps,
            ..
        } = row;
        let size_label = label(row.size);
        bar.suspend(|| {
            println!(
                "{size_label:<8} {avg_us:>12.2} {p50_us:>12.2} {p99_us:>12.2} {bw_gbps:>10.3}"
            );
        });
        if let Some(out) = &mut out {
            writeln!(
                out,
                "{size},{avg_us:.3},{p50_us:.3},{p99_us:.3},{bw_gbps:.4}"
            )?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn echoes(echo: &Proxy<EchoService>, size: usize, bar: &ProgressBar) -> Result<Row> {
    let request = vec![b'x'; size];
    for _ in 0..WARM_UP {
        if echo.echo(&request).wait_timeout(LIMIT)? != request {
            return Err("what came back is not what was sent".into());
        }
    }
    let mut samples = Vec::with_capacity(rounds(size));
    for _ in 0..rounds(size) {
        let began = Instant::now();
        let reply = echo.echo(&request).wait_timeout(LIMIT)?;
        samples.push(began.elapsed().as_secs_f64() * 1e6);
        drop(reply);
    }
    bar.inc((WARM_UP + rounds(size)) as u64);
    Ok(Row::new(size, samples))
}

/// Both roles, in a scope of their own.
fn both(mut args: Args) -> Result<()> {
    args.sizes()?;
    args.scope = format!("{}-{}", args.scope, std::process::id());
    args.device.get_or_insert_with(|| fabric::SHM.to_owned());
    drive_own(&args)
}

/// A worker that ends with us.
fn drive_own(args: &Args) -> Result<()> {
    let (buf_mb, max_inflight) = (args.buf_mb.to_string(), args.max_inflight.to_string());
    let busy_poll = args.busy_poll.to_string();
    let mut options = vec!["--scope", &args.scope, "--buf-mb", &buf_mb];
    options.extend(["--max-inflight", &max_inflight, "--busy-poll", &busy_poll]);
    options.extend(args.device.iter().flat_map(|device| ["--device", device]));
    let mut worker = Peer::start(HOST, &options)?;
    worker.line()?;
    drive(args, HOST)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let system = actix::System::new;
    ended(match (&args.peer_of, args.role) {
        (Some(control), _) => system().block_on(work(&args, control, released())),
        (None, Some(Role::Worker)) => system().block_on(work(&args, &args.ctrl, interrupted())),
        (None, Some(Role::Driver)) => drive(&args, &args.ctrl),
        (None, None) => both(args),
    })
}

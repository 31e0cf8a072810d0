//! Payloads beyond a slot between two processes: what they take beside a plain copy of the same
//! bytes, what small calls notice of them, and what connections take that do nothing.
//!
//!     cargo bench --bench large [-- --mib 16,256 --connections 100]
//!     cargo bench --features verbs --bench large -- --device rxe0 --mib 16 --connections 8
//!
//! The parent process measures; it starts a second one of itself as the peer. Agents are as they
//! are by default.

#[macro_use]
mod support;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use slimerpc::fabric;
use slimerpc_actors::{Builder, PeerAgent, Polling, Proxy, RpcError, service};
use tokio::runtime::Runtime;

use support::footprint::{Footprint, allow_many_files};
use support::{Figures, HOST, Peer, Result, ended, pretty};

/// Bytes of a small call.
const SMALL: usize = 64;
/// The name under which the peer serves an echo beside the other.
const SECOND: &str = "second";

#[derive(Parser)]
#[command(
    about = "Large payloads between two processes: echoes, small calls beside them, idle memory"
)]
struct Args {
    /// Device that carries the bytes
    #[arg(long, default_value = fabric::SHM)]
    device: String,
    /// Sizes of the echoes; small calls run beside the last one
    #[arg(
        long,
        value_name = "MIB",
        value_delimiter = ',',
        default_value = "16,256"
    )]
    #[arg(value_parser = clap::value_parser!(u16).range(1..1024))]
    mib: Vec<u16>,
    /// Echoes of each size, at least
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of small calls for each figure
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long waiters poll before they sleep; that is what small calls take beside little else
    #[arg(long, value_name = "US", default_value_t = 50)]
    busy_poll: u64,
    /// Connections that do nothing
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Be the peer of another process
    #[arg(long, hide = true)]
    peer_of: Option<String>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

struct Echo;

#[service]
impl Echo {
    #[method(raw)]
    fn raw(&mut self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method]
    fn typed(&mut self, request: String) -> String {
        request
    }

    /// Leaves the payload where it arrived.
    #[method(raw)]
    fn take(&mut self, request: &[u8]) -> [u8; 8] {
        (request.len() as u64).to_le_bytes()
    }

    #[method]
    fn takes(&mut self) -> std::io::Result<Footprint> {
        Footprint::of_this_process()
    }
}

fn agent(args: &Args, role: &str, control: &str) -> Builder {
    PeerAgent::builder()
        .control(control)
        .device(&args.device)
        .alias(format!("{role}:{}", std::process::id()))
        .polling(Polling::default().busy_poll(Duration::from_micros(args.busy_poll)))
}

/// The other process: serves until we say something, or end.
fn peer(args: &Args, control: &str) -> Result<()> {
    actix::System::new().block_on(async {
        let agent = agent(args, "peer", control).start().await?;
        let _serving = agent.serve(Echo).await?;
        let _beside = agent.serve(Echo).named(SECOND).await?;
        println!("{}", agent.alias());
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
        Ok(agent.shutdown().await?)
    })
}

/// Echoes of `size` bytes beside copies of as many, in milliseconds. How often a payload is copied
/// on its way there and back, READs by the fabric included, stands beside each: the caller's bytes
/// into registered memory (1), read by the service (2), copied by the handler (3), its result into
/// registered memory (4), read by the caller (5), copied out (6).
fn echoes(args: &Args, echo: &Proxy<Echo>, size: usize) -> Result<()> {
    eprint!("\rechoes of {}     ", pretty(size));
    let bytes = vec![b'x'; size];
    let mut copy = bytes.clone();
    let base = repeat(args, || {
        copy.copy_from_slice(black_box(&bytes));
        black_box(&copy);
        Ok(())
    })?;
    drop(copy);
    let fresh = repeat(args, || {
        black_box(black_box(&bytes).clone());
        Ok(())
    })?;
    let lent = repeat(args, || echo.raw(&bytes).lent().wait().map(drop))?;
    let raw = repeat(args, || echo.raw(&bytes).wait().map(drop))?;
    let mut text = String::from_utf8(bytes)?;
    let typed = repeat(args, || {
        text = echo.typed(std::mem::take(&mut text)).wait()?;
        Ok(())
    })?;
    if text.len() != size {
        return Err(format!("{} of {size} bytes came back", text.len()).into());
    }
    eprint!("\r");
    for (name, copies, figures) in [
        ("plain copy", 1, base),
        ("copy to new memory", 1, fresh),
        ("raw echo, reply lent", 5, lent),
        ("raw echo", 6, raw),
        ("typed echo", 6, typed),
    ] {
        let Figures { p50, longest, .. } = figures;
        let (size, ratio) = (pretty(size), p50 / base.p50);
        let (p50, longest) = (p50 / 1e3, longest / 1e3);
        println!("{size:>8}  {name:<22} {copies:>6} {p50:>10.2} {longest:>10.2} {ratio:>7.2}");
    }
    Ok(())
}

fn repeat(
    args: &Args,
    round: impl FnMut() -> std::result::Result<(), RpcError>,
) -> std::result::Result<Figures, RpcError> {
    Figures::measure(0.0, args.rounds, round)
}

/// Small calls on their own and beside large ones, in microseconds.
fn small_calls(args: &Args, echo: &Proxy<Echo>, second: &Proxy<Echo>, size: usize) -> Result<()> {
    let (bytes, large) = (vec![b'x'; size], pretty(size));
    let requests = || echo.take(&bytes).wait().map(drop);
    let echoes = || second.raw(&bytes).wait().map(drop);
    let loads: [(String, &Load); 2] = [
        (format!("{large} requests, same service"), &requests),
        (format!("{large} echoes, other service"), &echoes),
    ];
    println!(
        "\n{:<32} {:>6} {:>9} {:>9} {:>7} {:>9}",
        format!("calls of {SMALL} B, us, beside"),
        "large",
        "p50",
        "p99",
        "ratio",
        "longest"
    );
    eprint!("\rsmall calls    ");
    let alone = small(args, echo)?;
    print_small("nothing", 0, alone, alone);
    for (name, load) in loads {
        eprint!("\rsmall calls beside {name}");
        let (figures, times) = beside(args, echo, load)?;
        print_small(&name, times, figures, alone);
    }
    Ok(())
}

/// The ratio is that of the 99th percentiles.
fn print_small(beside: &str, times: usize, figures: Figures, alone: Figures) {
    let Figures { p50, p99, longest } = figures;
    let ratio = p99 / alone.p99;
    println!("\r{beside:<32} {times:>6} {p50:>9.2} {p99:>9.2} {ratio:>7.2} {longest:>9.1}");
}

fn small(args: &Args, echo: &Proxy<Echo>) -> std::result::Result<Figures, RpcError> {
    let request = [7; SMALL];
    Figures::measure(args.seconds, 10, || echo.raw(&request).wait().map(drop))
}

type Load<'a> = dyn Fn() -> std::result::Result<(), RpcError> + Sync + 'a;

/// Small calls while another thread repeats the `load`, and how often it did.
fn beside(args: &Args, echo: &Proxy<Echo>, load: &Load) -> Result<(Figures, usize)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let mut times = 0;
            while !is_over.load(Ordering::Relaxed) {
                load()?;
                times += 1;
            }
            Ok::<_, RpcError>(times)
        });
        let figures = small(args, echo);
        is_over.store(true, Ordering::Relaxed);
        let times = loading.join().map_err(|_| "the large calls panicked")?;
        Ok((figures?, times?))
    })
}

/// What connections take that do nothing: each of an agent of its own here, with the one service
/// there.
fn idle(args: &Args, runtime: &Runtime, echo: &Proxy<Echo>) -> Result<()> {
    let count = args.connections;
    let before = [Footprint::of_this_process()?, echo.takes().wait()?];
    let (mut agents, mut proxies) = (Vec::new(), Vec::new());
    for number in 1..=count {
        eprint!("\rconnection {number}     ");
        let agent = agent(args, &format!("idle-{number}"), HOST);
        let agent = runtime.block_on(agent.start())?;
        proxies.push(runtime.block_on(agent.proxy::<Echo>(echo.peer()))?);
        agents.push(agent);
    }
    let after = [Footprint::of_this_process()?, echo.takes().wait()?];
    let [here, there] = [0, 1].map(|end| after[end].each(before[end], count));
    let ring = |proxy: &Proxy<Echo>| {
        proxy
            .channel()
            .map_or(0, |channel| channel.geometry().len())
    };
    let rings: usize = proxies.iter().map(ring).sum();
    let accounts = agents.iter().map(PeerAgent::memory);
    let accounts: usize = accounts.map(|account| account.lent + account.idle).sum();

    let title = format!("{count} idle connections, KiB each");
    println!("\r\n{title:<42} {:>10} {:>10}", "caller", "service");
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let each = |bytes: usize| (bytes / count.max(1)) as u64;
    for (name, here, there) in [
        (
            "rings: one to receive, one to send from",
            each(2 * rings),
            each(2 * rings),
        ),
        ("beyond slots, by the agents' accounts", each(accounts), 0),
        (
            "registered, by the kernel's account",
            here.registered,
            there.registered,
        ),
        ("resident, threads and all", here.resident, there.resident),
    ] {
        println!("{name:<42} {:>10.1} {:>10.1}", kib(here), kib(there));
    }
    drop(proxies);
    for agent in agents {
        runtime.block_on(agent.shutdown())?;
    }
    Ok(())
}

fn run(args: &Args) -> Result<()> {
    allow_many_files()?;
    let busy_poll = args.busy_poll.to_string();
    let options = ["--device", &args.device, "--busy-poll", &busy_poll];
    let mut peer = Peer::start(HOST, &options)?;
    let of = peer.line()?;
    // The agents live on threads of the library's, this one only waits for replies.
    let runtime = Runtime::new()?;
    let driver = runtime.block_on(agent(args, "driver", HOST).start())?;
    let echo = runtime.block_on(driver.proxy::<Echo>(&of))?;
    let second = runtime.block_on(driver.proxy_named::<Echo>(&of, SECOND))?;

    if args.connections > 0 {
        idle(args, &runtime, &echo)?;
    }
    println!(
        "\r\n{:>8}  {:<22} {:>6} {:>10} {:>10} {:>7}",
        "", "ms", "copies", "p50", "longest", "ratio"
    );
    let sizes: Vec<_> = args.mib.iter().map(|mib| usize::from(*mib) << 20).collect();
    for size in &sizes {
        echoes(args, &echo, *size)?;
    }
    if let Some(size) = sizes.last() {
        small_calls(args, &echo, &second, *size)?;
    }
    runtime.block_on(driver.shutdown())?;
    drop(peer);
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::parse();
    ended(match &args.peer_of {
        Some(control) => allow_many_files()
            .map_err(Into::into)
            .and_then(|()| peer(&args, control)),
        None => run(&args),
    })
}

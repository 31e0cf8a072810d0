//! Round trips between two processes: how much an RPC costs beyond the fabric.
//!
//!     cargo bench --bench echo [-- --csv FILE]
//!     cargo bench --features verbs --bench echo -- --device rxe0
//!
//! Three echoes, side by side in one run: a raw ping-pong of WRITE_WITH_IMM on the fabric, a raw call (bytes)
//! and a typed call (a `String` through bincode). Both sides poll. The parent process measures; it starts a
//! second one of itself as the peer, and a NanoCtrl server for the agents to find each other, which needs
//! `redis-server` (or a Redis on port 6379).

mod support;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use slimerpc::channel::QueuePairInfo;
use slimerpc::fabric::{
    self, Access, Completion, CompletionQueue, MemoryRegion, Operation, Payload, QueuePair,
    QueuePairInit, RecvRequest, RemoteSlice, RetryPolicy, SendRequest, Sge,
};
use slimerpc_actors::{PeerAgent, Proxy, service};

use support::{Figures, NanoCtrl, Peer, Result, ended, pretty};

const SIZES: [usize; 10] = [
    64,
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
];
const INFLIGHT: [usize; 3] = [1, 16, 64];
/// Sizes up to this one are measured between agents with many small slots.
const SMALL: usize = 64 << 10;
/// Round trips for each figure at least.
const LEAST: usize = 10;
/// Work requests in each queue of the raw ping-pong.
const DEPTH: usize = 64;
/// Long enough that neither side sleeps while it is measured.
const BUSY: Duration = Duration::from_millis(100);

#[derive(Parser)]
#[command(about = "Round trips between two processes: fabric, raw call, typed call")]
struct Args {
    /// Device that carries the bytes
    #[arg(long, default_value = fabric::SHM)]
    device: String,
    /// Largest size measured, in bytes
    #[arg(long, default_value_t = SIZES[SIZES.len() - 1])]
    largest: usize,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    csv: Option<String>,
    /// Seconds for each figure
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
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
}

/// Both kinds of agents: many small slots, or few large ones.
fn agent(args: &Args, role: &str, url: &str, large: bool) -> slimerpc_actors::Builder {
    let (kind, slot_size, slots) = if large {
        ("large", (16 << 20) + 64, 2)
    } else {
        ("small", SMALL + 64, 64)
    };
    PeerAgent::builder()
        .nanoctrl(url)
        .device(&args.device)
        .alias(format!("{role}:{kind}:{}", std::process::id()))
        .slot_size(slot_size)
        .max_inflight(slots)
        .busy_poll(BUSY)
}

/// One end of the raw ping-pong.
struct Pong {
    qp: Box<dyn QueuePair>,
    cq: Arc<dyn CompletionQueue>,
    sends: Arc<dyn MemoryRegion>,
    ring: Arc<dyn MemoryRegion>,
    sent: usize,
    /// A virtual machine's device is emulated by its processors, which need a turn.
    yields: bool,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Told {
    qp: QueuePairInfo,
    addr: u64,
    rkey: u32,
}

impl Pong {
    fn new(args: &Args) -> Result<Self> {
        let device = fabric::open(&args.device, 1)?;
        let cq = device.create_completion_queue(2 * DEPTH as u32)?;
        let mut qp = device.create_queue_pair(&QueuePairInit {
            send_cq: cq.clone(),
            recv_cq: cq.clone(),
            max_send_wr: DEPTH as u32,
            max_recv_wr: DEPTH as u32,
            max_inline: 220.min(device.limits().max_inline),
            retry: RetryPolicy::default(),
        })?;
        let sends = device.register(args.largest, Access::LOCAL_WRITE)?;
        let ring = device.register(args.largest, Access::LOCAL_WRITE | Access::REMOTE_WRITE)?;
        qp.to_init()?;
        for wr_id in 0..DEPTH as u64 {
            qp.post_recv(RecvRequest { wr_id })?;
        }
        Ok(Self {
            qp,
            cq,
            sends,
            ring,
            sent: 0,
            yields: args.device != fabric::SHM,
        })
    }

    fn told(&self) -> Told {
        Told {
            qp: self.qp.address().into(),
            addr: self.ring.addr(),
            rkey: self.ring.rkey(),
        }
    }

    fn connect(&mut self, peer: &Told) -> Result<()> {
        self.qp.to_rtr(&peer.qp.into())?;
        Ok(self.qp.to_rts()?)
    }

    fn send(&mut self, peer: &Told, size: usize) -> Result<()> {
        let local = Sge {
            addr: self.sends.addr(),
            length: size as u32,
            lkey: self.sends.lkey(),
        };
        self.sent += 1;
        Ok(self.qp.post_send(&SendRequest {
            wr_id: 1 << 32,
            operation: Operation::WriteWithImm(size as u32),
            local: Payload::Region(local),
            remote: RemoteSlice {
                addr: peer.addr,
                rkey: peer.rkey,
            },
            // Once per half queue, as a NIC needs it.
            signalled: self.sent.is_multiple_of(DEPTH / 2),
        })?)
    }

    /// Polls until a message is there; its immediate is its size.
    fn receive(&mut self) -> Result<usize> {
        let mut batch = [Completion::EMPTY; 4];
        loop {
            let count = self.cq.poll(&mut batch)?;
            for completion in &batch[..count] {
                if !completion.status.is_success() {
                    return Err(completion.status.to_string().into());
                }
                if let Some(size) = completion.imm {
                    self.qp.post_recv(RecvRequest { wr_id: 0 })?;
                    return Ok(size as usize);
                }
            }
            if self.yields {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

/// The other process: echoes on the fabric until told otherwise, then serves.
fn peer(args: &Args, url: &str) -> Result<()> {
    let mut pong = Pong::new(args)?;
    println!("{}", serde_json::to_string(&pong.told())?);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let parent: Told = serde_json::from_str(&line)?;
    pong.connect(&parent)?;
    loop {
        match pong.receive()? {
            0 => break,
            size => pong.send(&parent, size)?,
        }
    }
    actix::System::new().block_on(async {
        let mut agents = Vec::new();
        for large in args.kinds() {
            let agent = agent(args, "peer", url, large).start().await?;
            let _serving = agent.serve(Echo).await?;
            println!("{}", agent.alias());
            agents.push(agent);
        }
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
        for agent in agents {
            agent.shutdown().await?;
        }
        Ok(())
    })
}

impl Args {
    fn sizes(&self) -> impl Iterator<Item = usize> {
        SIZES.into_iter().filter(|size| *size <= self.largest)
    }

    /// Whether agents with large slots are needed beside those with small ones.
    fn kinds(&self) -> impl Iterator<Item = bool> + use<> {
        let has_large = self.largest > SMALL;
        [false, true]
            .into_iter()
            .filter(move |large| has_large || !large)
    }
}

/// Raw calls in a second with `inflight` of them under way, from one task.
async fn throughput(echo: &Proxy<Echo>, inflight: usize, seconds: f64) -> Result<f64> {
    let request = [7; 64];
    let mut replies = std::collections::VecDeque::new();
    let started = Instant::now();
    let mut calls = 0_u64;
    while started.elapsed().as_secs_f64() < seconds {
        while replies.len() < inflight {
            replies.push_back(echo.raw(&request));
        }
        if let Some(reply) = replies.pop_front() {
            reply.await?;
            calls += 1;
        }
    }
    Ok(calls as f64 / started.elapsed().as_secs_f64())
}

fn run(args: &Args) -> Result<()> {
    let nanoctrl = NanoCtrl::start()?;
    let largest = args.largest.to_string();
    let options = ["--device", &args.device, "--largest", &largest];
    let mut peer = Peer::start(&nanoctrl.url, &options)?;
    let fabric = measure_fabric(args, &mut peer)?;
    let mut csv = String::from("size,echo,p50_us,p99_us,ratio\n");

    // The agents live on a thread of the library's, this one only waits for replies.
    let runtime = tokio::runtime::Runtime::new()?;
    let (mut agents, mut echoes) = (Vec::new(), Vec::new());
    for large in args.kinds() {
        let of = peer.line()?;
        let starting = agent(args, "driver", &nanoctrl.url, large).start();
        let agent = runtime.block_on(starting)?;
        echoes.push(runtime.block_on(agent.proxy::<Echo>(&of))?);
        agents.push(agent);
    }

    println!(
        "\rround trip, us      fabric          |       raw call            |       typed call"
    );
    println!(
        "     size     p50       p99   |     p50       p99   ratio |     p50       p99   ratio"
    );
    for (size, base) in args.sizes().zip(&fabric) {
        eprint!("\rcalls {:10}", pretty(size));
        let echo = &echoes[usize::from(size > SMALL)];
        let request = vec![b'x'; size];
        let text = String::from_utf8(request.clone())?;
        let raw = Figures::measure(args.seconds, LEAST, || echo.raw(&request).wait().map(drop))?;
        let typed = Figures::measure(args.seconds, LEAST, || {
            echo.typed(text.clone()).wait().map(drop)
        })?;
        println!(
            "\r{:>9} {:>8.2} {:>8.2}   | {:>8.2} {:>8.2} {:>7.2} | {:>8.2} {:>8.2} {:>7.2}",
            pretty(size),
            base.p50,
            base.p99,
            raw.p50,
            raw.p99,
            raw.p50 / base.p50,
            typed.p50,
            typed.p99,
            typed.p50 / base.p50,
        );
        for (name, figures) in [("fabric", base), ("raw", &raw), ("typed", &typed)] {
            let Figures { p50, p99, .. } = figures;
            let ratio = p50 / base.p50;
            writeln!(csv, "{size},{name},{p50:.3},{p99:.3},{ratio:.3}")?;
        }
    }

    println!("\nraw 64 B calls a second, one task");
    for inflight in INFLIGHT {
        let rate = runtime.block_on(throughput(&echoes[0], inflight, 2.0 * args.seconds))?;
        println!("{inflight:>9} in flight {rate:>12.0}");
        writeln!(csv, "64,{inflight}_in_flight,{rate:.0},,")?;
    }
    for agent in agents {
        runtime.block_on(agent.shutdown())?;
    }
    drop(peer);
    nanoctrl.stop();
    if let Some(path) = &args.csv {
        std::fs::write(path, csv)?;
    }
    Ok(())
}

/// The raw ping-pong, for each size.
fn measure_fabric(args: &Args, peer: &mut Peer) -> Result<Vec<Figures>> {
    let mut ping = Pong::new(args)?;
    let told: Told = serde_json::from_str(&peer.line()?)?;
    peer.tell(&serde_json::to_string(&ping.told())?)?;
    ping.connect(&told)?;
    let mut all = Vec::new();
    for size in args.sizes() {
        eprint!("\rfabric {:10}", pretty(size));
        all.push(Figures::measure(args.seconds, LEAST, || -> Result<()> {
            ping.send(&told, size)?;
            ping.receive().map(drop)
        })?);
    }
    ping.send(&told, 0)?;
    Ok(all)
}

fn main() -> ExitCode {
    let args = Args::parse();
    ended(match &args.peer_of {
        Some(url) => peer(&args, url),
        None => run(&args),
    })
}

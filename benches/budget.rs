//! Instructions a call: what a change costs where time is too noisy to tell.
//!
//!     cargo bench --bench budget [-- --write]
//!
//! Both ends of a channel over shared memory, on one thread, in turns: so that a call is the same
//! instructions each time. Valgrind's callgrind counts them, both sides together, from the call's
//! start to the reply in its caller's hands; a scenario that takes 3 % more than the figure in
//! `benches/budget.txt` fails. `--write` puts today's figures there.
//!
//! The scenarios `actors` and `actors-bytes` are whole calls, through a proxy and an actor. Their
//! futures take turns on the actor's arbiter, with as many calls under way as the arbiter runs in a
//! row, so that neither looks in vain. Actix and tokio are counted with them; start and end are
//! not, as each is run twice, with more calls and with fewer.
//!
//! Where copies are long callgrind counts each byte (`rep movsb`), so the 16 KiB tell how often
//! they are copied.

#[macro_use]
#[path = "support/print.rs"]
mod print;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::future::poll_fn;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use slimerpc::channel::{
    AnswerView, BufferPool, ClientChannel, Delivery, Dialer, Geometry, Mailbox, MemoryLimits,
    ServiceInfo, WaitPolicy,
};
use slimerpc::fabric::{self, RetryPolicy};
use slimerpc::wire::{Codec, Raw};
use slimerpc_actors::{Limits, PeerAgent, Polling, Proxy, service};
use tokio::sync::oneshot;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Calls that are counted.
const CALLS: u32 = 2000;
/// Rounds of `actors` that are run, and how many fewer the second time.
const ROUNDS: (u32, u32) = (500, 400);
/// More than the committed figure, in parts of it, that is too much.
const TOLERANCE: f64 = 0.03;
const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/budget.txt");

#[derive(Parser)]
#[command(about = "Instructions a call, counted by callgrind, against the committed figures")]
struct Args {
    /// Commit today's figures
    #[arg(long)]
    write: bool,
    /// Run one scenario, to be counted
    #[arg(long, hide = true)]
    scenario: Option<Scenario>,
    /// So often
    #[arg(long, hide = true, default_value_t = 1)]
    rounds: u32,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scenario {
    /// One call of 64 bytes there and back at a time, without a deadline
    Lean,
    /// The same with a deadline
    Raw64,
    /// The same with 16 calls under way
    Raw64Pipelined,
    /// 16 KiB there and back, not sent inline
    Raw16k,
    /// 64 bytes there and back through a proxy and an actor, in place and lent, with 64 calls under
    /// way
    Actors,
    /// The same with bytes that the caller has, and a copy of the reply
    ActorsBytes,
}

impl Scenario {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn size(self) -> usize {
        match self {
            Self::Raw16k => 16 << 10,
            _ => 64,
        }
    }

    fn inflight(self) -> u32 {
        match self {
            Self::Lean | Self::Raw64 | Self::Raw16k => 1,
            Self::Raw64Pipelined => 16,
            Self::Actors | Self::ActorsBytes => 64,
        }
    }

    /// Whether it is whole calls.
    fn is_whole(self) -> bool {
        matches!(self, Self::Actors | Self::ActorsBytes)
    }
}

/// Both ends of a channel.
struct Ends {
    caller: Arc<ClientChannel>,
    mailbox: Mailbox,
    deliveries: VecDeque<Delivery>,
    _runtime: tokio::runtime::Runtime,
}

impl Ends {
    fn connect() -> Result<Self> {
        let device = fabric::open(fabric::SHM, 1)?;
        let memory = BufferPool::new(device, MemoryLimits::default());
        let (geometry, retry) = (Geometry::new(32, 32 << 10)?, RetryPolicy::default());
        let service_info = ServiceInfo {
            name: "Echo".to_owned(),
            stream_patience: Duration::from_secs(30),
            figures: None,
        };
        let mut mailbox = Mailbox::new(memory.clone(), geometry.into(), retry, service_info)?;
        let dialer = Dialer::new(&memory, geometry, retry)?;
        let theirs = mailbox.accept("caller", 1, &dialer.endpoint())?;
        let runtime = tokio::runtime::Runtime::new()?;
        let patience = WaitPolicy {
            busy_poll: Duration::ZERO,
            runtime: runtime.handle().clone(),
        };
        let caller = dialer.connect("echo", &theirs, patience)?;
        Ok(Self {
            caller,
            mailbox,
            deliveries: VecDeque::new(),
            _runtime: runtime,
        })
    }

    /// Answers what has been asked.
    fn serve(&mut self) -> Result<()> {
        while self.mailbox.poll(&mut self.deliveries)? {}
        for delivery in self.deliveries.drain(..) {
            let Delivery::Request(mut inbound) = delivery else {
                continue;
            };
            let len = {
                let (payload, room) = inbound.parts();
                room[..payload.len()].copy_from_slice(payload);
                payload.len()
            };
            inbound.reply_written(len);
        }
        Ok(())
    }

    /// Makes one call, answers it, and reads the answer. Says whether it was there.
    fn turn(&mut self, request: &[u8], reply: &mut [u8]) -> Result<u32> {
        let mut call = self.caller.call_bytes(0, None, request)?;
        self.serve()?;
        let read = |answer: AnswerView<'_>| reply.copy_from_slice(answer.payload());
        match call.poll_answer(None, read) {
            Poll::Ready(read) => read.map(|()| 1).map_err(Into::into),
            Poll::Pending => Ok(0),
        }
    }

    /// Makes `inflight` calls, answers them, and takes in the answers. Says how many were answered.
    fn round(&mut self, request: &[u8], reply: &mut [u8], inflight: u32) -> Result<u32> {
        let encode = |room: &mut [u8]| Raw::encode(request, room);
        let timeout = Some(Duration::from_secs(30));
        let mut calls = [const { None }; 16];
        for call in &mut calls[..inflight as usize] {
            *call = Some(self.caller.call(0, timeout, encode)?);
        }
        self.serve()?;
        let mut answered = 0;
        for call in calls.iter_mut().flatten() {
            if let Poll::Ready(answer) = call.poll(None) {
                let answer = answer?;
                reply[..answer.payload().len()].copy_from_slice(answer.payload());
                answered += 1;
            }
        }
        Ok(answered)
    }
}

/// What callgrind counts, by name.
#[inline(never)]
fn budgeted(ends: &mut Ends, scenario: Scenario, request: &[u8], reply: &mut [u8]) -> Result<u32> {
    let mut answered = 0;
    while answered < CALLS {
        answered += match scenario {
            Scenario::Lean => ends.turn(request, reply)?,
            _ => ends.round(request, reply, scenario.inflight())?,
        };
    }
    Ok(answered)
}

struct Echo;

#[service]
impl Echo {
    #[method(raw, inplace)]
    fn echo(&mut self, request: &[u8], reply: &mut [u8]) -> usize {
        reply[..request.len()].copy_from_slice(request);
        request.len()
    }
}

/// Calls a service of another agent from a task on that service's arbiter.
fn run_actors(scenario: Scenario, rounds: u32) -> Result<()> {
    actix::System::new().block_on(async {
        let agent = |alias| {
            let agent = PeerAgent::builder().local().alias(alias);
            let agent = agent.limits(Limits::default().max_inflight(scenario.inflight() as usize));
            // Callgrind's clock is fast: nobody goes to sleep in a turn of the other.
            agent
                .polling(Polling::default().busy_poll(Duration::from_secs(10)))
                .start()
        };
        let (worker, driver) = (agent("worker").await?, agent("driver").await?);
        let (bring, brought) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let once = Mutex::new(Some((brought, tell)));
        let factory = move || {
            if let Some((brought, tell)) = once.lock().ok().and_then(|mut once| once.take()) {
                actix::spawn(async move {
                    if let Ok(echo) = brought.await {
                        let _ = tell.send(drive(&echo, scenario, rounds).await);
                    }
                });
            }
            Echo
        };
        worker.serve_with(factory).await?;
        let echo = driver.proxy::<Echo>("worker").await?;
        if echo.is_local() || bring.send(echo).is_err() {
            return Err("the service cannot be called over shared memory".into());
        }
        told.await?.map_err(Into::into)
    })
}

async fn drive(
    echo: &Proxy<Echo>,
    scenario: Scenario,
    rounds: u32,
) -> std::result::Result<(), String> {
    let (size, inflight) = (scenario.size(), scenario.inflight());
    let request = vec![7; size];
    let mut replies = VecDeque::with_capacity(inflight as usize);
    for _ in 0..rounds {
        for _ in 0..inflight {
            replies.push_back(match scenario {
                Scenario::ActorsBytes => echo.echo(&request),
                _ => echo.echo_with(|room| {
                    room[..size].fill(7);
                    size
                }),
            });
        }
        take_turns().await;
        for reply in replies.drain(..) {
            let is_same = |bytes: &[u8]| bytes.len() == size && bytes[size - 1] == 7;
            let is_same = match scenario {
                Scenario::ActorsBytes => reply.await.map(|bytes| is_same(&bytes)),
                _ => reply.lent().await.map(|bytes| is_same(&bytes)),
            };
            if !is_same.map_err(|error| error.to_string())? {
                return Err("what came back is not what was sent".to_owned());
            }
        }
    }
    Ok(())
}

/// Lets the arbiter's other tasks have one turn. (Tokio's `yield_now` waits until none of them
/// wants one.)
async fn take_turns() {
    let mut had_turn = false;
    poll_fn(|context| {
        if std::mem::replace(&mut had_turn, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn run(scenario: Scenario, rounds: u32) -> Result<()> {
    if scenario.is_whole() {
        run_actors(scenario, rounds)?;
        println!("done");
        return Ok(());
    }
    let mut ends = Ends::connect()?;
    let request = vec![7; scenario.size()];
    let mut reply = vec![0; scenario.size()];
    // The queue pairs greet each other, and regions are asked for, on the device's thread.
    let (mut answered, started) = (0, Instant::now());
    while answered < 100 {
        if started.elapsed() > Duration::from_secs(30) {
            return Err("the two ends do not hear of each other".into());
        }
        answered += ends.round(&request, &mut reply, scenario.inflight())?;
        thread::sleep(Duration::from_millis(1));
    }
    budgeted(&mut ends, scenario, &request, &mut reply)?;
    if reply != request {
        return Err("what came back is not what was sent".into());
    }
    println!("done");
    Ok(())
}

/// Instructions a call.
fn count(scenario: Scenario) -> Result<f64> {
    if !scenario.is_whole() {
        return Ok(total(scenario, 1)? / f64::from(CALLS));
    }
    let (rounds, fewer) = ROUNDS;
    let more = total(scenario, rounds)? - total(scenario, rounds - fewer)?;
    Ok(more / f64::from(fewer * scenario.inflight()))
}

/// Instructions of a run.
fn total(scenario: Scenario, rounds: u32) -> Result<f64> {
    let out = tempfile::NamedTempFile::new()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--fair-sched=yes"])
        .args(match scenario.is_whole() {
            true => &[][..],
            false => &["--collect-atstart=no", "--toggle-collect=budget::budgeted"],
        })
        .arg(format!("--callgrind-out-file={}", out.path().display()))
        .arg(std::env::current_exe()?)
        .args(["--scenario", &scenario.name()])
        .args(["--rounds", &rounds.to_string()])
        .stdout(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind: {error}; install Debian's package valgrind"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let profile = fs::read_to_string(out.path())?;
    let total = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals: "))
        .and_then(|total| total.trim().parse::<f64>().ok());
    match total {
        Some(total) if total > 0.0 => Ok(total),
        _ => Err("callgrind counted nothing".into()),
    }
}

/// The committed figure of a scenario.
fn committed(name: &str) -> Option<f64> {
    let text = fs::read_to_string(COMMITTED).ok()?;
    let line = text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(' ')
            .map(str::to_owned)
    })?;
    line.trim().parse().ok()
}

fn check(args: &Args) -> Result<()> {
    let mut figures = String::new();
    let mut over = Vec::new();
    println!(
        "{:>16} {:>12} {:>10} {:>8}",
        "scenario", "instructions", "committed", "change"
    );
    for &scenario in Scenario::value_variants() {
        let name = scenario.name();
        let counted = count(scenario)?;
        writeln!(figures, "{name} {counted:.0}")?;
        match committed(&name) {
            Some(budget) => {
                let change = counted / budget - 1.0;
                println!(
                    "{name:>16} {counted:>12.0} {budget:>10.0} {:>+7.1}%",
                    change * 100.0
                );
                if change > TOLERANCE {
                    over.push(name);
                }
            }
            None => println!("{name:>16} {counted:>12.0} {:>10} {:>8}", "-", "-"),
        }
    }
    if args.write {
        return Ok(fs::write(Path::new(COMMITTED), figures)?);
    }
    if over.is_empty() {
        return Ok(());
    }
    Err(format!(
        "more than {:.0} % over the budget: {}; if that is wanted, commit it with `cargo bench --bench budget -- --write`",
        TOLERANCE * 100.0,
        over.join(", ")
    )
    .into())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.scenario {
        Some(scenario) => run(scenario, args.rounds),
        None => check(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

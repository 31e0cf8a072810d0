//! Instructions a call: what a change costs where time is too noisy to tell.
//!
//!     cargo bench --bench budget [-- --write]
//!
//! Both ends of a channel over shared memory, on one thread, in turns: so that a call is the same instructions each
//! time. Valgrind's callgrind counts them, both sides together, from the call's start to the reply in its caller's hands;
//! a scenario that takes 3 % more than the figure in `benches/budget.txt` fails. `--write` puts today's figures there.
//!
//! Where copies are long callgrind counts each byte (`rep movsb`), so the 16 KiB tell how often they are copied.

#[macro_use]
#[path = "support/print.rs"]
mod print;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use slimerpc::channel::{
    AnswerView, ClientChannel, Delivery, Dialer, Geometry, Hosted, Mailbox, Memory, MemoryLimits,
    Patience,
};
use slimerpc::fabric::{self, RetryPolicy};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Calls that are counted.
const CALLS: u32 = 2000;
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
}

impl Scenario {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn size(self) -> usize {
        match self {
            Self::Lean | Self::Raw64 | Self::Raw64Pipelined => 64,
            Self::Raw16k => 16 << 10,
        }
    }

    fn inflight(self) -> u32 {
        match self {
            Self::Lean | Self::Raw64 | Self::Raw16k => 1,
            Self::Raw64Pipelined => 16,
        }
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
        let memory = Memory::new(device, MemoryLimits::default());
        let (geometry, retry) = (Geometry::new(32, 32 << 10)?, RetryPolicy::default());
        let hosted = Hosted {
            name: "Echo".to_owned(),
            stream_patience: Duration::from_secs(30),
        };
        let mut mailbox = Mailbox::new(memory.clone(), geometry.into(), retry, hosted)?;
        let dialer = Dialer::new(&memory, geometry, retry)?;
        let theirs = mailbox.accept("caller", 1, &dialer.endpoint())?;
        let runtime = tokio::runtime::Runtime::new()?;
        let patience = Patience {
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
            let Delivery::Request(inbound) = delivery else {
                continue;
            };
            let len = {
                let (payload, mut room) = (inbound.payload(), inbound.room());
                room[..payload.len()].copy_from_slice(&payload);
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
        let encode = |room: &mut [u8]| {
            room[..request.len()].copy_from_slice(request);
            Ok(request.len())
        };
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

fn run(scenario: Scenario) -> Result<()> {
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
    let out = tempfile::NamedTempFile::new()?;
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--fair-sched=yes",
            "--collect-atstart=no",
        ])
        .arg("--toggle-collect=budget::budgeted")
        .arg(format!("--callgrind-out-file={}", out.path().display()))
        .arg(std::env::current_exe()?)
        .args(["--scenario", &scenario.name()])
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
        Some(total) if total > 0.0 => Ok(total / f64::from(CALLS)),
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
        Some(scenario) => run(scenario),
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

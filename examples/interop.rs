//! Workers and drivers that work together with DLSlime's, in either direction, over RDMA devices.
//!
//!     interop worker-raw --ctrl URL --alias worker:0 --peer driver:0 --device rxe0
//!     interop driver-raw --ctrl URL --alias driver:0 --peer worker:0 --device rxe0
//!
//! Either side may be a Python process with DLSlime's `PeerAgent` instead. A worker serves until
//! SIGTERM. A driver checks everything that the two sides must agree on, says what it checked, and
//! fails at the first difference.

use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use slimerpc::channel::Profile;
use slimerpc::wire::Pickle;
use slimerpc::wire::pickle::{BigInt, Value};
use slimerpc_actors::{
    Limits, PeerAgent, Proxy, Reply, RpcError, ServedBy, Service, Share, Timeouts, service,
    wait_all,
};

type Error = Box<dyn std::error::Error>;

/// What Python's `ValueError` is here: the caller sees the name of the type and the text.
#[derive(Debug)]
struct ValueError(String);

/// The same for `TypeError`.
#[derive(Debug)]
struct TypeError(String);

impl Display for ValueError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Display for TypeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Default)]
struct RawWorker;

#[service(name = "Raw")]
impl RawWorker {
    /// Fails with what it was sent, read as latin-1.
    #[method(raw)]
    fn boom(&mut self, request: &[u8]) -> Result<Vec<u8>, ValueError> {
        let text: String = request.iter().map(|&byte| char::from(byte)).collect();
        Err(ValueError(format!("boom {text}")))
    }

    #[method(raw)]
    fn nothing(&mut self, _request: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    /// Milliseconds to sleep, then anything; gives all of it back.
    #[method(raw)]
    async fn sleepy(&mut self, request: &[u8]) -> Result<Vec<u8>, ValueError> {
        let Some(millis) = request.first_chunk() else {
            return Err(ValueError(
                "a request begins with four bytes of milliseconds".to_owned(),
            ));
        };
        tokio::time::sleep(Duration::from_millis(u32::from_le_bytes(*millis).into())).await;
        Ok(request.to_vec())
    }

    #[method(raw)]
    fn sum(&mut self, request: &[u8]) -> [u8; 8] {
        request
            .iter()
            .map(|&byte| u64::from(byte))
            .sum::<u64>()
            .to_le_bytes()
    }

    #[method(raw)]
    fn upper(&mut self, request: &[u8]) -> Vec<u8> {
        request.to_ascii_uppercase()
    }
}

#[derive(Default)]
struct TypedWorker;

#[service(name = "Typed", codec = "pickle")]
impl TypedWorker {
    #[method]
    fn add(&mut self, a: Value, b: Value) -> Result<Value, TypeError> {
        match (&a, &b) {
            (Value::Str(a), Value::Str(b)) => Ok(Value::Str(format!("{a}{b}"))),
            _ => arithmetic("+", &a, &b, |a, b| a + b, |a, b| a + b),
        }
    }

    #[method]
    fn echo(&mut self, x: Value) -> Value {
        x
    }

    #[method]
    fn fail(&mut self, msg: String) -> Result<(), ValueError> {
        Err(ValueError(msg))
    }

    #[method]
    fn mul(&mut self, a: Value, b: Value) -> Result<Value, TypeError> {
        arithmetic("*", &a, &b, |a, b| a * b, |a, b| a * b)
    }

    #[method]
    fn nothing(&mut self) {}

    #[method]
    async fn slow(&mut self, ms: u64) -> u64 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        ms
    }
}

/// What the methods of a mixed worker share.
#[derive(Default)]
struct Desk {
    is_busy: AtomicBool,
    noted: AtomicI64,
}

#[derive(Default)]
struct MixedWorker(Arc<Desk>);

impl Share for MixedWorker {
    type Shared = Desk;

    fn share(&self) -> Arc<Desk> {
        self.0.clone()
    }
}

#[service(name = "Mixed", codec = "pickle")]
impl MixedWorker {
    /// Has the worker for this long.
    #[method]
    fn busy(&mut self, ms: u64) -> u64 {
        self.0.is_busy.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(ms));
        self.0.is_busy.store(false, Ordering::SeqCst);
        ms
    }

    /// Whether it is busy; so only a method that runs beside the other can say yes.
    #[method(parallel)]
    fn health(desk: &Desk) -> bool {
        desk.is_busy.load(Ordering::SeqCst)
    }

    #[method(oneway)]
    fn note(&mut self, n: i64) {
        self.0.noted.fetch_add(n, Ordering::SeqCst);
    }

    #[method]
    fn noted(&mut self) -> i64 {
        self.0.noted.load(Ordering::SeqCst)
    }

    #[method(raw, inplace)]
    fn reverse(&mut self, request: &[u8], reply: &mut [u8]) -> usize {
        for (to, from) in reply.iter_mut().zip(request.iter().rev()) {
            *to = *from;
        }
        request.len()
    }
}

/// Python's arithmetic on ints of any size and floats.
fn arithmetic(
    operator: &str,
    a: &Value,
    b: &Value,
    ints: impl Fn(BigInt, BigInt) -> BigInt,
    floats: impl Fn(f64, f64) -> f64,
) -> Result<Value, TypeError> {
    if let (Some(a), Some(b)) = (a.to_int(), b.to_int()) {
        return Ok(ints(a, b).into());
    }
    match (a.to_float(), b.to_float()) {
        (Some(a), Some(b)) => Ok(Value::Float(floats(a, b))),
        _ => Err(TypeError(format!(
            "unsupported operand type(s) for {operator}: {a:?} and {b:?}"
        ))),
    }
}

#[derive(Parser)]
#[command(
    about = "A worker or driver that works together with DLSlime's, raw bytes or pickled values"
)]
struct Args {
    role: Role,
    /// URL of the NanoCtrl (or dlslime-ctrl) server
    #[arg(long, value_name = "URL")]
    ctrl: String,
    /// Our name
    #[arg(long)]
    alias: String,
    /// Name of the other side
    #[arg(long)]
    peer: String,
    /// Isolates jobs that share a server
    #[arg(long, default_value = "")]
    scope: String,
    /// RDMA device by name [default: the first usable one]
    #[arg(long)]
    device: Option<String>,
    /// Largest message in bytes, header included; equal on both sides
    #[arg(long, default_value_t = 2 << 20)]
    slot_size: usize,
    /// Calls in flight; equal on both sides
    #[arg(long, default_value_t = 16)]
    max_inflight: usize,
    /// Queue pairs over which messages are striped
    #[arg(long, default_value_t = 1)]
    qp_num: u32,
    /// A worker serves one request at a time, in its own loop
    #[arg(long)]
    once: bool,
    /// Do not connect: wait for the other side to do so
    #[arg(long)]
    passive: bool,
    /// Seconds for finding and connecting the other side, and for any one check
    #[arg(long, default_value_t = 120)]
    patience: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Serves boom, nothing, sleepy, sum and upper on bytes
    WorkerRaw,
    /// Serves add, echo, fail, mul, nothing and slow on pickled values
    WorkerTyped,
    /// Serves busy, health (parallel), note (oneway), noted and reverse (in place)
    WorkerMixed,
    /// Checks a raw worker
    DriverRaw,
    /// Checks a typed worker
    DriverTyped,
    /// Checks a mixed worker
    DriverMixed,
    /// Checks that the death of a raw worker, while it is called, is noticed
    DriverBereaved,
}

impl Args {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }

    async fn agent(&self) -> Result<PeerAgent, Error> {
        let mut agent = PeerAgent::builder()
            .nanoctrl(&self.ctrl)
            .alias(&self.alias)
            .scope(&self.scope)
            .limits(
                Limits::default()
                    .slot_size(self.slot_size)
                    .max_inflight(self.max_inflight),
            )
            .timeouts(Timeouts::default().connect_timeout(self.patience()));
        if let Some(device) = &self.device {
            agent = agent.device(device);
        }
        Ok(agent.start().await?)
    }

    /// The largest payload.
    fn limit(&self) -> usize {
        self.slot_size - 16
    }
}

async fn worker(args: &Args) -> Result<(), Error> {
    let agent = args.agent().await?;
    let serving = async {
        match args.role {
            Role::WorkerRaw => serve(args, &agent, RawWorker).await,
            Role::WorkerMixed => serve(args, &agent, MixedWorker::default()).await,
            _ => serve(args, &agent, TypedWorker).await,
        }
    };
    let connecting = async {
        if args.passive {
            return;
        }
        // The driver may come any time later.
        let connect = agent.connect_to(&args.peer).qp_num(args.qp_num);
        match connect.timeout(Duration::from_secs(86_400)).await {
            Ok(()) => println!("connected with {}", args.peer),
            Err(error) => eprintln!("interop: {error}"),
        }
    };
    tokio::select! {
        ended = terminated() => ended?,
        (failed, ()) = async { tokio::join!(serving, connecting) } => failed?,
    }
    Ok(agent.shutdown().await?)
}

/// Serves as long as it is polled.
async fn serve<S>(args: &Args, agent: &PeerAgent, mut state: S) -> Result<(), Error>
where
    S: ServedBy<S> + Send,
{
    println!("{} serves {} on {}", agent.alias(), S::NAME, agent.device());
    if args.once {
        loop {
            agent.serve_once(&mut state).await?;
        }
    }
    agent.serve(state).await?;
    std::future::pending().await
}

async fn terminated() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

async fn driver(args: &Args) -> Result<(), Error> {
    let agent = args.agent().await?;
    if !args.passive {
        agent.connect_to(&args.peer).qp_num(args.qp_num).await?;
    }
    let checked = match args.role {
        Role::DriverRaw => check_raw(args, &agent.proxy(&args.peer).await?).await,
        Role::DriverBereaved => check_death(args, &agent.proxy(&args.peer).await?).await,
        Role::DriverMixed => check_mixed(args, &agent.proxy(&args.peer).await?).await,
        _ => check_typed(args, &agent.proxy(&args.peer).await?).await,
    };
    agent.shutdown().await?;
    checked
}

/// Calls until the worker dies, which somebody else sees to.
async fn check_death(args: &Args, worker: &Proxy<RawWorker>) -> Result<(), Error> {
    same(
        "upper",
        soon(args, worker.upper(b"alive")).await?,
        b"ALIVE".to_vec(),
    )?;
    let never = [&u32::MAX.to_le_bytes()[..], b"rest"].concat();
    let pending = worker.sleepy(&never);
    println!("called; it may die now");
    let started = Instant::now();
    match soon(args, pending).await {
        Err(error @ RpcError::PeerLost { .. }) => {
            println!("{error}: {:.1?} after the call", started.elapsed());
            Ok(())
        }
        Err(error) => Err(error.into()),
        Ok(_) => Err("it answered".into()),
    }
}

async fn check_raw(args: &Args, worker: &Proxy<RawWorker>) -> Result<(), Error> {
    let sizes = [0, 1, 4095, 4096, 4097, 1 << 20, args.limit()];
    for size in sizes.into_iter().filter(|size| *size <= args.limit()) {
        let bytes: Vec<u8> = (0..size).map(|at| (at * 7 + at / 256) as u8).collect();
        let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
        let started = Instant::now();
        same(
            "sum",
            soon(args, worker.sum(&bytes)).await?,
            sum.to_le_bytes().to_vec(),
        )?;
        same(
            "upper",
            soon(args, worker.upper(&bytes)).await?,
            bytes.to_ascii_uppercase(),
        )?;
        println!(
            "{size} bytes: sum and upper agree ({:.0?})",
            started.elapsed()
        );
    }
    let over = soon(args, worker.upper(&vec![b'x'; args.limit() + 1])).await;
    one_too_many(over, vec![b'X'; args.limit() + 1], args, worker)?;

    raises(
        "boom",
        soon(args, worker.boom(b"\xe9t\xe9")).await,
        "ValueError",
        "boom été",
    )?;
    same(
        "nothing",
        soon(args, worker.nothing(b"x")).await?,
        Vec::new(),
    )?;

    let sleepy = |millis: u32| [&millis.to_le_bytes()[..], b"rest"].concat();
    late(
        worker
            .sleepy(&sleepy(1500))
            .timeout(Duration::from_millis(300))
            .await,
    )?;
    same(
        "sleepy",
        soon(args, worker.sleepy(&sleepy(10))).await?,
        sleepy(10),
    )?;

    let started = Instant::now();
    let many = (0..1000_u32).map(|at| worker.upper(format!("call {at}").as_bytes()));
    let answers = wait_all(many, args.patience()).await?;
    for (at, answer) in answers.into_iter().enumerate() {
        same("one of 1,000", answer, format!("CALL {at}").into_bytes())?;
    }
    println!(
        "1,000 calls at once came back in order ({:.1?})",
        started.elapsed()
    );
    Ok(())
}

async fn check_typed(args: &Args, worker: &Proxy<TypedWorker>) -> Result<(), Error> {
    let int = |text: &str| -> Value { text.parse::<BigInt>().unwrap_or_default().into() };
    let text = |text: &str| Value::Str(text.to_owned());
    for (a, b, sum) in [
        (int("1"), int("2"), int("3")),
        (
            int("9223372036854775807"),
            int("1"),
            int("9223372036854775808"),
        ),
        (
            int("-1180591620717411303424"),
            int("-1"),
            int("-1180591620717411303425"),
        ),
        (Value::Float(1.5), int("2"), Value::Float(3.5)),
        (text("slime "), text("été"), text("slime été")),
    ] {
        same("add", soon(args, worker.add(a, b)).await?, sum)?;
    }
    let product = soon(args, worker.mul(int("4294967296"), int("4294967296"))).await?;
    same("mul", product, int("18446744073709551616"))?;
    let shared = Value::List(vec![int("1"), Value::None, Value::Bool(true)]);
    let nested = Value::Dict(vec![
        (text("list"), shared.clone()),
        (
            text("again"),
            Value::Tuple(vec![shared, Value::Tuple(Vec::new())]),
        ),
        (int("7"), Value::Bytes(vec![0, 255])),
        (text("float"), Value::Float(-0.1)),
    ]);
    same(
        "echo",
        soon(args, worker.echo(nested.clone())).await?,
        nested,
    )?;
    println!("values agree");

    let overhead = Pickle::encode(&(text(&"x".repeat(65_536)),), &mut vec![0; 70_000])? - 65_536;
    let sizes = [0, 1, 4095, 4096, 4097, 1 << 20, args.limit() - overhead];
    for size in sizes
        .into_iter()
        .filter(|size| size + overhead <= args.limit())
    {
        let started = Instant::now();
        let value = text(&"x".repeat(size));
        same("echo", soon(args, worker.echo(value.clone())).await?, value)?;
        println!("{size} characters: echo agrees ({:.0?})", started.elapsed());
    }
    let long = text(&"x".repeat(args.limit() - overhead + 1));
    let over = soon(args, worker.echo(long.clone())).await;
    one_too_many(over, long, args, worker)?;

    raises(
        "fail",
        soon(args, worker.fail("été".into())).await,
        "ValueError",
        "été",
    )?;
    soon(args, worker.nothing()).await?;
    late(worker.slow(1500).timeout(Duration::from_millis(300)).await)?;
    soon(args, worker.slow(10)).await?;

    let started = Instant::now();
    let many = (0..1000_i64).map(|at| worker.add(at.into(), 1_i64.into()));
    let answers = wait_all(many, args.patience()).await?;
    for (at, answer) in (0..).zip(answers) {
        same("one of 1,000", answer, Value::from(at + 1_i64))?;
    }
    println!(
        "1,000 calls at once came back in order ({:.1?})",
        started.elapsed()
    );
    Ok(())
}

async fn check_mixed(args: &Args, worker: &Proxy<MixedWorker>) -> Result<(), Error> {
    let busy = worker.busy(3000);
    let (mut asked, started) = (0, Instant::now());
    while !soon(args, worker.health()).await? {
        asked += 1;
        if started.elapsed() > args.patience() {
            return Err("health never answered while the worker was busy".into());
        }
    }
    println!(
        "health answered beside a busy method, at call {}",
        asked + 1
    );
    same("busy", soon(args, busy).await?, 3000)?;

    for n in 1..=10 {
        worker.note(n).await?;
    }
    while soon(args, worker.noted()).await? != 55 {
        if started.elapsed() > args.patience() {
            return Err("what was told did not arrive".into());
        }
    }
    println!("10 oneway calls arrived, once each");

    for size in [0, 1, 4097, args.limit()] {
        let bytes: Vec<u8> = (0..size).map(|at| (at * 7) as u8).collect();
        let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
        let reply = worker.reverse_with(|room| {
            room[..size].copy_from_slice(&bytes);
            size
        });
        same("reverse", soon(args, reply).await?, reversed)?;
        println!("{size} bytes: reversed in place");
    }
    Ok(())
}

async fn soon<T>(args: &Args, reply: Reply<T>) -> Result<T, RpcError> {
    reply.timeout(args.patience()).await
}

fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    let short = |value: &T| format!("{value:?}").chars().take(200).collect::<String>();
    Err(format!(
        "{what}: expected {}, found {}",
        short(&expected),
        short(&found)
    )
    .into())
}

/// What does not fit a slot: DLSlime's peers cannot be sent it, ours fetch it.
fn one_too_many<T: PartialEq + Debug, S: Service>(
    over: Result<T, RpcError>,
    expected: T,
    args: &Args,
    worker: &Proxy<S>,
) -> Result<(), Error> {
    let native = worker
        .channel()
        .is_some_and(|channel| channel.profile() == Profile::Native);
    match over {
        Err(RpcError::TooLarge { size, limit })
            if !native && size == limit + 1 && limit == args.limit() =>
        {
            println!("{size} bytes are refused: {limit} is the limit");
            Ok(())
        }
        Ok(found) if native => {
            same("one byte more than a slot holds", found, expected)?;
            println!("one byte more than a slot holds is fetched");
            Ok(())
        }
        Ok(_) => Err("one byte too many: expected TooLarge, found an answer".into()),
        Err(error) => Err(format!("one byte too many: {error}").into()),
    }
}

fn raises<T>(what: &str, found: Result<T, RpcError>, type_: &str, text: &str) -> Result<(), Error> {
    match found {
        Err(RpcError::Remote {
            type_name, message, ..
        }) if type_name == type_ && message == text => {
            println!("{what} raised {type_name}: {message}");
            Ok(())
        }
        Err(error) => Err(format!("{what}: expected {type_}: {text}, found {error:?}").into()),
        Ok(_) => Err(format!("{what}: expected {type_}: {text}, found an answer").into()),
    }
}

fn late<T>(found: Result<T, RpcError>) -> Result<(), Error> {
    match found {
        Err(RpcError::Timeout { .. }) => {
            println!("a slow call timed out");
            Ok(())
        }
        Err(error) => Err(format!("a slow call: expected Timeout, found {error}").into()),
        Ok(_) => Err("a slow call: expected Timeout, found an answer".into()),
    }
}

#[actix::main]
async fn main() -> std::process::ExitCode {
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    let result = match args.role {
        Role::WorkerRaw | Role::WorkerTyped | Role::WorkerMixed => worker(&args).await,
        Role::DriverRaw | Role::DriverTyped | Role::DriverMixed | Role::DriverBereaved => {
            driver(&args).await
        }
    };
    match result {
        Ok(()) => {
            println!("ok");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("interop: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

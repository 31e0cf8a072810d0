//! A driver calls a service actor.
//!
//! Both roles in this process, nothing installed:
//!
//!     cargo run --release --example calc
//!
//! Or two processes of one user on one host, nothing installed either:
//!
//!     cargo run --release --example calc -- --role worker --ctrl host
//!     cargo run --release --example calc -- --role driver --ctrl host
//!
//! Or on any hosts, which find each other through NanoCtrl (`nanoctrl start`):
//!
//!     cargo run --release --example calc -- --role worker --ctrl http://127.0.0.1:3000
//!     cargo run --release --example calc -- --role driver --ctrl http://127.0.0.1:3000

use std::time::Duration;

use clap::{Parser, ValueEnum};
use slimerpc_actors::{Builder, Limits, PeerAgent, service, wait_all};

#[derive(Default)]
struct CalcService {
    /// Milliseconds that every call takes.
    slow: u64,
}

#[service]
impl CalcService {
    #[method]
    async fn add(&mut self, a: i64, b: i64) -> i64 {
        if self.slow > 0 {
            tokio::time::sleep(Duration::from_millis(self.slow)).await;
        }
        a + b
    }

    #[method]
    fn echo(&mut self, text: String) -> String {
        format!("echo: {text}")
    }

    #[method]
    fn mul(&mut self, a: f64, b: f64) -> f64 {
        a * b
    }
}

type Error = Box<dyn std::error::Error>;

/// Calls `CalcService` on a worker.
#[allow(clippy::approx_constant)]
async fn drive(driver: &PeerAgent, worker: &str) -> Result<(), Error> {
    let calc = driver.proxy::<CalcService>(worker).await?;
    println!("add(1, 2) = {}", calc.add(1, 2).await?);
    println!("mul(3.14, 2) = {}", calc.mul(3.14, 2.0).await?);
    println!("echo(\"hello\") = {:?}", calc.echo("hello".into()).await?);

    // Calls are made at once, not when they are awaited: these five are in flight together.
    let batch = (0..5).map(|i| calc.add(i, 10 * i));
    let sums = wait_all(batch, Duration::from_secs(60)).await?;
    println!("batch = {sums:?}");
    println!("ok");
    Ok(())
}

#[derive(Parser)]
#[command(
    about = "A driver calls a service actor; without arguments both roles run in this process"
)]
struct Args {
    /// Run one role only; needs --ctrl
    #[arg(long, requires = "ctrl")]
    role: Option<Role>,
    /// Where they find each other: URL of a NanoCtrl server, or `host` for processes of this user
    #[arg(long, value_name = "URL|host")]
    ctrl: Option<String>,
    /// Our name [default: worker:0 or driver:0]
    #[arg(long)]
    alias: Option<String>,
    /// Name of the worker to call
    #[arg(long, default_value = "worker:0")]
    peer: String,
    /// Isolates jobs that share --ctrl
    #[arg(long, default_value = "")]
    scope: String,
    /// Device by name; shm0 is shared memory [default: chosen]
    #[arg(long)]
    device: Option<String>,
    /// Largest message in bytes, header included; equal on both sides
    #[arg(long, default_value_t = 32 * 1024)]
    slot_size: usize,
    /// Calls in flight; equal on both sides
    #[arg(long, default_value_t = 16)]
    max_inflight: usize,
    /// Queue pairs of the connection
    #[arg(long, default_value_t = 1)]
    qp_num: u32,
    /// Worker: make every add take this long, in milliseconds
    #[arg(long, default_value_t = 0)]
    slow: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Worker,
    Driver,
}

impl Args {
    fn agent(&self, alias: &str) -> Builder {
        let mut agent = PeerAgent::builder()
            .alias(self.alias.as_deref().unwrap_or(alias))
            .scope(&self.scope)
            .limits(
                Limits::default()
                    .slot_size(self.slot_size)
                    .max_inflight(self.max_inflight),
            );
        if let Some(control) = &self.ctrl {
            agent = agent.control(control);
        }
        if let Some(device) = &self.device {
            agent = agent.device(device);
        }
        agent
    }
}

async fn worker(args: &Args) -> Result<(), Error> {
    let agent = args.agent("worker:0").start().await?;
    let _calc = agent.serve(CalcService { slow: args.slow }).await?;
    println!("{} serves CalcService; Ctrl-C ends it", agent.alias());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Ok(agent.shutdown().await?)
}

async fn driver(args: &Args) -> Result<(), Error> {
    let agent = args.agent("driver:0").start().await?;
    agent.connect_to(&args.peer).qp_num(args.qp_num).await?;
    let driven = drive(&agent, &args.peer).await;
    agent.shutdown().await?;
    driven
}

async fn both() -> Result<(), Error> {
    let worker = PeerAgent::builder().alias("worker:0").start().await?;
    let _calc = worker.serve(CalcService::default()).await?;
    let driver = PeerAgent::builder().alias("driver:0").start().await?;
    drive(&driver, worker.alias()).await?;
    driver.shutdown().await?;
    Ok(worker.shutdown().await?)
}

#[actix::main]
async fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let result = match args.role {
        None => both().await,
        Some(Role::Worker) => worker(&args).await,
        Some(Role::Driver) => driver(&args).await,
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("calc: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

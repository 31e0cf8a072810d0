//! The driver: trains the network, has it run by workers, and keeps the books.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use actix::{Actor, Addr};
use slimerpc_actors::PeerAgent;

use crate::account::{Account, Run};
use crate::args::{self, Args};
use crate::digits::{Digits, Network, Schedule};
use crate::load::{Batch, Load};
use crate::processes::{self, Interrupt, Progress};
use crate::router::{Drain, Fleet, Report, Router, Settle};
use crate::runner::weights_message;

const SEED: u64 = 1998;
/// Enough to read nine of ten digits by hands that it has never seen, in half a second.
const SCHEDULE: Schedule = Schedule {
    epochs: 15,
    batch: 32,
    learning_rate: 0.2,
    seed: SEED,
};
/// Clients for each worker: one request is being answered while the next arrives.
const CLIENTS: u32 = 2;

type Error = Box<dyn std::error::Error>;

/// Runs everything; whatever it started has ended when this returns.
pub(crate) async fn run(args: &Args) -> Result<ExitCode, Error> {
    let interrupt = Interrupt::listen("answering what is in flight")?;
    let account = drive(args, &interrupt).await?;
    print!("{account}");
    Ok(if interrupt.is_asked() {
        ExitCode::from(processes::STATUS)
    } else if account.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Trains the network, and gives the images that it has not seen.
fn learn(args: &Args) -> Result<(Digits, Network), Error> {
    let (seen, unseen) = Digits::load()?;
    let mut network = Network::new(args.neurons as usize, SEED)?;
    let started = Instant::now();
    network.train(&seen, &SCHEDULE);
    eprintln!(
        "trained {} weights on {} images in {:.1?}",
        network.len(),
        seen.len(),
        started.elapsed()
    );
    Ok((unseen, network))
}

/// The same with a control plane.
async fn drive(args: &Args, interrupt: &Interrupt) -> Result<Account, Error> {
    // So that two of these can use one control plane.
    let scope = format!("model-runner-{}", std::process::id());
    let device = args.device.as_deref();
    let agent = args::agent("driver", &args.ctrl, &scope, device)
        .start()
        .await?;
    let (digits, network) = learn(args)?;
    let fleet = fleet(args, &scope, &network, agent.clone())?;
    let router = Router::new(fleet, args.workers, SEED).start();
    let load = Load {
        router: router.clone(),
        batches: Batch::all(&digits, args.batch as usize, &network),
        clients: (CLIENTS * args.workers) as usize,
        requests: args.requests,
        interrupt: interrupt.clone(),
    };
    let runs = all_runs(args, &load, &router).await;
    router.send(Drain).await?;
    if let Err(error) = agent.shutdown().await {
        // The account is worth more than a clean control plane.
        eprintln!("model_runner: {error}");
    }
    Ok(Account(runs?))
}

fn fleet(args: &Args, scope: &str, network: &Network, agent: PeerAgent) -> Result<Fleet, Error> {
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?,
    };
    Ok(Fleet {
        agent,
        program,
        words: words(&args.ctrl, scope, args.device.as_deref()),
        weights: weights_message(args.neurons, network),
        weight_count: network.len() as u64,
    })
}

/// What a worker is started with, but for its alias.
fn words(ctrl: &str, scope: &str, device: Option<&str>) -> Vec<OsString> {
    let mut words = vec!["worker", "--ctrl", ctrl, "--scope", scope];
    if let Some(device) = device {
        words.extend(["--device", device]);
    }
    words.into_iter().map(OsString::from).collect()
}

/// One without kills, and one with, if there are to be some.
async fn all_runs(args: &Args, load: &Load, router: &Addr<Router>) -> Result<Vec<Run>, Error> {
    let mut runs = Vec::new();
    let kills = [Some(None), args.kill_every.map(Some)];
    for kill_every in kills.into_iter().flatten() {
        if !settle(load, router).await? {
            break;
        }
        let name = match kill_every {
            None => "without kills",
            Some(_) => "with kills",
        };
        let progress = Progress::new(name, args.requests);
        let figures = load.run(kill_every, &progress).await;
        drop(progress);
        // So that who was killed last is back, and counted; if nobody is, that stands in the
        // account.
        let _ = settle(load, router).await;
        let tally = router.send(Report).await?;
        runs.push(Run {
            name,
            figures,
            tally,
        });
    }
    Ok(runs)
}

/// Waits until every worker is up or given up. False if there was an interrupt first.
async fn settle(load: &Load, router: &Addr<Router>) -> Result<bool, Error> {
    tokio::select! {
        settled = router.send(Settle) => settled?.map(|()| true).map_err(Error::from),
        () = load.interrupt.asked() => Ok(false),
    }
}

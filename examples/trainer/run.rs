//! Everything together: the training in this process, the same with workers, and the account of
//! both.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use actix::Actor;
use slimerpc_actors::{PeerAgent, Rights};

use crate::account::{Account, Run};
use crate::alone;
use crate::args::{self, Args, Mode};
use crate::digits::{Digits, Network};
use crate::driver::{Dismiss, Driver, Fleet};
use crate::figures::{Diverges, Trained};
use crate::plan::Plan;
use crate::plot::Plot;
use crate::processes::{self, Interrupt, Progress};
use crate::training::Training;
use crate::vector::NUMBER;

const SEED: u64 = 1998;
/// Exit status of a command line that makes no sense, as clap has it.
const USAGE: u8 = 2;

type Error = Box<dyn std::error::Error>;

/// What both trainings have in common.
struct Task {
    args: Args,
    seen: Digits,
    unseen: Digits,
    plan: Plan,
    /// Untrained.
    network: Network,
    interrupt: Interrupt,
}

/// Runs everything; whatever it started has ended when this returns.
pub(crate) async fn run(args: Args) -> Result<ExitCode, Error> {
    let (seen, unseen) = Digits::load()?;
    let plan = match plan(&args, &seen) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("trainer: {error}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let plot = args.plot.as_deref().map(Plot::to).transpose()?;
    let task = Arc::new(Task {
        network: Network::new(args.hidden as usize, SEED)?,
        interrupt: Interrupt::listen("finishing the step")?,
        args,
        seen,
        unseen,
        plan,
    });
    let runs = drive(&task).await?;
    if task.interrupt.is_asked() {
        return Ok(ExitCode::from(processes::STATUS));
    }
    conclude(&task, runs, plot)
}

fn plan(args: &Args, seen: &Digits) -> Result<Plan, crate::plan::PlanError> {
    let [workers, batch, epochs] =
        [args.workers, args.batch, args.epochs].map(|number| number as usize);
    let plan = Plan::new(seen.len() as u16, workers, batch, epochs, SEED)?;
    match args.kill_worker_at {
        Some(step) => plan.check(step as usize).map(|()| plan),
        None => Ok(plan),
    }
}

/// Both trainings, with a control plane. Fewer if there was an interrupt.
async fn drive(task: &Arc<Task>) -> Result<Vec<(String, Trained)>, Error> {
    // So that two of these can use one control plane.
    let scope = format!("trainer-{}", std::process::id());
    let Args {
        ctrl,
        device,
        hidden,
        ..
    } = &task.args;
    let device = device.as_deref();
    let agent = args::agent("driver", ctrl, &scope, device, *hidden);
    let agent = agent.start().await?;
    let trained = train(task, &scope, &agent).await;
    if let Err(error) = agent.shutdown().await {
        // What was learnt is worth more than a clean control plane.
        eprintln!("trainer: {error}");
    }
    trained
}

async fn train(
    task: &Arc<Task>,
    scope: &str,
    agent: &PeerAgent,
) -> Result<Vec<(String, Trained)>, Error> {
    let mut runs = Vec::new();
    let Args { workers, mode, .. } = &task.args;
    runs.push(("in process".to_owned(), train_alone(task.clone()).await??));
    if !task.interrupt.is_asked() {
        let fleet = Fleet {
            agent: agent.clone(),
            program: std::env::current_exe()?,
            words: words(task, scope),
        };
        let driver = Driver::new(fleet, *workers as usize).start();
        let training = Training {
            plan: &task.plan,
            mode: *mode,
            rate: task.args.rate(),
            kill_at: task.args.kill_worker_at.map(|step| step as usize - 1),
            driver: driver.clone(),
            weights: task.network.parts().concat(),
            offered: agent.allocate(NUMBER * task.network.len(), Rights::Read)?,
            interrupt: &task.interrupt,
            kept: 0,
            round: 0,
        };
        let name = match mode {
            Mode::Driver => "through the driver",
            Mode::Ring => "in a ring",
        };
        let progress = Progress::new(name, task.plan.steps().len() as u32);
        let trained = training.run(&progress).await;
        drop(progress);
        driver.send(Dismiss).await?;
        runs.push((name.to_owned(), trained?));
    }
    Ok(runs)
}

/// On a thread of its own, so that Ctrl-C is heard meanwhile.
async fn train_alone(task: Arc<Task>) -> Result<Result<Trained, Diverges>, tokio::task::JoinError> {
    tokio::task::spawn_blocking(move || {
        let progress = Progress::new("in process", task.plan.steps().len() as u32);
        let (network, rate, mode) = (task.network.clone(), task.args.rate(), task.args.mode);
        let (plan, interrupt) = (&task.plan, &task.interrupt);
        alone::train(network, &task.seen, plan, rate, mode, interrupt, &progress)
    })
    .await
}

/// What a worker is started with, but for its alias.
fn words(task: &Task, scope: &str) -> Vec<OsString> {
    let hidden = task.args.hidden.to_string();
    let mut words = vec!["worker", "--ctrl", &task.args.ctrl, "--scope", scope];
    words.extend(["--hidden", &hidden]);
    if let Some(device) = &task.args.device {
        words.extend(["--device", device]);
    }
    words.into_iter().map(OsString::from).collect()
}

/// Tries what was learnt, and prints and draws it.
fn conclude(
    task: &Task,
    runs: Vec<(String, Trained)>,
    plot: Option<Plot>,
) -> Result<ExitCode, Error> {
    let runs = runs
        .into_iter()
        .map(|(name, trained)| Run::new(name, trained, task.network.clone(), &task.unseen));
    let account = Account(runs.collect());
    print!("{account}");
    if let (Some(plot), Some(run)) = (plot, account.0.last()) {
        let title = format!(
            "{} weights, {} workers",
            task.network.len(),
            task.args.workers
        );
        let killed = task.args.kill_worker_at.map(|step| step as usize - 1);
        plot.draw(&title, &run.figures().steps, killed)?;
    }
    Ok(match account.is_equal() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

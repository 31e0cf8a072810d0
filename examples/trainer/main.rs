//! What an actor-based trainer looks like: data-parallel training of a network that reads
//! handwritten digits.
//!
//!     cargo run --release --example trainer -- --workers 2 --kill-worker-at 20 --plot loss.svg
//!
//! Each worker process serves a [`TrainWorker`](train_worker::TrainWorker) actor. In a step it
//! computes the gradient of its part of a batch; what becomes of the gradients, `--mode` says:
//!
//! - `driver`: the driver sums them and goes down the sum. It offers the weights as an
//!   `RdmaBuffer`, from which the workers read them one-sided when the order for the next step,
//!   sent to their `Group`, tells them to; gradients come back as raw f32, written where they are
//!   sent from, and are summed where they arrive.
//! - `ring`: the workers sum them among themselves, an all-reduce in which each calls the next, and
//!   all go down the sum. The driver keeps the weights of the last epoch, to which all go back when
//!   a worker is lost.
//!
//! Both sum in an order that does not depend on who is first, so the weights are in the end the
//! same to the bit in each run, whether workers died or not; and the same as if one process had
//! done it all, which is tried as well.
//!
//! | file | holds |
//! | --- | --- |
//! | `args` | the command line |
//! | `train_worker`, `ring`, `report`, `worker` | the service, its part in the all-reduce, what it says of a step, and the process that serves it |
//! | `plan`, `vector` | whose images are whose, in which step; sums in their order |
//! | `driver` | an actor that starts the workers, and starts them again |
//! | `training`, `alone` | the steps, with workers and without |
//! | `run`, `figures`, `account`, `plot` | all together; what it took; the table and the loss curve |
//! | `../processes` | what it shares with `model_runner`: processes, a NanoCtrl of our own, Ctrl-C, progress |

mod account;
mod alone;
mod args;
#[allow(dead_code, unused_imports, reason = "it trains by itself, too")]
#[path = "../digits/mod.rs"]
mod digits;
mod driver;
mod figures;
mod plan;
mod plot;
#[path = "../processes/mod.rs"]
mod processes;
mod report;
mod ring;
mod run;
mod train_worker;
mod training;
mod vector;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Role};

#[actix::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Role::Worker(args)) = &args.role {
        return worker::run(args).await;
    }
    match run::run(args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("trainer: {error}");
            ExitCode::FAILURE
        }
    }
}

//! The supervisor that users of this crate write: worker processes that run a model, and a router that keeps them at it.
//!
//!     cargo run --release --example model_runner -- --workers 4 --requests 2000 --kill-every 500ms
//!
//! A driver trains a small network on the UCI handwritten digits and starts worker processes, each of which serves a
//! [`ModelRunner`](runner::ModelRunner) actor. A [`Router`](router::Router), an actix actor like any other, hands each
//! request to the worker that has the least to do, starts workers that died again, and sends requests again that they
//! took with them. In the end there is an account.
//!
//! | file | holds |
//! | --- | --- |
//! | `args` | the command line |
//! | `runner`, `worker` | the service, and the process that serves it |
//! | `process`, `restarts` | a worker as its parent sees it; when to start it again, and when not any more |
//! | `router`, `resend` | balances, supervises; what may be sent a second time |
//! | `driver`, `load`, `account`, `progress` | who sends the requests and keeps the books |
//! | `control`, `interrupt` | a NanoCtrl of our own, if none is named; Ctrl-C |

mod account;
mod args;
mod control;
#[path = "../digits/mod.rs"]
mod digits;
mod driver;
mod interrupt;
mod load;
mod process;
mod progress;
mod resend;
mod restarts;
mod router;
mod runner;
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
    match driver::run(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("model_runner: {error}");
            ExitCode::FAILURE
        }
    }
}

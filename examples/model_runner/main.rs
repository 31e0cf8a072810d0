//! The supervisor that users of this crate write: worker processes that run a model, and a router
//! that keeps them at it.
//!
//!     cargo run --release --example model_runner -- --workers 4 --requests 2000 --kill-every 500ms
//!
//! A driver trains a small network on the UCI handwritten digits and starts worker processes, each
//! of which serves a [`ModelRunner`](runner::ModelRunner) actor. A [`Router`](router::Router), an
//! actix actor like any other, hands each request to the worker that has the least to do, starts
//! workers that died again, and sends requests again that they took with them. In the end there is
//! an account.
//!
//! | file | holds |
//! | --- | --- |
//! | `args` | the command line |
//! | `runner`, `worker` | the service, and the process that serves it |
//! | `router`, `resend` | balances, supervises; what may be sent a second time |
//! | `driver`, `load`, `account` | who sends the requests and keeps the books |
//! | `../processes` | a worker as its parent sees it; when to start it again, and when not any more; a NanoCtrl of our own, if none is named; Ctrl-C; progress |

mod account;
mod args;
#[path = "../digits/mod.rs"]
mod digits;
mod driver;
mod load;
#[path = "../processes/mod.rs"]
mod processes;
mod resend;
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

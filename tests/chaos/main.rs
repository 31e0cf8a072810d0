//! What remains true when processes are killed, stopped and restarted, peers and control plane
//! alike: `cargo test --test chaos -- --help`.
//!
//! A runner (`runner`) gives each case (`cases`) a process of its own, in which the case sets up
//! its stage (`stage`): a NanoCtrl server, a Redis, and processes that are this program in another
//! role (`worker`, `driver`). All of them write down which calls they make and run (`journal`), and
//! at the end the account (`account`) is taken. The soak (`soak`) does that with everything at
//! once.

mod account;
mod args;
mod cases;
mod clock;
mod driver;
mod events;
mod host;
mod journal;
mod leash;
mod limits;
mod link;
mod load;
mod measure;
mod outcome;
mod process;
mod runner;
mod soak;
mod stage;
mod table;
mod target;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Role};

/// Why a process in one of the roles cannot go on.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.role {
        None if args.list => runner::list(),
        None if args.soak => soak::run(&args),
        None => runner::run(&args),
        Some(Role::Case(case)) => cases::run(case),
        Some(Role::Worker(role)) => live(worker::run(role)),
        Some(Role::Driver(role)) => live(driver::run(role)),
    }
}

fn live(role: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    match actix::System::new().block_on(role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", std::process::id());
            ExitCode::FAILURE
        }
    }
}

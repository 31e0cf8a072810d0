//! What the benches share: a second process of themselves, a NanoCtrl server, figures, and the file
//! they go to.
#![allow(dead_code, unused_imports)] // no bench uses all of it

#[macro_use]
mod print;

mod figures;
pub(crate) mod footprint;
mod nanoctrl;
mod peer;
pub(crate) mod record;
pub(crate) mod shared_lines;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) use figures::{Figures, pretty};
pub(crate) use nanoctrl::NanoCtrl;
pub(crate) use peer::{Peer, tie};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where agents of a bench find each other, if nothing else is asked for.
pub(crate) const HOST: &str = "host";

/// How long a process may say nothing while it is expected to.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Says what went wrong in words, on a line of its own.
pub(crate) fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}

//! What the benches share: a second process of themselves, a NanoCtrl server, and figures.
#![allow(dead_code)] // no bench uses all of it

mod figures;
pub(crate) mod footprint;
mod nanoctrl;
mod peer;

use std::error::Error;
use std::process::ExitCode;

pub(crate) use figures::{Figures, pretty};
pub(crate) use nanoctrl::NanoCtrl;
pub(crate) use peer::Peer;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

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

//! Processes of one job, for the examples that have some: a driver that starts workers, and starts
//! them again when they die.

mod interrupt;
mod leash;
mod process;
mod progress;
mod restarts;
mod table;

pub(crate) use interrupt::{Interrupt, STATUS};
pub(crate) use leash::{READY, say, watch_driver};
pub(crate) use process::{Output, Process, end_of, given_up};
pub(crate) use progress::Progress;
pub(crate) use restarts::Restarts;
pub(crate) use table::{Row, table};

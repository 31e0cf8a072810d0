//! What is done next, and when.

use std::time::Duration;

use super::SURVIVOR;
use super::chance::Chance;

/// Something that happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    KillWorker(usize),
    KillDriver(usize),
    StopWorker(usize, Duration),
    RestartNanoCtrl(Duration),
    RestartRedis(Duration),
}

/// Kills of workers are what most of it is about; an outage of the control plane is followed by seconds in which nobody new is
/// found.
pub(crate) fn next(chance: &mut Chance, workers: &[&str], drivers: &[&str]) -> (Duration, Deed) {
    let pause = chance.millis(100..1_500);
    let not_the_survivor = SURVIVOR + 1;
    let deed = match chance.of(0..20) {
        0..10 => Deed::KillWorker(chance.of(not_the_survivor..workers.len())),
        10..14 => Deed::StopWorker(chance.of(0..workers.len()), chance.millis(100..2_500)),
        14..18 => Deed::KillDriver(chance.of(not_the_survivor..drivers.len())),
        18 => Deed::RestartNanoCtrl(chance.millis(100..2_000)),
        _ => Deed::RestartRedis(chance.millis(100..2_000)),
    };
    (pause, deed)
}

//! What is done next, and when.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use super::SURVIVOR;

/// Something that happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disturbance {
    KillWorker(usize),
    KillDriver(usize),
    StopWorker(usize, Duration),
    RestartNanoCtrl(Duration),
    RestartRedis(Duration),
}

/// Kills of workers are what most of it is about; an outage of the control plane is followed by
/// seconds in which nobody new is found.
pub(crate) fn next(
    chance: &mut Rng,
    workers: &[&str],
    drivers: &[&str],
) -> (Duration, Disturbance) {
    let pause = millis(chance, 100..1_500);
    let not_the_survivor = SURVIVOR + 1;
    let disturbance = match chance.usize(0..20) {
        0..10 => Disturbance::KillWorker(chance.usize(not_the_survivor..workers.len())),
        10..14 => {
            Disturbance::StopWorker(chance.usize(0..workers.len()), millis(chance, 100..2_500))
        }
        14..18 => Disturbance::KillDriver(chance.usize(not_the_survivor..drivers.len())),
        18 => Disturbance::RestartNanoCtrl(millis(chance, 100..2_000)),
        _ => Disturbance::RestartRedis(millis(chance, 100..2_000)),
    };
    (pause, disturbance)
}

fn millis(chance: &mut Rng, range: Range<u64>) -> Duration {
    Duration::from_millis(chance.u64(range))
}

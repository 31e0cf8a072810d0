//! kill -9 of some of many drivers each second, while others take their places: the rest of them,
//! and their worker, go on.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::host::ProcessUsage;
use crate::measure::{self, Metric};
use crate::process::Process;
use crate::stage::Stage;

/// How many drivers there are at a time. A tenth of them dies each second.
const CALLERS: &str = "SLIME_CHAOS_CALLERS";
const FEW: usize = 10;
/// For how many seconds they die.
const SECONDS: &str = "SLIME_CHAOS_SECONDS";
const SOME: usize = 3;
const SECOND: Duration = Duration::from_secs(1);
/// What a process may come to hold once, whatever happens after. A leak would be several for each
/// that died.
const SLACK: usize = 4;
/// What the worker may hold for each that lives, need not hold from the beginning, and keeps for
/// those that come: a buffer for a payload that was read.
const OF_EACH: ProcessUsage = ProcessUsage {
    descriptors: 0,
    threads: 0,
    kib: 32,
    rings: 256,
};

fn number(name: &str, otherwise: usize) -> usize {
    let number = std::env::var(name).ok();
    number.map_or(otherwise, |text| {
        let number = text.parse().ok();
        number.unwrap_or_else(|| panic!("{name} is not a number: {text}"))
    })
}

/// How many times as long as others a case may take, as so many processes have to be started.
pub(crate) fn patience() -> u32 {
    let (callers, seconds) = (number(CALLERS, FEW), number(SECONDS, SOME));
    // To start a process takes up to a tenth of a second, and a tenth of them are started anew in
    // each round.
    1 + (callers / 50 + callers * seconds / 600 + seconds / 60) as u32
}

pub(crate) async fn run(stage: &Stage) {
    let limits = stage.limits;
    let (callers, rounds) = (number(CALLERS, FEW), number(SECONDS, SOME));
    // What they all need is patience: so many processes start at once.
    let patience = limits.anything * patience();
    let worker = stage.worker("worker").await;
    let (agent, target, _) = stage.caller("observer", "worker").await;
    target.lent().await.expect("the worker is there");
    let unused = ProcessUsage::by(worker.pid()).and(OF_EACH, callers);
    let start = move |number: usize| async move {
        let alias = format!("driver{number}");
        stage.calm_driver(&alias, &["worker"], patience).await
    };
    let dying = (callers / 10).max(1);
    let mut alive: Vec<(Process, u64)> = Vec::with_capacity(callers);
    while alive.len() < callers {
        let next = alive.len()..callers.min(alive.len() + dying);
        alive.extend(join_all(next.map(start)).await);
    }
    let before = ProcessUsage::by(worker.pid()).and(OF_EACH, callers);
    let (mut killed, mut slowest) = (Vec::new(), Duration::ZERO);
    for round in 1..=rounds {
        let began = Instant::now();
        let killing: Vec<_> = alive.drain(..dying).collect();
        for (mut driver, number) in killing {
            driver.kill();
            killed.push(number);
            // Nobody else is kept waiting for it.
            let asked = Instant::now();
            target.lent().await.expect("the worker is there");
            slowest = slowest.max(asked.elapsed());
        }
        let missing = callers - alive.len();
        let next = (0..missing).map(|place| start(round * callers + place));
        alive.extend(join_all(next).await);
        sleep(SECOND.saturating_sub(began.elapsed())).await;
    }
    assert!(slowest < limits.anything, "a call took {slowest:?}");
    let emptied = Instant::now();
    let is_clean = |now: &ProcessUsage| now.is_within(&before, SLACK);
    comes_to_hold(&worker, "no more than before", &before, is_clean, patience).await;
    measure::say(Metric::Cleaning, emptied.elapsed());
    let leaving = alive.into_iter().map(|(driver, _)| driver.leave(patience));
    join_all(leaving).await;
    let is_unused = |now: &ProcessUsage| now.holds_no_more(&unused, SLACK);
    comes_to_hold(
        &worker,
        "what it did without callers",
        &unused,
        is_unused,
        patience,
    )
    .await;
    let account = stage.account();
    println!(
        "{} calls of {} drivers",
        account.made(),
        callers + killed.len()
    );
    account.check(&killed);
    drop(target);
    agent.shutdown().await.expect("the control plane is there");
    worker.leave(limits.anything).await;
}

/// Waits until what the worker holds is so.
async fn comes_to_hold(
    worker: &Process,
    what: &str,
    before: &ProcessUsage,
    is_so: impl Fn(&ProcessUsage) -> bool,
    limit: Duration,
) {
    let began = Instant::now();
    loop {
        let now = ProcessUsage::by(worker.pid());
        if is_so(&now) {
            return;
        }
        let waited = began.elapsed();
        assert!(
            waited < limit,
            "not {what} after {waited:?}: {now:?}, {before:?} before"
        );
        sleep(SECOND / 10).await;
    }
}

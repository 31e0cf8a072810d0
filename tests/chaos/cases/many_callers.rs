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
const ROUNDS: usize = 3;
const SECOND: Duration = Duration::from_secs(1);
/// What a process may come to hold once, whatever happens after. A leak would be several for each
/// that died.
const SLACK: usize = 4;

fn callers() -> usize {
    let callers = std::env::var(CALLERS).ok();
    callers.map_or(FEW, |text| text.parse().expect("a number of callers"))
}

/// How many times as long as others a case may take, as so many processes have to be started.
pub(crate) fn patience() -> u32 {
    1 + callers() as u32 / 50
}

pub(crate) async fn run(stage: &Stage) {
    let limits = stage.limits;
    let callers = callers();
    // What they all need is patience: so many processes start at once.
    let patience = limits.anything * patience();
    let worker = stage.worker("worker").await;
    let (agent, target, _) = stage.caller("observer", "worker").await;
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
    let before = ProcessUsage::by(worker.pid());
    let (mut killed, mut slowest) = (Vec::new(), Duration::ZERO);
    for round in 1..=ROUNDS {
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
    let is_clean = || ProcessUsage::by(worker.pid()).is_within(&before, SLACK);
    stage
        .until("the worker holds no more than before", is_clean)
        .await;
    measure::say(Metric::Cleaning, emptied.elapsed());
    let leaving = alive.into_iter().map(|(driver, _)| driver.leave(patience));
    join_all(leaving).await;
    stage.account().check(&killed);
    drop(target);
    agent.shutdown().await.expect("the control plane is there");
    worker.leave(limits.anything).await;
}

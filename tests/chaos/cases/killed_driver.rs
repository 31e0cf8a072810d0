//! kill -9 of drivers under load: what their worker held for them comes back.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::host::ProcessUsage;
use crate::measure::{self, Metric};
use crate::process::Process;
use crate::stage::Stage;

const LIVES: usize = 4;
/// What a process may come to hold once, whatever happens after. A leak would be several for each
/// life.
const SLACK: usize = LIVES - 1;

pub(crate) async fn run(stage: &Stage) {
    let limits = stage.limits;
    let worker = stage.worker("worker").await;
    let (agent, target, _) = stage.caller("observer", "worker").await;
    let mut killed_ones = Vec::new();
    let mut before = None;
    for _ in 0..LIVES {
        let (mut driver, number) = stage.driver("driver", &["worker"]).await;
        let made = stage.account().made();
        stage
            .until("calls are made", || stage.account().made() > made + 200)
            .await;
        let killed = driver.kill();
        killed_ones.push(number);
        let Some(before) = before else {
            // What the first left is what the others are measured by.
            settle(&worker).await;
            before = Some(ProcessUsage::by(worker.pid()));
            continue;
        };
        let is_clean = || ProcessUsage::by(worker.pid()).is_within(&before, SLACK);
        stage
            .until("the worker holds no more than before", is_clean)
            .await;
        measure::say(Metric::Cleaning, killed.elapsed());
    }
    let began = Instant::now();
    while target.lent().await.expect("the worker is there") != 0 {
        assert!(
            began.elapsed() < limits.anything,
            "memory of the dead is lent"
        );
        sleep(Duration::from_millis(5)).await;
    }
    let (driver, _) = stage.driver("driver", &["worker"]).await;
    driver.leave(limits.anything).await;
    stage.account().check(&killed_ones);
    drop(target);
    agent.shutdown().await.expect("the control plane is there");
    worker.leave(limits.anything).await;
}

/// Waits until a process holds the same for a while.
async fn settle(worker: &Process) {
    let mut same = 0;
    let mut last = ProcessUsage::by(worker.pid());
    while same < 20 {
        sleep(Duration::from_millis(10)).await;
        let now = ProcessUsage::by(worker.pid());
        let is_same = now.descriptors == last.descriptors && now.threads == last.threads;
        same = if is_same { same + 1 } else { 0 };
        last = now;
    }
}

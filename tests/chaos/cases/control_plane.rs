//! kill -9 of NanoCtrl, then of Redis, which comes back empty.

use std::time::{Duration, Instant};

use slimerpc_actors::PeerAgent;
use tokio::time::sleep;

use crate::clock::Timestamp;
use crate::load::{Load, Mix};
use crate::measure::{self, Metric};
use crate::stage::Stage;
use crate::target::Target;

/// Agents give signs of life every 15 s; when they hear that they are unknown, they register again.
const RECOVERY: Duration = Duration::from_secs(40);

pub(crate) async fn run(stage: &Stage) {
    let limits = stage.limits;
    let worker = stage.worker("worker").await;
    let (agent, target, driver) = stage.caller("driver", "worker").await;
    let load = Load::start(&driver, &target, Mix::LIGHT);
    load.answers(20, limits.anything).await;

    stage.servers.borrow_mut().stop();
    load.answers(100, limits.anything).await;
    stage.servers.borrow_mut().redis.stop();
    load.answers(100, limits.anything).await;
    stage.servers.borrow_mut().redis.restart();
    stage.servers.borrow_mut().serve();
    let back = Timestamp::now();

    let late = stage.agent("late").await;
    reach_again(stage, &late, back).await;
    reach_again(stage, &agent, back).await;
    measure::say(Metric::Recovery, back.elapsed());
    load.answers(100, limits.anything).await;
    load.stop().await;
    let account = stage.account();
    account.check(&[]);
    let errors = account
        .endings()
        .into_keys()
        .filter(|ending| ending.is_error());
    assert_eq!(
        errors.collect::<Vec<_>>(),
        [],
        "calls need no control plane"
    );
    late.shutdown().await.expect("the control plane is there");
    agent.shutdown().await.expect("the control plane is there");
    worker.leave(limits.anything).await;
    assert_eq!(stage.keys(), Vec::<String>::new(), "all have left");
}

/// Makes a new proxy for the worker, and calls.
async fn reach_again(stage: &Stage, agent: &PeerAgent, back: Timestamp) {
    let began = Instant::now();
    loop {
        let made = agent.proxy::<Target>("worker").await;
        let answer = match made {
            Ok(target) => target.lent().await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let Err(error) = answer else { return };
        let elapsed = began.elapsed().max(back.elapsed());
        assert!(
            elapsed < RECOVERY,
            "{} cannot call {elapsed:?} after the return of the control plane, in which there is {:?}: {error}",
            agent.alias(),
            stage.keys()
        );
        sleep(Duration::from_millis(50)).await;
    }
}

//! A worker that is killed as soon as it answers, twenty times.

use crate::events::Events;
use crate::host::ProcessUsage;
use crate::load::{Load, Mix};
use crate::measure::{self, Metric};
use crate::stage::Stage;

const LIVES: usize = 20;
/// After so many, what a process makes once and keeps has been made.
const FIRST: usize = 5;
/// A leak would be several for each life.
const SLACK: usize = LIVES - FIRST - 1;

pub(crate) async fn run(stage: &Stage) {
    let limits = stage.limits;
    let here = std::process::id();
    let mut worker = stage.worker("worker").await;
    let (agent, target, driver) = stage.caller("driver", "worker").await;
    let mut events = Events::of(&agent, "worker", limits.anything).await;
    let load = Load::start(&driver, &target, Mix::LIGHT);
    let mut before = None;
    let mut registered = Vec::new();
    for life in 0..LIVES {
        load.answers(1, limits.anything).await;
        let killed = worker.kill();
        let lost = events.lost(limits.loss).await;
        measure::say(Metric::Detection, lost.since(killed));
        worker = stage.worker("worker").await;
        registered.push(worker.registered);
        events.reconnected(limits.anything).await;
        if life == FIRST {
            load.answers(50, limits.anything).await;
            before = Some(ProcessUsage::by(here));
        }
    }
    load.answers(50, limits.anything).await;
    let before = before.expect("there are more lives than that");
    let is_clean = || ProcessUsage::by(here).is_within(&before, SLACK);
    stage
        .until("the driver holds no more than before", is_clean)
        .await;
    load.stop().await;
    stage.credits_are_back(&target).await;
    let account = stage.account();
    account.check(&[]);
    for moment in registered {
        let took = account.first_answer(moment).expect("each has answered");
        measure::say(Metric::Reconnection, took);
        assert!(took < limits.reconnection, "{took:?}");
    }
    worker.leave(limits.anything).await;
}

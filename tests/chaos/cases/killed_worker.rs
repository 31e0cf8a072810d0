//! kill -9 of a worker under full load.

use std::rc::Rc;
use std::time::{Duration, Instant};

use slimerpc_actors::{Proxy, Ran};
use tokio::time::sleep;

use crate::events::Events;
use crate::limits::Limits;
use crate::load::{Driver, Load, Mix};
use crate::measure::{self, Metric};
use crate::outcome::{Ending, Outcome};
use crate::stage::Stage;
use crate::target::{Number, Target};

pub(crate) async fn run(stage: &Stage) {
    let limits = stage.limits;
    let mut worker = stage.worker("worker").await;
    let (agent, target, driver) = stage.caller("driver", "worker").await;
    let mut events = Events::of(&agent, "worker", limits.anything).await;
    let load = Load::start(&driver, &target, Mix::FULL);
    load.answers(500, limits.anything).await;

    let killed = worker.kill();
    let lost = events.lost(limits.loss).await;
    measure::say(Metric::Detection, lost.since(killed));
    all_fail_at_once(&driver, &target, &limits).await;

    let next = stage.worker("worker").await;
    events.reconnected(limits.anything).await;
    load.answers(500, limits.anything).await;
    load.stop().await;
    stage.credits_are_back(&target).await;

    let account = stage.account();
    account.check(&[]);
    // All that were under way may have been answered just before.
    if let Some(failing) = account.failing(killed) {
        measure::say(Metric::Failing, failing);
        assert!(failing < limits.loss, "the last failed after {failing:?}");
    }
    let reconnection = account
        .first_answer(next.registered)
        .expect("some were answered");
    measure::say(Metric::Reconnection, reconnection);
    assert!(reconnection < limits.reconnection, "{reconnection:?}");
    next.leave(limits.anything).await;
}

/// CALL-1: calls of a peer that is known to be away are certainly not run, and nobody waits for
/// them.
async fn all_fail_at_once(driver: &Rc<Driver>, target: &Proxy<Target>, limits: &Limits) {
    for _ in 0..50 {
        let began = Instant::now();
        let call = async |id| Outcome::of(target.send(Number { id }).await, &!id);
        let outcome = driver.call(call).await;
        let took = began.elapsed();
        assert!(took < limits.at_once, "a call failed only after {took:?}");
        let failed = (outcome.ending, outcome.ran);
        assert_eq!(failed, (Ending::PeerLost, Ran::No));
        sleep(Duration::from_millis(1)).await;
    }
}

//! SIGSTOP of a worker.

use std::time::{Duration, Instant};

use slimerpc_actors::PeerEvent;
use tokio::time::sleep;

use crate::events::Events;
use crate::load::{Load, Mix};
use crate::measure::{self, Metric};
use crate::outcome::{Ending, Outcome};
use crate::stage::Stage;
use crate::target::Number;

const A_WHILE: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_millis(500);

pub(crate) async fn for_a_while(stage: &Stage) {
    let limits = stage.limits;
    let worker = stage.worker("worker").await;
    let (agent, target, driver) = stage.caller("driver", "worker").await;
    let mut events = Events::of(&agent, "worker", limits.anything).await;
    let load = Load::start(&driver, &target, Mix::LIGHT);
    load.answers(20, limits.anything).await;

    let stopped = worker.freeze();
    let timely = target.with_timeout(DEADLINE);
    let began = Instant::now();
    let call = async |id| Outcome::of(timely.send(Number { id }).await, &!id);
    let outcome = driver.call(call).await;
    let took = began.elapsed();
    assert_eq!(outcome.ending, Ending::Timeout);
    assert!(
        took >= DEADLINE && took < DEADLINE + limits.at_once,
        "{took:?}"
    );

    let is_stalled = |event: &PeerEvent| *event == PeerEvent::Stalled;
    let stalled = events
        .wait_for("Stalled", limits.stalled(), is_stalled)
        .await;
    measure::say(Metric::Stalled, stalled.since(stopped));
    sleep(A_WHILE.saturating_sub(stopped.elapsed())).await;
    let answered = load.answered();
    let goes_on = worker.thaw();
    load.answers(50, limits.anything).await;
    let is_back = |event: &PeerEvent| *event == PeerEvent::Recovered;
    let recovered = events
        .wait_for("Recovered", limits.stalled(), is_back)
        .await;
    assert!(recovered.since(goes_on) < limits.stalled());
    load.stop().await;
    stage.credits_are_back(&target).await;
    assert!(load.answered() > answered);

    let account = stage.account();
    account.check(&[]);
    let mut errors = account.endings();
    errors.retain(|ending, _| ending.is_error());
    let only = [(Ending::Timeout, 1)].into();
    assert_eq!(errors, only, "calls without a deadline wait");
    worker.leave(limits.anything).await;
}

pub(crate) async fn for_ever(stage: &Stage) {
    let limits = stage.limits;
    let mut worker = stage.worker("worker").await;
    let (agent, target, driver) = stage.caller("driver", "worker").await;
    let mut events = Events::of(&agent, "worker", limits.anything).await;
    let load = Load::start(&driver, &target, Mix::LIGHT);
    load.answers(20, limits.anything).await;

    let stopped = worker.freeze();
    let is_stalled = |event: &PeerEvent| *event == PeerEvent::Stalled;
    let stalled = events
        .wait_for("Stalled", limits.stalled(), is_stalled)
        .await;
    measure::say(Metric::Stalled, stalled.since(stopped));
    let killed = worker.kill();
    let lost = events.lost(limits.loss).await;
    measure::say(Metric::Detection, lost.since(killed));
    load.stop().await;
    let account = stage.account();
    account.check(&[]);
    let failing = account.failing(killed).expect("some were under way");
    measure::say(Metric::Failing, failing);
    assert!(
        failing < limits.loss,
        "the last call failed after {failing:?}"
    );
}

//! A worker that panics on every tenth request, under load.

use crate::load::{Load, Mix};
use crate::outcome::Ending;
use crate::stage::Stage;

const MIX: Mix = Mix {
    tenths: 12,
    typed: 2,
    raw: 1,
    streams: 1,
    large: 0,
    tells: 1,
    pause: std::time::Duration::ZERO,
};
const ANSWERS: u64 = 3_000;

pub(crate) async fn run(stage: &Stage) {
    let limits = stage.limits;
    let worker = stage.worker("worker").await;
    let (agent, target, driver) = stage.caller("driver", "worker").await;
    let load = Load::start(&driver, &target, MIX);
    load.answers(ANSWERS, limits.anything).await;
    load.stop().await;
    stage.credits_are_back(&target).await;
    let account = stage.account();
    account.check(&[]);
    let mut errors = account.endings();
    errors.retain(|ending, _| ending.is_error());
    let panics = errors.remove(&Ending::Remote).unwrap_or(0);
    assert!(panics > 0, "none panicked");
    assert_eq!(
        errors,
        [].into(),
        "a panic costs the calls of others nothing"
    );
    agent.shutdown().await.expect("the control plane is there");
    worker.leave(limits.anything).await;
    let tells = account.endings().remove(&Ending::Told).unwrap_or(0);
    let run = stage.account().run();
    assert!(run <= account.made() && run + tells >= account.made());
}

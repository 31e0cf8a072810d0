//! 2 % of the packets are dropped.

use crate::link::Dummy;
use crate::load::{Load, Mix};
use crate::stage::Stage;

const PERCENT: u32 = 2;

pub(crate) async fn run(stage: &Stage) {
    let limits = stage.limits;
    let link = Dummy::of(stage.device.as_deref()).expect("it was there a moment ago");
    let worker = stage.worker("worker").await;
    let (agent, target, driver) = stage.caller("driver", "worker").await;
    let load = Load::start(&driver, &target, Mix::LIGHT);
    load.answers(20, limits.anything).await;

    let lossy = link.lose(PERCENT).expect("it could a moment ago");
    load.answers(100, limits.anything).await;
    if lossy.dropped() == 0 {
        stage.skip("the device's packets to itself pass no queue in which they could be dropped");
    }
    drop(lossy);
    load.answers(20, limits.anything).await;
    load.stop().await;
    stage.credits_are_back(&target).await;
    stage.account().check(&[]);
    agent.shutdown().await.expect("the control plane is there");
    worker.leave(limits.anything).await;
}

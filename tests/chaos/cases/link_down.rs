//! The network device below the RDMA device is taken down for 2 s.

use std::time::Duration;

use tokio::time::sleep;

use crate::clock::Timestamp;
use crate::link::Dummy;
use crate::load::{Load, Mix};
use crate::measure::{self, Metric};
use crate::stage::Stage;

const DOWN: Duration = Duration::from_secs(2);

pub(crate) async fn run(stage: &Stage) {
    let limits = stage.limits;
    let link = Dummy::of(stage.device.as_deref()).expect("it was there a moment ago");
    let worker = stage.worker("worker").await;
    let (agent, target, driver) = stage.caller("driver", "worker").await;
    let load = Load::start(&driver, &target, Mix::LIGHT);
    load.answers(20, limits.anything).await;

    let addresses = link.addresses();
    link.set("down");
    sleep(DOWN).await;
    link.set("up");
    link.readdress(&addresses);
    let up = Timestamp::now();
    load.answers(20, limits.anything).await;
    load.stop().await;
    stage.credits_are_back(&target).await;
    let account = stage.account();
    account.check(&[]);
    let reconnection = account.first_answer(up).expect("some were answered");
    measure::say(Metric::Reconnection, reconnection);
    agent.shutdown().await.expect("the control plane is there");
    worker.leave(limits.anything).await;
}

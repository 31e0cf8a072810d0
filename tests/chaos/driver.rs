//! A driver process: keeps some workers busy until it is let go.

use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use slimerpc_actors::{PeerAgent, PeerEvent, Proxy};
use tokio::time::sleep;

use crate::args::RoleArgs;
use crate::clock::Timestamp;
use crate::journal::{Event, Journal};
use crate::load::{Driver, Load, Mix};
use crate::process::say_ready;
use crate::target::Target;
use crate::{Failure, leash};

/// Of every kind, but so many drivers of so many workers are at it at once that none needs many
/// callers.
const MIX: Mix = Mix {
    typed: 3,
    raw: 2,
    large: 1,
    streams: 1,
    tells: 1,
    tenths: 1,
    pause: Duration::ZERO,
};

pub(crate) async fn run(args: &RoleArgs) -> Result<(), Failure> {
    let released = leash::tie()?;
    let agent = support::agent(args.alias.clone()).nanoctrl(&args.ctrl);
    let agent = agent.start().await?;
    let registered = Timestamp::now();
    let driver = Driver::new(args.number, Journal::open(&args.journal)?);
    let mut loads = Vec::new();
    for (number, worker) in (0..).zip(&args.peers) {
        let target = reach(&agent, worker).await;
        actix::spawn(listen(driver.clone(), target.clone(), number));
        let mix = if args.calm { Mix::CALM } else { MIX };
        loads.push(Load::start(&driver, &target, mix));
    }
    while loads.iter().all(|load| load.answered() == 0) {
        sleep(Duration::from_millis(1)).await;
    }
    say_ready(registered)?;
    // An error would mean that the thread is gone which waits for it.
    let _ = released.await;
    for load in loads {
        load.stop().await;
    }
    Ok(agent.shutdown().await?)
}

/// Workers die also before they are reached, and the control plane may be away.
async fn reach(agent: &PeerAgent, worker: &str) -> Proxy<Target> {
    loop {
        match agent.proxy(worker).await {
            Ok(target) => return target,
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Writes down what becomes of a worker.
async fn listen(driver: Rc<Driver>, target: Proxy<Target>, worker: u64) {
    let Ok(mut events) = target.watch().await else {
        return;
    };
    while let Some(event) = events.next().await {
        match event {
            PeerEvent::Lost { .. } => driver.note(worker, Event::Lost),
            PeerEvent::Reconnected { .. } => driver.note(worker, Event::Reached),
            _ => {}
        }
    }
}

//! A worker process: serves one target until it is let go.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use slimerpc_actors::{Backoff, Restart, Start};

use crate::args::RoleArgs;
use crate::clock::Timestamp;
use crate::journal::Journal;
use crate::process::say_ready;
use crate::target::{Common, Target};
use crate::{Failure, leash};

pub(crate) async fn run(args: &RoleArgs) -> Result<(), Failure> {
    let released = leash::tie()?;
    quiet();
    let agent = support::agent(args.alias.clone()).nanoctrl(&args.ctrl);
    let agent = agent.start().await?;
    let registered = Timestamp::now();
    let common = Arc::new(Common {
        agent: agent.clone(),
        journal: Journal::open(&args.journal)?,
    });
    let factory = move |start: &mut Start<Target>| {
        let before = start.take_previous();
        let tenths = before.map_or(0, |before| before.tenths);
        let common = common.clone();
        Ok::<_, Infallible>(Target { common, tenths })
    };
    // Restarts are what it is for.
    let restart = Restart::permanent()
        .backoff(Backoff {
            first: Duration::ZERO,
            ..Backoff::default()
        })
        .limit(100_000, Duration::from_secs(10));
    agent.serve_from(factory).restart(restart).await?;
    say_ready(registered)?;
    // An error would mean that the thread is gone which waits for it.
    let _ = released.await;
    Ok(agent.shutdown().await?)
}

/// Panics that are wanted need not be read.
fn quiet() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_wanted = panic.payload().downcast_ref() == Some(&"the tenth");
        if !is_wanted {
            before(panic);
        }
    }));
}

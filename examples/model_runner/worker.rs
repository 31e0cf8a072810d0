//! A worker process.

use std::process::ExitCode;

use slimerpc_actors::PeerAgent;

use crate::args::{self, WorkerArgs};
use crate::processes::{READY, say, watch_driver};
use crate::runner::ModelRunner;

type Error = Box<dyn std::error::Error>;

pub(crate) async fn run(args: &WorkerArgs) -> ExitCode {
    match live(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If the driver does not listen any more, nobody does.
            let _ = say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn live(args: &WorkerArgs) -> Result<(), Error> {
    let mut released = watch_driver()?;
    let agent = tokio::select! {
        agent = serve(args) => agent?,
        _ = &mut released => return Ok(()),
    };
    // An error would mean that the thread is gone; then nobody else would tell us.
    let _ = released.await;
    Ok(agent.shutdown().await?)
}

async fn serve(args: &WorkerArgs) -> Result<PeerAgent, Error> {
    let device = args.device.as_deref();
    let agent = args::agent(&args.alias, &args.ctrl, &args.scope, device);
    let agent = agent.start().await?;
    agent.serve(ModelRunner::default()).await?;
    say(READY)?;
    Ok(agent)
}

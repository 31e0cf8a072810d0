//! A worker process.

use std::process::ExitCode;

use slimerpc_actors::PeerAgent;

use crate::args::{self, WorkerArgs};
use crate::digits::{Digits, Network};
use crate::processes::{READY, say, watch_driver};
use crate::train_worker::TrainWorker;

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
    let (digits, _) = Digits::load()?;
    // What it computes with comes from the driver.
    let network = Network::new(args.hidden as usize, 0)?;
    let device = args.device.as_deref();
    let agent = args::agent(&args.alias, &args.ctrl, &args.scope, device, args.hidden);
    let agent = agent.start().await?;
    let worker = TrainWorker::new(agent.clone(), digits, network);
    agent.serve(worker).await?;
    say(READY)?;
    Ok(agent)
}

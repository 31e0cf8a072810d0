//! A worker process. Two pipes tie it to the driver: on its standard output it says once that it serves, and when its
//! standard input ends, because the driver wants it so or is gone, it leaves.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use slimerpc_actors::PeerAgent;
use tokio::sync::oneshot;

use crate::args::{self, WorkerArgs};
use crate::runner::ModelRunner;

/// What it says when it serves. Anything else that it says is why it does not.
pub(crate) const READY: &str = "ready";
/// How long leaving may take: the control plane may have died with the driver.
const LEAVE: Duration = Duration::from_secs(2);

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

/// Completes when standard input ends. A while later the process ends, whatever it is at; and at once if the driver dies,
/// even if it is stopped.
fn watch_driver() -> io::Result<oneshot::Receiver<()>> {
    // Of a driver that died before this, standard input tells.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let (release, released) = oneshot::channel();
    let watch = move || {
        let mut ignored = [0; 64];
        while matches!(io::stdin().read(&mut ignored), Ok(1..)) {}
        // If nobody waits for it, the process is about to end.
        let _ = release.send(());
        thread::sleep(LEAVE);
        std::process::exit(1);
    };
    thread::Builder::new()
        .name("driver-watch".to_owned())
        .spawn(watch)?;
    Ok(released)
}

fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{}", line.replace('\n', " "))?;
    output.flush()
}

//! How workers are started.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use slimerpc_actors::{PeerAgent, Proxy};

use crate::processes::{Output, Process, READY};
use crate::train_worker::TrainWorker;

/// How long a worker may take until it serves.
const PATIENCE: Duration = Duration::from_secs(10);

/// What all workers have in common.
pub(crate) struct Fleet {
    /// The agent that calls them.
    pub(crate) agent: PeerAgent,
    pub(crate) program: PathBuf,
    /// Arguments of the program, but for the alias.
    pub(crate) words: Vec<OsString>,
}

impl Fleet {
    /// Starts the process of a worker.
    pub(super) fn start(&self, rank: usize) -> io::Result<(Process, Output)> {
        let alias = ["--alias".into(), alias(rank).into()];
        let words: Vec<OsString> = self.words.iter().cloned().chain(alias).collect();
        Process::start(&self.program, &words).map_err(|error| {
            let program = self.program.display();
            io::Error::new(error.kind(), format!("cannot run {program}: {error}"))
        })
    }

    /// Waits until the worker serves, and connects with it; or says why that came to nothing.
    pub(super) async fn bring_up(
        self: Rc<Self>,
        rank: usize,
        mut output: Output,
    ) -> (Output, Result<Proxy<TrainWorker>, String>) {
        let alias = alias(rank);
        let up = tokio::time::timeout(PATIENCE, async {
            match output.line().await {
                Some(line) if line == READY => {}
                Some(line) => return Err(line),
                None => return Err("it ended before it was ready".to_owned()),
            }
            tokio::select! {
                proxy = self.agent.proxy::<TrainWorker>(&alias) => {
                    proxy.map_err(|error| error.to_string())
                }
                () = output.end() => Err("it ended before it was reached".to_owned()),
            }
        });
        let up = up.await;
        let up = up.unwrap_or_else(|_| Err(format!("it was not ready after {PATIENCE:?}")));
        (output, up)
    }
}

/// The name of a worker, in all its lives.
pub(crate) fn alias(rank: usize) -> String {
    format!("worker:{rank}")
}

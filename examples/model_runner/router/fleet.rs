//! How workers are started.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use slimerpc_actors::{PeerAgent, Proxy};

use crate::processes::{Output, Process, READY};
use crate::runner::ModelRunner;

/// How long a worker may take until it has its weights.
const PATIENCE: Duration = Duration::from_secs(10);

/// What all workers have in common.
pub(crate) struct Fleet {
    /// The agent that calls them.
    pub(crate) agent: PeerAgent,
    pub(crate) program: PathBuf,
    /// Arguments of the program, but for the alias.
    pub(crate) words: Vec<OsString>,
    /// What [`ModelRunner::load`] is given.
    pub(crate) weights: Vec<u8>,
    /// How many weights that is.
    pub(crate) weight_count: u64,
}

impl Fleet {
    /// Starts the process of a worker.
    pub(super) fn start(&self, number: usize) -> io::Result<(Process, Output)> {
        let alias = ["--alias".into(), alias(number).into()];
        let words: Vec<OsString> = self.words.iter().cloned().chain(alias).collect();
        Process::start(&self.program, &words).map_err(|error| {
            let program = self.program.display();
            io::Error::new(error.kind(), format!("cannot run {program}: {error}"))
        })
    }

    /// Waits until the worker serves, connects with it, and gives it its weights; or says why that
    /// came to nothing.
    pub(super) async fn bring_up(
        self: Rc<Self>,
        number: usize,
        mut output: Output,
    ) -> (Output, Result<Proxy<ModelRunner>, String>) {
        let alias = alias(number);
        let up = tokio::time::timeout(PATIENCE, async {
            match output.line().await {
                Some(line) if line == READY => {}
                Some(line) => return Err(line),
                None => return Err("it ended before it was ready".to_owned()),
            }
            tokio::select! {
                up = self.equip(&alias) => up,
                () = output.end() => Err("it ended before it had its weights".to_owned()),
            }
        });
        let up = up.await;
        let up = up.unwrap_or_else(|_| Err(format!("it was not ready after {PATIENCE:?}")));
        (output, up)
    }

    async fn equip(&self, alias: &str) -> Result<Proxy<ModelRunner>, String> {
        let proxy = self.agent.proxy::<ModelRunner>(alias).await;
        let proxy = proxy.map_err(|error| error.to_string())?;
        let loaded = proxy.load(&self.weights).await;
        let loaded = loaded.map_err(|error| format!("it did not take its weights: {error}"))?;
        if loaded != self.weight_count.to_le_bytes() {
            return Err("it took other weights than it was given".to_owned());
        }
        Ok(proxy)
    }
}

/// The name of a worker, in all its lives.
fn alias(number: usize) -> String {
    format!("runner:{number}")
}

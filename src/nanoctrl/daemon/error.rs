//! What can go wrong with a server in the background.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::nanoctrl::StartError;

/// Why a server could not be started, looked after or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The server would not start.
    #[error(transparent)]
    Start(#[from] StartError),

    /// A file or folder cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// The server's process could not be started.
    #[error("cannot start the server's process: {0}")]
    Spawn(io::Error),

    /// The server ended at once.
    #[error("nanoctrl failed to start ({status}). See log: {}", log.display())]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// What it has logged.
        recent_log: String,
    },

    /// The server cannot be signalled.
    #[error("cannot signal process {pid}: {source}")]
    Signal {
        /// Its process.
        pid: i32,
        /// What the operating system said.
        source: io::Error,
    },

    /// The server has not ended.
    #[error("nanoctrl (pid={pid}) did not stop within {timeout:?}; --force kills it")]
    StillRunning {
        /// Its process.
        pid: i32,
        /// How long was waited.
        timeout: Duration,
    },
}

impl DaemonError {
    /// For use in `map_err`.
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

//! Errors of a server in the background.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::nanoctrl::StartError;

/// Why a server in the background could not be started, checked or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The server would not start.
    #[error(transparent)]
    Start(#[from] StartError),

    /// A file or folder cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// Path of the file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// The server's process could not be started.
    #[error("cannot start the server's process: {0}")]
    Spawn(io::Error),

    /// The server ended at once.
    #[error("nanoctrl failed to start ({status}). See log: {}", log.display())]
    Ended {
        /// Exit status of the server.
        status: ExitStatus,
        /// Path of its log.
        log: PathBuf,
        /// The end of its log.
        recent_log: String,
    },

    /// The server cannot be signalled.
    #[error("cannot signal process {pid}: {source}")]
    Signal {
        /// Id of its process.
        pid: i32,
        /// The system's error.
        source: io::Error,
    },

    /// The server has not ended.
    #[error("nanoctrl (pid={pid}) did not stop within {timeout:?}; --force kills it")]
    StillRunning {
        /// Id of its process.
        pid: i32,
        /// How long it was waited for.
        timeout: Duration,
    },
}

impl DaemonError {
    /// Wraps an error about `path`; for use in `map_err`.
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

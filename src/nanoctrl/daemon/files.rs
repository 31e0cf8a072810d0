//! The files that tell of a server in the background.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, geteuid};
use serde::{Deserialize, Serialize};

use super::DaemonError;
use super::process;
use crate::nanoctrl::environment;

/// Contents of `nanoctrl.meta.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) pid: i32,
    pub(super) address: String,
    pub(super) cmd: Vec<String>,
    pub(super) log: PathBuf,
    pub(super) started_at: u64,
}

/// The folder of the files.
pub(super) struct RuntimeFolder(PathBuf);

impl RuntimeFolder {
    /// The folder that the environment names, made if it is not there.
    pub(super) fn find() -> Result<Self, DaemonError> {
        let named = environment::lookup("RUNTIME_DIR").map(PathBuf::from);
        let users = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
        let ours = named.or(users.map(|folder| PathBuf::from(folder).join("nanoctrl")));
        let (folder, made) = match ours {
            Some(folder) => (Self(folder.clone()), make(&folder)),
            None => {
                let folder = std::env::temp_dir().join("nanoctrl");
                let made = make(&folder).and_then(|()| check_owner(&folder));
                (Self(folder), made)
            }
        };
        made.map_err(DaemonError::file(&folder.0))?;
        Ok(folder)
    }

    /// Keeps others from starting a server at the same time.
    pub(super) fn lock(&self) -> Result<File, DaemonError> {
        let lock = File::open(&self.0).map_err(DaemonError::file(&self.0))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| DaemonError::file(&self.0)(error.into()))?;
        Ok(lock)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("nanoctrl.log")
    }

    fn pid(&self) -> PathBuf {
        self.0.join("nanoctrl.pid")
    }

    fn meta(&self) -> PathBuf {
        self.0.join("nanoctrl.meta.json")
    }

    /// The process that the files tell of, if it runs.
    pub(super) fn running(&self) -> Option<(Pid, Option<Meta>)> {
        let pid: i32 = fs::read_to_string(self.pid()).ok()?.trim().parse().ok()?;
        let pid = Pid::from_raw(pid.max(0))?;
        let meta: Option<Meta> = fs::read(self.meta())
            .ok()
            .and_then(|meta| serde_json::from_slice(&meta).ok());
        let is_ours = match &meta {
            Some(meta) => process::has_command(pid, &meta.cmd),
            None => true,
        };
        (is_ours && process::is_alive(pid)).then_some((pid, meta))
    }

    pub(super) fn remember(&self, meta: &Meta) -> Result<(), DaemonError> {
        let text = serde_json::to_string_pretty(meta).expect("paths from arguments are text");
        write(&self.meta(), &text)?;
        write(&self.pid(), &meta.pid.to_string())
    }

    /// Removes what tells of a server. What is not there needs no removing.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(self.pid());
        let _ = fs::remove_file(self.meta());
    }
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Anybody may write where temporary files are: what others have put there is not for us.
fn check_owner(folder: &Path) -> io::Result<()> {
    if fs::metadata(folder)?.uid() == geteuid().as_raw() {
        Ok(())
    } else {
        Err(io::Error::other("this folder belongs to somebody else"))
    }
}

fn write(path: &Path, text: &str) -> Result<(), DaemonError> {
    fs::write(path, text).map_err(DaemonError::file(path))
}

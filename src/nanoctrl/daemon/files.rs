//! The files that describe a server in the background.

use std::ffi::OsString;
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

/// The folder of those files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RuntimeFolder {
    path: PathBuf,
    /// Whether other users may have created it.
    is_public: bool,
}

impl RuntimeFolder {
    fn private(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            is_public: false,
        }
    }

    fn public(parent: impl Into<PathBuf>) -> Self {
        Self {
            path: parent.into().join("nanoctrl"),
            is_public: true,
        }
    }

    /// The folder that the environment names, made if it does not exist.
    pub(super) fn make() -> Result<Self, DaemonError> {
        let folder = Self::named_by(&|name| std::env::var_os(name));
        let made = make(&folder.path).and_then(|()| folder.check());
        made.map_err(DaemonError::file(&folder.path))?;
        Ok(folder)
    }

    /// The folder that an environment names; an empty variable counts as none.
    pub(super) fn named_by(lookup: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let named = set("NANOCTRL_RUNTIME_DIR").or_else(|| set("DLSLIME_CTRL_RUNTIME_DIR"));
        match (named, set("XDG_RUNTIME_DIR")) {
            (Some(folder), _) => Self::private(folder),
            (None, Some(parent)) => Self::private(PathBuf::from(parent).join("nanoctrl")),
            (None, None) => Self::public(set("TMPDIR").unwrap_or_else(|| "/tmp".into())),
        }
    }

    /// The folders in which a server of this user may have been started: the one that the
    /// environment names; unless that is for these files alone, also the folder for temporary
    /// files, which is used without `XDG_RUNTIME_DIR`; and without that variable, as in cron or
    /// behind sudo, the one that systemd has for the user.
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::named_by(&|name| std::env::var_os(name))];
        if !is_named() {
            all.push(Self::public(std::env::temp_dir()));
        }
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if !is_named() && !is_set("XDG_RUNTIME_DIR") {
            let user = geteuid().as_raw();
            all.push(Self::private(format!("/run/user/{user}/nanoctrl")));
        }
        all.dedup();
        all
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses files of other users: anybody may write where temporary files are.
    fn check(&self) -> io::Result<()> {
        if !self.is_public || fs::metadata(&self.path)?.uid() == geteuid().as_raw() {
            Ok(())
        } else {
            Err(io::Error::other("this folder belongs to somebody else"))
        }
    }

    /// Locks the folder against another start at the same time.
    pub(super) fn lock(&self) -> Result<File, DaemonError> {
        let lock = File::open(&self.path).map_err(DaemonError::file(&self.path))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| DaemonError::file(&self.path)(error.into()))?;
        Ok(lock)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("nanoctrl.log")
    }

    fn pid(&self) -> PathBuf {
        self.path.join("nanoctrl.pid")
    }

    fn meta(&self) -> PathBuf {
        self.path.join("nanoctrl.meta.json")
    }

    /// The running process that the files describe, if there is one.
    pub(super) fn running(&self) -> Option<(Pid, Option<Meta>)> {
        self.check().ok()?;
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

    /// Removes the files that describe a server. Missing files are no error.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(self.pid());
        let _ = fs::remove_file(self.meta());
    }
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Returns whether the environment names a folder for these files alone.
pub(super) fn is_named() -> bool {
    environment::lookup("RUNTIME_DIR").is_some()
}

fn write(path: &Path, text: &str) -> Result<(), DaemonError> {
    fs::write(path, text).map_err(DaemonError::file(path))
}

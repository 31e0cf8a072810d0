//! Indexes: directories whose files are named after agents, and say nothing else.
//!
//! An index names at least the agents that it is for. What it names besides, as processes may be
//! killed between two steps, is found out by a look at the agent.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::directory::{failed, make_private};
use super::files;
use super::scope::{is_of_scope, listed};
use crate::control::ControlError;

/// See the [module](self).
pub(super) struct Index(PathBuf);

impl Index {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Enters the agent with that directory. `file` is one of its files.
    pub(super) fn enter(&self, name: &str, file: &Path) -> Result<(), ControlError> {
        make_directory(&self.0)?;
        let entry = self.0.join(name);
        // Another name for a file is made many times as fast as a file.
        match fs::hard_link(file, &entry) {
            Ok(()) => Ok(()),
            Err(_) => files::touch(&entry),
        }
    }

    /// Removes an agent, if it is in the index, and the index, if it was the last.
    pub(super) fn remove(&self, name: &OsStr) -> Result<(), ControlError> {
        if fs::symlink_metadata(&self.0).is_ok_and(|it| it.is_dir()) {
            files::remove(&self.0.join(name))?;
            let _ = fs::remove_dir(&self.0);
        }
        Ok(())
    }

    /// The directories of the agents.
    pub(super) fn names(&self) -> Result<Vec<OsString>, ControlError> {
        // A link is not followed. What stands there is replaced by whoever enters next.
        if !fs::symlink_metadata(&self.0).is_ok_and(|it| it.is_dir()) {
            return Ok(Vec::new());
        }
        let names = listed(&self.0)?.into_iter().map(|it| it.file_name());
        Ok(names.filter(|name| !is_of_scope(name)).collect())
    }
}

/// Makes a directory that this user alone may enter, in place of whatever else there is.
pub(super) fn make_directory(path: &Path) -> Result<(), ControlError> {
    let is_in_the_way = fs::symlink_metadata(path).is_ok_and(|it| !it.is_dir());
    if is_in_the_way
        && let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(failed(path)(error));
    }
    make_private(path)
}

//! Servers of this user that the runtime folders do not describe.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::process::geteuid;

use super::files::RuntimeFolder;

/// A server that was started with another environment, or in the foreground.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// Id of its process.
    pub pid: i32,
    /// Its command line.
    pub command: String,
    /// The runtime folder that describes it; `None` if it runs in the foreground. With this folder
    /// in `NANOCTRL_RUNTIME_DIR` it is found.
    pub folder: Option<PathBuf>,
}

/// Finds the servers of this user, as far as processes are visible.
pub(super) fn strangers() -> Vec<Stranger> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let ours = geteuid().as_raw();
    let mut found: Vec<Stranger> = processes
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|it| it.uid() == ours))
        .filter_map(|entry| stranger(entry.file_name().to_str()?.parse().ok()?))
        .collect();
    found.sort_by_key(|stranger| stranger.pid);
    found
}

fn stranger(pid: i32) -> Option<Stranger> {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).ok();
    let command = read("cmdline")?;
    let mut words = command.split(|&byte| byte == 0).map(OsStr::from_bytes);
    let program = PathBuf::from(words.next()?);
    if program.file_name() != Some(OsStr::new("nanoctrl")) || words.next()? != "server" {
        return None;
    }
    let environment = read("environ").unwrap_or_default();
    let lookup = |name: &str| -> Option<OsString> {
        let mut variables = environment.split(|&byte| byte == 0);
        variables.find_map(|variable| {
            let value = variable.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(OsString::from_vec(value.to_vec()))
        })
    };
    let folder = RuntimeFolder::named_by(&lookup);
    let is_told_of = folder
        .running()
        .is_some_and(|(known, _)| known.as_raw_nonzero().get() == pid);
    let command = command.strip_suffix(b"\0").unwrap_or(&command);
    Some(Stranger {
        pid,
        command: String::from_utf8_lossy(command).replace('\0', " "),
        folder: is_told_of.then(|| folder.path().to_owned()),
    })
}

//! System calls of a running process, counted by `strace`.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::missing::Missing;
use crate::support::Result;

/// Attached to a process.
pub(crate) struct Strace {
    child: Child,
    summary: NamedTempFile,
    // It must have somebody to talk to until it ends.
    _says: BufReader<ChildStderr>,
}

/// What a process asked of its kernel.
pub(crate) struct SystemCalls {
    pub(crate) all: u64,
    /// Waits for locks, and for being woken.
    pub(crate) futex: u64,
}

impl Strace {
    pub(crate) fn attach(process: u32) -> Result<Self> {
        let summary = NamedTempFile::new()?;
        let spawned = Command::new("strace")
            .args(["-f", "-c", "-p", &process.to_string(), "-o"])
            .arg(summary.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Missing::because("strace is not installed").into(),
            _ => Box::<dyn std::error::Error>::from(error),
        })?;
        let mut says = BufReader::new(child.stderr.take().ok_or("no stderr")?);
        let mut line = String::new();
        says.read_line(&mut line)?;
        let strace = Self {
            child,
            summary,
            _says: says,
        };
        if line.contains("attached") {
            return Ok(strace);
        }
        Err(Missing::because(format!("strace may not look: {}", line.trim())).into())
    }

    /// What was called since.
    pub(crate) fn detach(mut self) -> Result<SystemCalls> {
        self.interrupt();
        self.child.wait()?;
        let summary = fs::read_to_string(self.summary.path())?;
        Ok(SystemCalls {
            all: calls(&summary, "total"),
            futex: calls(&summary, "futex"),
        })
    }

    fn interrupt(&mut self) {
        let is_running = matches!(self.child.try_wait(), Ok(None));
        if let Some(process) = Pid::from_raw(self.child.id() as i32).filter(|_| is_running) {
            let _ = kill_process(process, Signal::INT);
        }
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.interrupt();
        let _ = self.child.wait();
    }
}

/// The number of calls (fourth column) in the line of a name (last column); 0 if there is none.
fn calls(summary: &str, name: &str) -> u64 {
    let mut lines = summary.lines().map(str::split_whitespace);
    let line = lines.find(|line| line.clone().next_back() == Some(name));
    line.and_then(|mut columns| columns.nth(3)?.parse().ok())
        .unwrap_or(0)
}

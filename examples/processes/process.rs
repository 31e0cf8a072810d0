//! A worker process as its parent sees it.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::net::unix::pipe::Receiver;

use super::restarts::{LIMIT, WINDOW};

/// Longer lines than this are cut.
const LINE: usize = 4096;
/// How long a process may live on without its output.
const REAP: Duration = Duration::from_millis(50);

/// A child process; killed and reaped when dropped.
pub(crate) struct Process {
    child: Child,
    /// It ends when this is closed, which the system does if we die.
    leash: Option<ChildStdin>,
}

/// The standard output of a process. It ends when the process does, by whatever cause.
pub(crate) struct Output {
    pipe: Receiver,
    /// What has been read and not been given out.
    read: Vec<u8>,
}

impl Process {
    /// Starts one, in a process group of its own, so that Ctrl-C in the terminal reaches us and not
    /// it: it still has requests to answer.
    pub(crate) fn start(program: &Path, words: &[OsString]) -> io::Result<(Self, Output)> {
        let mut child = Command::new(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let (leash, stdout) = (child.stdin.take(), child.stdout.take());
        let process = Self { child, leash };
        let stdout = stdout.ok_or(io::ErrorKind::BrokenPipe)?;
        let output = Output {
            pipe: Receiver::from_owned_fd(OwnedFd::from(stdout))?,
            read: Vec::new(),
        };
        Ok((process, output))
    }

    /// Lets it finish and leave.
    pub(crate) fn release(&mut self) {
        self.leash = None;
    }

    /// Kills it, as kill -9 does.
    pub(crate) fn kill(&mut self) {
        // The only failure is that it has ended already.
        let _ = self.child.kill();
    }

    /// How one ended whose output has; one that goes on without is killed.
    pub(crate) fn reap(mut self) -> io::Result<ExitStatus> {
        // A process that ends closes its files first, and can be waited for some microseconds
        // later.
        let deadline = Instant::now() + REAP;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.child.kill()?;
        self.child.wait()
    }
}

/// Why a life is over, or did not even begin, with how its process ended.
pub(crate) fn end_of(process: Option<Process>, reason: Option<String>) -> String {
    let reason = reason.unwrap_or_else(|| "it ended".to_owned());
    match process.map(Process::reap) {
        Some(Ok(status)) => format!("{reason} ({status})"),
        Some(Err(_)) | None => reason,
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    /// The next line; `None` when it has ended.
    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if !self.read_some().await {
                return None;
            }
        }
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self) {
        while self.read_some().await {
            self.read.clear();
        }
    }

    /// Reads what there is. False at the end.
    async fn read_some(&mut self) -> bool {
        let mut bytes = [0; 512];
        loop {
            if self.pipe.readable().await.is_err() {
                return false;
            }
            match self.pipe.try_read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => {
                    let room = LINE.saturating_sub(self.read.len());
                    self.read.extend_from_slice(&bytes[..count.min(room)]);
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
    }
}

/// What is said of a worker that is not started any more.
pub(crate) fn given_up(worker: usize, reason: &str) -> String {
    format!("worker {worker} is given up after {LIMIT} restarts within {WINDOW:?}: {reason}")
}

//! An example as a user runs it: a driver that starts workers.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::program;

/// How long one may run on.
pub const SOON: Duration = Duration::from_secs(60);

/// The driver, killed when dropped.
#[derive(Debug)]
pub struct Driver {
    child: Child,
    errors: BufReader<ChildStderr>,
    /// The scope of its agents, which its workers are told.
    scope: String,
    /// Where its processes meet, whatever the environment says.
    _meeting: TempDir,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it said on standard output.
    pub out: String,
    /// What it said on standard error.
    pub err: String,
}

impl Driver {
    /// Starts an example, the workers of which are in the scope `SCOPE-PID`.
    pub fn start(example: &str, scope: &str, words: &[&str]) -> Self {
        let mut command = Command::new(program(&format!("examples/{example}")));
        let meeting = TempDir::new().unwrap();
        command.args(words).env("XDG_RUNTIME_DIR", meeting.path());
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let scope = format!("{scope}-{}", child.id());
        Self {
            child,
            errors,
            scope,
            _meeting: meeting,
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it says on standard error how far it is.
    pub fn wait_for_progress(&mut self, of: &str) {
        let mut line = String::new();
        while !(line.starts_with(of) && line.contains(" of ")) {
            line.clear();
            let read = self.errors.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "it ended");
        }
    }

    /// Waits for its end and gives its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "still running after {SOON:?}");
            sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end, and for that of everything that it started.
    pub fn end(mut self) -> Ended {
        let code = self.wait();
        let (mut out, mut err) = (String::new(), String::new());
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_string(&mut out).unwrap();
        self.errors.read_to_string(&mut err).unwrap();
        assert_eq!(self.left_behind(), Vec::<String>::new());
        Ended { code, out, err }
    }

    /// Waits until nothing runs that it started, which it may not have ended itself.
    pub fn wait_for_others(&self) {
        let deadline = Instant::now() + SOON;
        while !self.left_behind().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", self.left_behind());
            sleep(Duration::from_millis(10));
        }
    }

    /// Command lines of its workers that run.
    pub fn left_behind(&self) -> Vec<String> {
        let running = self.running().into_iter();
        running.map(|(_, command)| command).collect()
    }

    /// Its workers that run.
    pub fn workers(&self) -> Vec<Pid> {
        let running = self.running().into_iter();
        let workers = running.filter(|(_, command)| command.contains(" worker "));
        workers.map(|(pid, _)| pid).collect()
    }

    /// Waits until so many workers run.
    pub fn wait_for_workers(&self, count: usize) {
        let deadline = Instant::now() + SOON;
        while self.workers().len() < count {
            assert!(Instant::now() < deadline, "{:?}", self.left_behind());
            sleep(Duration::from_millis(5));
        }
    }

    /// What it started and runs: process id and command line.
    fn running(&self) -> Vec<(Pid, String)> {
        let of_process = |process: fs::DirEntry| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let command = fs::read(process.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let is_ours = command.split(' ').any(|word| word == self.scope);
            is_ours.then_some((Pid::from_raw(pid)?, command))
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes.filter_map(of_process).collect()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

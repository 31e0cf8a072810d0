//! A process of a test, as the one that started it sees it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use crate::clock::Timestamp;
use support::DEVICE;

/// What a process says before the time at which it was there.
const READY: &str = "ready ";

/// How long a process may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

/// This program in another role; killed and reaped when dropped.
pub(crate) struct Process {
    child: Child,
    /// It leaves when this is closed.
    leash: Option<ChildStdin>,
    output: Option<ChildStdout>,
    /// When it had registered.
    pub(crate) registered: Timestamp,
}

impl Process {
    /// Starts one that uses `device`, and whose temporary files, if it makes any, are to be in
    /// `temp`.
    pub(crate) fn start(words: Vec<OsString>, device: Option<&str>, temp: &Path) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command.args(words).env("TMPDIR", temp);
        match device {
            Some(device) => command.env(DEVICE, device),
            None => command.env_remove(DEVICE),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program starts again");
        Self {
            leash: child.stdin.take(),
            output: child.stdout.take(),
            child,
            registered: Timestamp::now(),
        }
    }

    /// Waits until it [says](say_ready) that it is there.
    pub(crate) async fn ready(mut self, limit: Duration) -> Self {
        let output = self.output.take().expect("it is waited for once");
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).map(|_| line)
        });
        let line = timeout(limit, read).await;
        let line = line.unwrap_or_else(|_| panic!("a process is not ready after {limit:?}"));
        let line = line.expect("reading does not panic").expect("it is a pipe");
        let at = line.trim_end().strip_prefix(READY);
        let at = at.and_then(|at| at.parse().ok());
        let at = at.unwrap_or_else(|| panic!("a process does not come up; it says {line:?}"));
        self.registered = Timestamp(at);
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9. Says when.
    pub(crate) fn kill(&mut self) -> Timestamp {
        let now = Timestamp::now();
        self.child.kill().expect("it is ours to kill");
        self.child.wait().expect("it is ours to reap");
        now
    }

    /// SIGSTOP. Says when all its threads stood still, which takes a moment on another processor.
    pub(crate) fn freeze(&self) -> Timestamp {
        self.signal(Signal::STOP);
        let began = Instant::now();
        while !self.stands_still() {
            assert!(began.elapsed() < STOPS_WITHIN, "it does not stop");
            std::thread::yield_now();
        }
        Timestamp::now()
    }

    fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        let mut tasks = tasks.expect("it is there").flatten();
        tasks.all(|task| {
            let status = std::fs::read_to_string(task.path().join("stat"));
            // The name, in parentheses, may be anything; the state follows.
            let state = status.as_deref().unwrap_or("").rsplit(") ").next();
            state.is_some_and(|state| state.starts_with('T'))
        })
    }

    /// SIGCONT. Says when.
    pub(crate) fn thaw(&self) -> Timestamp {
        let now = Timestamp::now();
        self.signal(Signal::CONT);
        now
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there");
    }

    /// Lets it leave as it should, and sees to it that it does.
    pub(crate) async fn leave(mut self, limit: Duration) {
        self.leash = None;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is ours to reap") {
                break status;
            }
            let elapsed = began.elapsed();
            assert!(elapsed < limit, "a process has not left after {elapsed:?}");
            sleep(Duration::from_millis(5)).await;
        };
        let signal = status.signal();
        assert!(
            status.success(),
            "a process left with {status}, signal {signal:?}"
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The only failure is that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says to the parent that this process registered at that time.
pub(crate) fn say_ready(registered: Timestamp) -> std::io::Result<()> {
    let mut output = std::io::stdout();
    writeln!(output, "{READY}{}", registered.0)?;
    output.flush()
}

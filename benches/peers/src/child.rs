//! The other process of a peer: it ends with us, and is ended when it takes too long.

use std::io::{BufRead, BufReader};
use std::process::{self, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::peers;
use crate::support::Result;

/// Whoever waits for it gets an end of file or of connection once it is gone, so its leash is ours,
/// too.
pub(crate) struct Child {
    shared: Arc<Shared>,
    from: BufReader<ChildStdout>,
    /// Closed when we end, which it notices.
    _to: ChildStdin,
    /// Dropped when it need not be watched any more.
    _leash: Sender<()>,
}

struct Shared {
    process: Mutex<process::Child>,
    is_late: AtomicBool,
}

impl Shared {
    fn kill(&self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Child {
    /// This program once more, which serves that peer `at` an address, for `limit` at most.
    pub(crate) fn serving(peer: &str, at: &str, limit: Duration) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([
            "--serve",
            peer,
            "--at",
            at,
            "--threads",
            &peers::threads().to_string(),
        ]);
        Self::start(&mut command, limit)
    }

    pub(crate) fn start(command: &mut Command, limit: Duration) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {command:?}: {error}"))?;
        let to = process.stdin.take().ok_or("no stdin")?;
        let from = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        let shared = Arc::new(Shared {
            process: Mutex::new(process),
            is_late: AtomicBool::new(false),
        });
        let (leash, released) = mpsc::channel();
        let watched = shared.clone();
        thread::spawn(move || {
            if released.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                watched.is_late.store(true, Ordering::Relaxed);
                watched.kill();
            }
        });
        Ok(Self {
            shared,
            from,
            _to: to,
            _leash: leash,
        })
    }

    /// The next thing that it says; `None` once it has said all and ended well.
    pub(crate) fn next_line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? > 0 {
            return Ok(Some(line.trim().to_owned()));
        }
        if self.shared.is_late.load(Ordering::Relaxed) {
            return Err("it took too long and was ended".into());
        }
        let mut process = self
            .shared
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match process.wait()? {
            status if status.success() => Ok(None),
            status => Err(format!("its process ended ({status}), see above").into()),
        }
    }

    /// As [`next_line`](Self::next_line), where there must be one.
    pub(crate) fn line(&mut self) -> Result<String> {
        let line = self.next_line()?;
        line.ok_or_else(|| "its process ended before it was ready".into())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.shared.kill();
    }
}

/// Ends this process when its parent closes our standard input, as it does however it ends.
pub(crate) fn end_with_parent() {
    thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        process::exit(0);
    });
}

/// Says that we can be called.
pub(crate) fn ready() {
    println!("ready");
}

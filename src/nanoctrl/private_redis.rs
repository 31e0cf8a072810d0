//! The server's private Redis: on loopback, without persistence, never outliving the server. A
//! Redis that ends by itself is replaced by another on the same port, where agents register again.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use tokio::sync::oneshot;

use super::StartError;

/// Another process may take the port between its choice and redis-server's start.
const ATTEMPTS: usize = 3;
const START_TIMEOUT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Longest pause before a Redis that ended by itself is replaced.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// A running `redis-server`; ends when dropped.
#[derive(Debug)]
pub(super) struct PrivateRedis {
    port: u16,
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl PrivateRedis {
    /// Starts a Redis. A thread keeps it, because the system ends it with the *thread* that started
    /// it.
    pub(super) async fn start() -> Result<Self, StartError> {
        let (started_tx, started) = oneshot::channel();
        let (stop, stopped) = mpsc::channel();
        let keeper = thread::Builder::new()
            .name("nanoctrl-redis".to_owned())
            .spawn(move || keep(started_tx, &stopped))
            .map_err(failed)?;
        let port = started
            .await
            .map_err(|_| failed("its keeper died"))?
            .map_err(failed)?;
        tracing::info!(port, "private redis-server started");
        Ok(Self {
            port,
            stop: Some(stop),
            keeper: Some(keeper),
        })
    }

    /// URL of the Redis.
    pub(super) fn url(&self) -> String {
        url(self.port)
    }
}

fn url(port: u16) -> String {
    format!("redis://{}:{port}", Ipv4Addr::LOCALHOST)
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            // A keeper that panicked has dropped the process, which ends it.
            let _ = keeper.join();
        }
    }
}

fn failed(reason: impl ToString) -> StartError {
    StartError::PrivateRedis {
        reason: reason.to_string(),
    }
}

/// Starts a redis-server, reports its port, and ends it when nobody needs it any more. Each
/// replacement makes the pause before the next one longer.
fn keep(started: oneshot::Sender<io::Result<u16>>, stopped: &mpsc::Receiver<()>) {
    let mut process = match Process::start() {
        Ok(process) => process,
        Err(error) => return drop(started.send(Err(error))),
    };
    if started.send(Ok(process.port)).is_err() {
        return;
    }
    let mut pause = 10 * LOOK_EVERY;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let Ok(Some(status)) = process.child.try_wait() else {
            continue;
        };
        tracing::error!(%status, port = process.port, "private redis-server ended by itself; starting another");
        match Process::start_once(process.port) {
            Ok(another) => process = another,
            Err(error) => tracing::error!(%error, "private redis-server did not start again"),
        }
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

struct Process {
    child: Child,
    port: u16,
    folder: Folder,
}

impl Process {
    fn start() -> io::Result<Self> {
        let mut last = Self::start_once(free_port()?);
        for _ in 1..ATTEMPTS {
            if last.is_ok() {
                break;
            }
            last = Self::start_once(free_port()?);
        }
        last
    }

    fn start_once(port: u16) -> io::Result<Self> {
        let folder = Folder::new()?;
        let log = File::create(folder.log())?;
        let child = command(port, &folder.0, log)?.spawn()?;
        let mut process = Self {
            child,
            port,
            folder,
        };
        process.wait_until_up()?;
        Ok(process)
    }

    fn wait_until_up(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.folder.log()).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default();
                return Err(io::Error::other(format!("{status}: {last}")));
            }
            match self.listener() {
                Ok(listener) if listener == self.child.id() => return Ok(()),
                // This server's Redis is about to find the port taken, or is not there yet.
                Ok(_) | Err(_) => {}
            }
            thread::sleep(LOOK_EVERY);
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// The process id of the Redis that listens on the port.
    fn listener(&self) -> redis::RedisResult<u32> {
        let mut connection =
            redis::Client::open(url(self.port))?.get_connection_with_timeout(START_TIMEOUT)?;
        connection.set_read_timeout(Some(START_TIMEOUT))?;
        let about: redis::InfoDict = redis::cmd("INFO").arg("server").query(&mut connection)?;
        let missing = (
            redis::ErrorKind::UnexpectedReturnType,
            "no process_id in INFO",
        );
        about.get("process_id").ok_or_else(|| missing.into())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has nothing to save. Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a process group of its own, so that Ctrl-C reaches the server and not its Redis.
fn command(port: u16, folder: &Path, log: File) -> io::Result<Command> {
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .arg("--dir")
        .arg(folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(log.try_clone()?)
        .stdout(log)
        .process_group(0);
    end_with_us(&mut command);
    Ok(command)
}

/// Has the system kill the command when the calling thread ends, for whatever reason.
fn end_with_us(command: &mut Command) {
    let us = rustix::process::getpid();
    let bind_lives = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() == Some(us) {
            Ok(())
        } else {
            // The parent died before the child could register for the signal.
            Err(io::ErrorKind::NotConnected.into())
        }
    };
    // SAFETY: between fork and exec only functions that are safe after a fork may run. The closure
    // makes two system calls and neither allocates nor takes a lock.
    unsafe { command.pre_exec(bind_lives) };
}

fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// An empty folder that no other user may enter; removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("nanoctrl-redis-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                // Left behind by a process that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                created => return created.map(|()| Self(path)),
            }
        }
    }

    fn log(&self) -> PathBuf {
        self.0.join("redis.log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, folder = %self.0.display(), "temporary folder stays");
        }
    }
}

//! A server in the background: what `nanoctrl start`, `status` and `stop` do.
//!
//! The server is this program's own executable, called with `server …`, in its own process group.
//! Beside its log, `nanoctrl.log`, two files in the runtime folder tell of it: `nanoctrl.pid` and
//! `nanoctrl.meta.json`.

mod error;
mod files;
mod health;
mod process;
mod strangers;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal};

pub use error::DaemonError;
use files::{Meta, RuntimeFolder};
pub use strangers::Stranger;

use super::StartError;
use super::config::RedisSource;
use super::host;
use crate::clock::later;
use crate::control::Secret;

/// How often a server that starts or stops is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long a killed server may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// What is shown of a log at most, in bytes.
const RECENT_LOG: u64 = 16 * 1024;

/// Address of a server about which nothing is known.
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:3000";

/// What [`start`] is to start.
#[derive(Debug, Clone)]
pub struct Start {
    /// Host to listen on.
    pub host: String,
    /// Port to listen on.
    pub port: u16,
    /// Redis, if it was named.
    pub redis_url: Option<String>,
    /// The token that callers have to bring, if any.
    pub token: Option<Secret>,
    /// Where to ask whether the server is up, if not at `host`.
    pub health_host: Option<String>,
    /// Where to ask whether the server is up, if not at `port`.
    pub health_port: Option<u16>,
    /// The log, if not in the runtime folder.
    pub log_file: Option<PathBuf>,
    /// How long the server may take to be up.
    pub wait: Duration,
}

impl Start {
    fn address(&self) -> String {
        let host = self.health_host.as_deref().unwrap_or(&self.host);
        let host = host::without_port(host);
        let host = match host::address(host) {
            Some(ip) if ip.is_unspecified() && ip.is_ipv4() => "127.0.0.1".to_owned(),
            Some(ip) if ip.is_unspecified() => "[::1]".to_owned(),
            _ => host::bracketed(host),
        };
        format!("http://{host}:{}", self.health_port.unwrap_or(self.port))
    }

    fn arguments(&self) -> Vec<String> {
        let port = self.port.to_string();
        ["server", "--host", &self.host, "--port", &port]
            .map(str::to_owned)
            .into()
    }
}

/// How [`start`] went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartOutcome {
    /// The server is up.
    Up(RunningServer),
    /// The server's process runs, but it did not answer in time.
    Silent {
        /// The process.
        running: RunningServer,
        /// What it has logged.
        recent_log: String,
    },
    /// There was one already.
    Already {
        /// Its process.
        pid: i32,
    },
    /// Something that is not ours answers at the address.
    Occupied {
        /// The address.
        address: String,
    },
}

/// A server's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningServer {
    /// Its process number.
    pub pid: i32,
    /// Where it is asked whether it is up.
    pub address: String,
    /// Its log.
    pub log: PathBuf,
    /// Whether it was to run a Redis of its own.
    pub private_redis: bool,
}

/// Starts a server in the background, unless there is one.
///
/// # Errors
/// There is no Redis, the server ended at once, or files cannot be written.
pub fn start(options: &Start) -> Result<StartOutcome, DaemonError> {
    let folder = RuntimeFolder::make()?;
    let _lock = folder.lock()?;
    let address = options.address();
    for other in RuntimeFolder::all() {
        // One that another folder tells of is another one, unless it is in the way.
        let is_in_the_way = |meta: Option<Meta>| meta.is_some_and(|it| it.address == address);
        if let Some((pid, meta)) = other.running()
            && (other == folder || is_in_the_way(meta))
        {
            return Ok(StartOutcome::Already {
                pid: pid.as_raw_nonzero().get(),
            });
        }
    }
    folder.forget();
    if health::probe(&address, None).is_ok() {
        return Ok(StartOutcome::Occupied { address });
    }
    if let Some(token) = &options.token {
        let checked = token.check_token();
        checked.map_err(|reason| StartError::Token { reason })?;
    }
    let redis = RedisSource::choose(options.redis_url.as_deref())?;

    let log = options.log_file.clone().unwrap_or_else(|| folder.log());
    let (mut log_file, log_start) = open_log(&log)?;
    let mut child = spawn(options, &redis, &log_file)?;
    let running = RunningServer {
        pid: child.id().cast_signed(),
        address,
        log,
        private_redis: redis == RedisSource::Private,
    };
    remember(&folder, options, &running)?;
    match wait_until_up(&mut child, options.wait, &running.address) {
        Up::Yes => Ok(StartOutcome::Up(running)),
        Up::NotYet => Ok(StartOutcome::Silent {
            running,
            recent_log: read_from(&mut log_file, log_start),
        }),
        Up::Ended(status) => {
            folder.forget();
            Err(DaemonError::Ended {
                status,
                log: running.log,
                recent_log: read_from(&mut log_file, log_start),
            })
        }
    }
}

fn open_log(path: &PathBuf) -> Result<(File, u64), DaemonError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(DaemonError::file(parent))?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(path)
        .map_err(DaemonError::file(path))?;
    let length = log.metadata().map_err(DaemonError::file(path))?.len();
    Ok((log, length))
}

fn read_from(log: &mut File, start: u64) -> String {
    let end = log.metadata().map(|log| log.len()).unwrap_or_default();
    let mut text = Vec::new();
    let read = log
        .seek(SeekFrom::Start(start.max(end.saturating_sub(RECENT_LOG))))
        .and_then(|_| log.take(RECENT_LOG).read_to_end(&mut text));
    match read {
        Ok(_) => String::from_utf8_lossy(&text).trim_end().to_owned(),
        Err(error) => format!("(unreadable: {error})"),
    }
}

fn program() -> Result<PathBuf, DaemonError> {
    std::env::current_exe().map_err(DaemonError::Spawn)
}

/// Starts the server. Arguments are for all to see, in `ps` and in the meta file, so what may be
/// secret goes through its environment.
fn spawn(options: &Start, redis: &RedisSource, log: &File) -> Result<Child, DaemonError> {
    let log = |()| log.try_clone().map_err(DaemonError::Spawn);
    let mut command = Command::new(program()?);
    if let RedisSource::Url(url) = redis {
        command.env("NANOCTRL_REDIS_URL", url);
    }
    if let Some(token) = &options.token {
        command.env("NANOCTRL_TOKEN", token.expose());
    }
    command
        .args(options.arguments())
        .stdin(Stdio::null())
        .stdout(log(())?)
        .stderr(log(())?)
        .process_group(0)
        .spawn()
        .map_err(DaemonError::Spawn)
}

fn remember(
    folder: &RuntimeFolder,
    options: &Start,
    running: &RunningServer,
) -> Result<(), DaemonError> {
    let mut cmd = vec![program()?.to_string_lossy().into_owned()];
    cmd.extend(options.arguments());
    let started_at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    folder.remember(&Meta {
        pid: running.pid,
        address: running.address.clone(),
        cmd,
        log: running.log.clone(),
        started_at: started_at.as_secs(),
    })
}

enum Up {
    Yes,
    NotYet,
    Ended(std::process::ExitStatus),
}

fn wait_until_up(child: &mut Child, wait: Duration, address: &str) -> Up {
    let deadline = later(Instant::now(), wait);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Up::Ended(status);
        }
        if health::probe(address, None).is_ok() {
            return Up::Yes;
        }
        if Instant::now() >= deadline {
            return Up::NotYet;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// What [`status`] has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The server's process, if it runs.
    pub pid: Option<i32>,
    /// Where it was asked whether it is up.
    pub address: String,
    /// Its answer, or why there was none.
    pub health: Result<(), String>,
    /// Whether it answers, but wants another token than the one brought for everything else.
    pub is_locked: bool,
    /// Its log, if it runs.
    pub log: Option<PathBuf>,
    /// Where it was looked for in vain, if it was not found.
    pub search: Option<Search>,
}

/// Where a server was looked for that was not found, and what runs all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The runtime folders.
    pub folders: Vec<PathBuf>,
    /// The address that was asked in case that one is there of which no folder tells: the default
    /// one.
    pub asked: String,
    /// That address, if a server answers there.
    pub answering: Option<String>,
    /// Servers of this user that those folders do not tell of. They are looked for unless the
    /// environment names one folder for this alone, so that no other is meant.
    pub strangers: Vec<Stranger>,
}

impl Search {
    fn new() -> Self {
        let answering = health::probe(DEFAULT_ADDRESS, None).is_ok();
        Self {
            folders: RuntimeFolder::all()
                .iter()
                .map(|folder| folder.path().to_owned())
                .collect(),
            asked: DEFAULT_ADDRESS.to_owned(),
            answering: answering.then(|| DEFAULT_ADDRESS.to_owned()),
            strangers: match files::is_named() {
                true => Vec::new(),
                false => strangers::strangers(),
            },
        }
    }

    /// Whether there is a server after all.
    pub fn is_in_doubt(&self) -> bool {
        self.answering.is_some() || !self.strangers.is_empty()
    }
}

/// The started server: what the runtime folders tell of. Folders that tell of no server that can be
/// seen are left as they are: they may be another user's, or those of a server in another
/// container, or be written just now.
fn started() -> Option<(RuntimeFolder, Pid, Option<Meta>)> {
    RuntimeFolder::all().into_iter().find_map(|folder| {
        let (pid, meta) = folder.running()?;
        Some((folder, pid, meta))
    })
}

/// Looks after the server; asks at `address` if one is given, and brings the token if there is one.
pub fn status(address: Option<&str>, token: Option<&Secret>) -> Status {
    let (pid, meta) = match started() {
        Some((_, pid, meta)) => (Some(pid.as_raw_nonzero().get()), meta),
        None => (None, None),
    };
    let known = meta.as_ref().map(|meta| meta.address.as_str());
    let address = address.or(known).unwrap_or(DEFAULT_ADDRESS).to_owned();
    let probed = health::probe(&address, token.filter(|token| token.check_token().is_ok()));
    Status {
        pid,
        is_locked: probed == Ok(true),
        health: probed.map(drop),
        address,
        log: meta.map(|meta| meta.log),
        search: pid.is_none().then(Search::new),
    }
}

/// Where the started server answers; the default address if none was started here.
pub fn address() -> String {
    let known = started().and_then(|(_, _, meta)| Some(meta?.address));
    known.unwrap_or_else(|| DEFAULT_ADDRESS.to_owned())
}

/// How [`stop`] went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// The server has ended.
    Ended {
        /// Its process number.
        pid: i32,
    },
    /// No started server was found.
    NotFound(Search),
}

/// Ends the server. One that has not ended after `timeout` is killed with `force`.
///
/// # Errors
/// The server has not ended.
pub fn stop(timeout: Duration, force: bool) -> Result<Stopped, DaemonError> {
    let Some((folder, pid, _)) = started() else {
        return Ok(Stopped::NotFound(Search::new()));
    };
    let number = pid.as_raw_nonzero().get();
    let ended = end(pid, Signal::TERM, timeout)? || force && end(pid, Signal::KILL, KILL_TIMEOUT)?;
    if !ended {
        return Err(DaemonError::StillRunning {
            pid: number,
            timeout,
        });
    }
    folder.forget();
    Ok(Stopped::Ended { pid: number })
}

/// Signals, and waits for the process to be gone; false if it is not.
fn end(pid: Pid, signal: Signal, timeout: Duration) -> Result<bool, DaemonError> {
    process::signal(pid, signal)?;
    let deadline = later(Instant::now(), timeout);
    while process::is_alive(pid) {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(LOOK_EVERY / 4);
    }
    Ok(true)
}

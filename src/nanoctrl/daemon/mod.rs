//! A server in the background: what `nanoctrl start`, `status` and `stop` do.
//!
//! The server is this program's own executable, called with `server …`, in its own process group.
//! Beside its log, `nanoctrl.log`, two files in the runtime folder describe it: `nanoctrl.pid` and
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
use super::config::{RedisSource, ServerTls};
use super::host;
use crate::clock::later;
use crate::control::Secret;

/// Pause between two checks of a server that starts or stops.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long a killed server may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of a log that are shown.
const RECENT_LOG: u64 = 16 * 1024;

/// Address of a server that is not described anywhere.
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:3000";

/// Options of [`start`].
#[derive(Debug, Clone)]
pub struct Start {
    /// Host to listen on.
    pub host: String,
    /// Port to listen on.
    pub port: u16,
    /// URL of Redis, if one was given.
    pub redis_url: Option<String>,
    /// Token that callers must send, if any.
    pub token: Option<Secret>,
    /// Files of the certificates, if it is to speak TLS.
    pub tls: Option<ServerTls>,
    /// Host at which to check the server, if not `host`.
    pub health_host: Option<String>,
    /// Port at which to check the server, if not `port`.
    pub health_port: Option<u16>,
    /// Path of the log, if not in the runtime folder.
    pub log_file: Option<PathBuf>,
    /// How long the server may take to answer.
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
        let scheme = self.tls.as_ref().map_or("http", |_| "https");
        let port = self.health_port.unwrap_or(self.port);
        format!("{scheme}://{host}:{port}")
    }

    fn arguments(&self) -> Vec<String> {
        let port = self.port.to_string();
        let mut arguments: Vec<_> = ["server", "--host", &self.host, "--port", &port]
            .map(str::to_owned)
            .into();
        if let Some(ServerTls {
            cert,
            key,
            client_ca,
        }) = &self.tls
        {
            let files = [("--tls-cert", Some(cert)), ("--tls-key", Some(key))];
            for (option, file) in files
                .into_iter()
                .chain([("--tls-client-ca", client_ca.as_ref())])
            {
                let file = file.map(|file| file.to_string_lossy().into_owned());
                arguments.extend(file.into_iter().flat_map(|file| [option.to_owned(), file]));
            }
        }
        arguments
    }
}

/// The result of [`start`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartOutcome {
    /// The server is up.
    Up(RunningServer),
    /// The server's process runs, but it did not answer in time.
    Silent {
        /// The server's process.
        running: RunningServer,
        /// The end of its log.
        recent_log: String,
    },
    /// A server was running already.
    Already {
        /// Id of its process.
        pid: i32,
    },
    /// Another program answers at the address.
    Occupied {
        /// The occupied address.
        address: String,
    },
}

/// The process of a started server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningServer {
    /// Id of the process.
    pub pid: i32,
    /// Address at which it is checked.
    pub address: String,
    /// Path of its log.
    pub log: PathBuf,
    /// Whether it was told to run a private Redis.
    pub private_redis: bool,
}

/// Starts a server in the background, unless one is running.
///
/// # Errors
/// There is no Redis, the server ended at once, or files cannot be written.
pub fn start(options: &Start) -> Result<StartOutcome, DaemonError> {
    let folder = RuntimeFolder::make()?;
    let _lock = folder.lock()?;
    let address = options.address();
    for other in RuntimeFolder::all() {
        // A server that another folder describes is another one, unless it is in the way.
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
    if health::answers(&address) {
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

/// Starts the server's process. Arguments are visible to all users, in `ps` and in the meta file,
/// so secrets go through its environment.
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
        if health::answers(address) {
            return Up::Yes;
        }
        if Instant::now() >= deadline {
            return Up::NotYet;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// The result of [`status`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Id of the server's process, if it runs.
    pub pid: Option<i32>,
    /// Address at which it was checked.
    pub address: String,
    /// Its answer, or why there was none.
    pub health: Result<(), String>,
    /// Whether it answers, but requires another token than the one given.
    pub is_locked: bool,
    /// Path of its log, if it runs.
    pub log: Option<PathBuf>,
    /// Where the server was looked for, if it was not found.
    pub search: Option<Search>,
}

/// A search for a server that was not found: where it was looked for, and what runs nevertheless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The runtime folders that were searched.
    pub folders: Vec<PathBuf>,
    /// The address that was checked for a server that no folder describes: the default one.
    pub asked: String,
    /// That address, if a server answers there.
    pub answering: Option<String>,
    /// Servers of this user that those folders do not describe. They are searched for unless the
    /// environment names a folder for this alone, which excludes all others.
    pub strangers: Vec<Stranger>,
}

impl Search {
    fn new() -> Self {
        let answering = health::answers(DEFAULT_ADDRESS);
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

    /// Returns whether there may be a server nevertheless.
    pub fn is_in_doubt(&self) -> bool {
        self.answering.is_some() || !self.strangers.is_empty()
    }
}

/// The started server, as the runtime folders describe it. Folders that describe no visible server
/// are left alone: they may be another user's, or those of a server in another container, or
/// incomplete at this moment.
fn started() -> Option<(RuntimeFolder, Pid, Option<Meta>)> {
    RuntimeFolder::all().into_iter().find_map(|folder| {
        let (pid, meta) = folder.running()?;
        Some((folder, pid, meta))
    })
}

/// Checks the server, at `address` if one is given, with the token if there is one.
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
        health: probed.map(drop).map_err(|unwell| unwell.to_string()),
        address,
        log: meta.map(|meta| meta.log),
        search: pid.is_none().then(Search::new),
    }
}

/// Address of the started server; the default address if none was started here.
pub fn address() -> String {
    let known = started().and_then(|(_, _, meta)| Some(meta?.address));
    known.unwrap_or_else(|| DEFAULT_ADDRESS.to_owned())
}

/// The result of [`stop`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// The server has ended.
    Ended {
        /// Id of its process.
        pid: i32,
    },
    /// No started server was found.
    NotFound(Search),
}

/// Stops the server. If it has not ended after `timeout`, `force` kills it.
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

/// Signals a process and waits for its end; returns false if it has not ended.
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

//! Servers that tests start for themselves: a private Redis, and a NanoCtrl with one.

use std::{
    env,
    ffi::OsStr,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Overrides the NanoCtrl under test with another program, for instance DLSlime's `dlslime-ctrl`.
const NANOCTRL: &str = "SLIME_TEST_NANOCTRL";

/// A program of this workspace: `cargo test` builds them beside its tests. An example is in the
/// folder `examples`.
///
/// # Panics
/// It was not built.
pub fn program(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name(name);
    assert!(
        program.exists(),
        "{program:?} was not built: `cargo build --bins --examples`"
    );
    program
}

/// A port of 127.0.0.1 that nobody listens on, and that no other test of this process was given. It
/// is below those that the system chooses from by itself, for outgoing connections too.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes that test at the same time begin at different places.
    let start = process::id().wrapping_mul(101);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A child process that does not outlive the test.
#[derive(Debug)]
struct Server(Child);

impl Server {
    /// Starts a server and waits until it listens on `port`.
    fn start(mut command: Command, port: u16) -> Option<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{command:?} does not start: {error}; is it installed?");
        });
        let mut server = Self(child);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server.is_alive().then_some(server);
            }
            if !server.is_alive() {
                return None;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("{command:?} does not listen on {port} after {PATIENCE:?}");
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The same command, with so many files that it may have open until it raises that limit.
fn with_files(command: &Command, limit: u32) -> Command {
    let mut limited = tied("prlimit");
    limited.arg(format!("--nofile={limit}:"));
    // What it runs is tied already.
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.stderr(Stdio::null());
    limited
}

/// A command for a process that the system kills when the thread that started it ends, however that
/// ends.
fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// A Redis of our own that stores nothing.
#[derive(Debug)]
pub struct Redis {
    server: Option<Server>,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl Redis {
    /// Starts one; a port that somebody else took meanwhile is tried again.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more arguments, which it has until it is restarted.
    pub fn start_with(arguments: &[&str]) -> Self {
        for _ in 0..5 {
            let port = free_port();
            let mut command = redis_command(port);
            command.args(arguments);
            if let Some(server) = Server::start(command, port) {
                let server = Some(server);
                let redis = Self { server, port };
                if redis.answers() {
                    return redis;
                }
            }
        }
        panic!("redis-server exits at once");
    }

    /// Ends it; what it had is lost.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts it again on its port, empty.
    pub fn restart(&mut self) {
        self.stop();
        let server = Server::start(redis_command(self.port), self.port);
        self.server = Some(server.expect("the port is still free"));
        assert!(self.answers(), "it exits at once");
    }

    /// Waits until it answers, if only that it wants a password: it listens before that, and then
    /// exits if the port of a cluster's node is taken.
    fn answers(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"PING\r\n")?;
            // One that speaks TLS alone hangs up.
            stream.read(&mut [0])
        };
        ask().is_ok()
    }

    /// Lets it hang, connections open, until [`resume`](Self::resume).
    pub fn suspend(&self) {
        self.server.as_ref().unwrap().signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.server.as_ref().unwrap().signal(Signal::CONT);
    }

    /// Its address, as agents name it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection of its own.
    pub fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_connection().unwrap()
    }

    /// Runs a command, given as words.
    pub fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query(&mut self.connect()).unwrap()
    }

    /// All keys, sorted.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.run(&["KEYS", "*"]);
        keys.sort();
        keys
    }

    /// Adds keys that are nobody's, with names such as agents have.
    pub fn populate(&self, count: u32) {
        let script = "for i = 1, ARGV[1] do redis.call('SET', 'agent:other:' .. i, i) end";
        self.run::<()>(&["EVAL", script, "0", &count.to_string()]);
    }

    /// Statistics of the commands that look through all keys, if any was called.
    pub fn looks_through_keys(&self) -> Vec<String> {
        let calls: String = self.run(&["INFO", "commandstats"]);
        let looks =
            |line: &&str| line.starts_with("cmdstat_scan:") || line.starts_with("cmdstat_keys:");
        calls.lines().filter(looks).map(str::to_owned).collect()
    }

    /// Requests that clients have sent since Redis started; a pipeline or a script is one.
    pub fn requests(&self) -> u64 {
        let statistics: String = self.run(&["INFO", "stats"]);
        let mut lines = statistics.lines();
        let reads = lines.find_map(|line| line.strip_prefix("total_reads_processed:"));
        reads.unwrap().trim().parse().unwrap()
    }

    /// Waits until a client is blocked in a command, as a reader of mail is.
    ///
    /// # Panics
    /// None is after [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn blocks_somebody(&self) -> impl Future<Output = ()> {
        crate::until("a client is blocked in Redis", || {
            let clients: String = self.run(&["INFO", "clients"]);
            !clients.contains("blocked_clients:0")
        })
    }

    /// Commands that Redis has run since it started, those of scripts included.
    pub fn calls(&self) -> u64 {
        let statistics: String = self.run(&["INFO", "commandstats"]);
        statistics
            .lines()
            .filter(|line| !line.starts_with("cmdstat_info"))
            .filter_map(|line| {
                line.split_once("calls=")?
                    .1
                    .split(',')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .sum()
    }
}

fn redis_command(port: u16) -> Command {
    let mut command = tied("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--save", "", "--appendonly", "no"]);
    command
}

/// A NanoCtrl server with a Redis of its own.
#[derive(Debug)]
pub struct NanoCtrlServer {
    server: Option<Server>,
    files: Option<u32>,
    /// Where it keeps what it knows.
    pub redis: Redis,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl NanoCtrlServer {
    /// Starts both; a port that somebody else took meanwhile is tried again.
    pub fn start() -> Self {
        Self::prepare().started()
    }

    /// Starts both, the server with so many files that it may have open until it raises that limit.
    pub fn start_with_files(limit: u32) -> Self {
        let mut nanoctrl = Self::prepare();
        nanoctrl.files = Some(limit);
        nanoctrl.started()
    }

    fn started(mut self) -> Self {
        let nanoctrl = &mut self;
        for _ in 0..5 {
            if nanoctrl.try_serve() {
                return self;
            }
            nanoctrl.port = free_port();
        }
        panic!("NanoCtrl exits at once");
    }

    /// Only Redis is up, until [`serve`](Self::serve).
    pub fn prepare() -> Self {
        Self {
            server: None,
            files: None,
            redis: Redis::start(),
            port: free_port(),
        }
    }

    /// Starts it, on its port.
    pub fn serve(&mut self) {
        assert!(self.try_serve(), "NanoCtrl exits at once");
    }

    fn try_serve(&mut self) -> bool {
        let command = nanoctrl_command(self.port, &self.redis.url());
        let command = match self.files {
            Some(limit) => with_files(&command, limit),
            None => command,
        };
        self.server = Server::start(command, self.port);
        self.server.is_some()
    }

    /// Ends it; Redis goes on.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Its address, as agents name it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn nanoctrl_command(port: u16, redis: &str) -> Command {
    let mut command = match env::var(NANOCTRL) {
        Ok(other) => {
            let mut words = other.split_whitespace();
            let mut command = tied(words.next().expect("a command"));
            command.args(words);
            command
        }
        Err(_) => tied(program("nanoctrl")),
    };
    command.args(["server", "--host", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--redis-url", redis]);
    command.stderr(Stdio::null());
    // A developer's own settings would override the arguments.
    for variable in env::vars().map(|(name, _)| name) {
        if variable.starts_with("NANOCTRL_") || variable.starts_with("DLSLIME_CTRL_") {
            command.env_remove(variable);
        }
    }
    command
}

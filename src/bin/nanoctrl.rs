//! The `nanoctrl` command line.

#[path = "nanoctrl/doctor.rs"]
mod doctor;
#[path = "nanoctrl/listing.rs"]
mod listing;
#[path = "nanoctrl/obs.rs"]
mod obs;
#[path = "nanoctrl/output.rs"]
mod output;
#[path = "nanoctrl/top.rs"]
mod top;

use std::io::{self, IsTerminal};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use slimerpc::control::{ClientTls, Secret};
use slimerpc::fabric::raise_open_files;
use slimerpc::nanoctrl::daemon::{
    self, DaemonError, RunningServer, Search, StartOutcome, Stopped, Stranger,
};
use slimerpc::nanoctrl::{Config, RedisSource, Server, ServerTls, environment};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use output::{Report, complain};

const EXAMPLES: &str = "\
Examples:
  nanoctrl start                                     in the background, on port 3000
  nanoctrl start --redis-url redis://10.0.0.5:6379   with this Redis
  nanoctrl status
  nanoctrl services --scope job-7                    what can be called, and whom
  nanoctrl agents --json
  nanoctrl agents --peers                            over which fabric each reaches its peers, and why
  nanoctrl agents --all-scopes --port 3001
  nanoctrl obs peers --watch                         what agents say of themselves, once a second
  nanoctrl obs status --scope job-7 --redis-url redis://10.0.0.5:6379
  nanoctrl top --scope job-7                         services by rate, agents by state
  nanoctrl doctor --peer 10.0.0.7:4480               what is wrong here, and what to do
  nanoctrl stop
  nanoctrl server --host 127.0.0.1 --port 4479       in the foreground
  NANOCTRL_TOKEN=$(cat token) nanoctrl start         answers only those who bring this token
  nanoctrl start --tls-cert ctrl.crt --tls-key ctrl.key
                                                     speaks TLS: its URL begins with https://
  NANOCTRL_CA=ca.crt nanoctrl agents --address https://ctrl:3000

Redis: the one that NANOCTRL_REDIS_URL or --redis-url names; else the one at redis://127.0.0.1:6379; else, if
`redis-server` is on PATH, a private one, for agents on this machine only, that ends with the server.

Environment (DLSLIME_CTRL_… works like NANOCTRL_…, which wins):
  NANOCTRL_REDIS_URL        Redis to use; overrides --redis-url
  NANOCTRL_TOKEN            bearer token: one that callers must bring, or, for other commands than `start` and `server`, the one to
                            bring; unlike --token, which wins, it is not to be seen in the list of processes
  NANOCTRL_TLS_CERT, NANOCTRL_TLS_KEY, NANOCTRL_TLS_CLIENT_CA
                            as --tls-cert, --tls-key and --tls-client-ca
  NANOCTRL_CA               authorities that may vouch for a server at https://, PEM [default: those of the system]; where one of
                            these files is set, an address without http:// is one of https://
  NANOCTRL_CERT, NANOCTRL_KEY
                            our certificate and its key, PEM, for a server that was started with --tls-client-ca
  NANOCTRL_REDIS_ADVERTISE  Redis address to tell agents, HOST:PORT, if not the one of the URL
  REDIS_PUBLIC_ADDRESS      Redis address to tell agents on other machines if the URL is on loopback
  NANOCTRL_RUST_LOG         what to log, for instance `debug` or `slimerpc=trace` [default: info]
  NANOCTRL_RUNTIME_DIR      folder of nanoctrl.pid, nanoctrl.meta.json and nanoctrl.log
                            [default: $XDG_RUNTIME_DIR/nanoctrl, else nanoctrl in the temporary folder]";

/// Control plane of SlimeRPC: registers agents and tells them of each other, through Redis.
#[derive(Parser)]
#[command(name = "nanoctrl", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run in the foreground; the same as no command
    Server(ServerArgs),
    /// Start in the background
    Start(StartArgs),
    /// Tell whether the started server runs and answers; exit status 1 if it does not run
    Status {
        #[command(flatten)]
        server: ServerAddress,
        #[command(flatten)]
        token: TokenArg,
    },
    /// List the live services that native agents serve to everybody
    Services(listing::ListArgs),
    /// List the live agents, DLSlime's among them
    Agents(listing::AgentArgs),
    /// Show what agents say of themselves: native ones that were started with DLSLIME_OBS=1, and
    /// DLSlime's
    #[command(subcommand)]
    Obs(obs::ObsCommand),
    /// Show agents and services, by load, in a terminal that is kept up to date
    Top(obs::ObsSource),
    /// Check what agents of this machine would stumble over, and say what to do; exit status 1 if
    /// there is a problem
    Doctor(doctor::DoctorArgs),
    /// Stop the started server
    Stop {
        /// How long the server may take to end, in seconds
        #[arg(long, default_value = "8", value_parser = seconds, value_name = "SECONDS")]
        timeout: Duration,
        /// Kill the server if it has not ended then
        #[arg(long)]
        force: bool,
    },
}

/// Where to ask, if not where the server was started.
#[derive(Args)]
struct ServerAddress {
    /// Ask the server here [default: where it was started, else http://127.0.0.1:3000]
    #[arg(long, value_name = "URL", conflicts_with_all = ["at_host", "at_port"])]
    address: Option<String>,
    /// Ask the server on this host
    #[arg(id = "at_host", long = "host", value_name = "HOST")]
    host: Option<String>,
    /// Ask the server on this port
    #[arg(id = "at_port", long = "port", value_name = "PORT")]
    port: Option<u16>,
}

impl ServerAddress {
    /// The given address, if there is one.
    fn find(self) -> Option<String> {
        let tls = ClientTls::default().or_environment();
        if self.host.is_none() && self.port.is_none() {
            return self.address.map(|address| tls.url_of(&address));
        }
        let host = self.host.unwrap_or_else(|| "127.0.0.1".to_owned());
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => host,
        };
        Some(tls.url_of(&format!("{host}:{}", self.port.unwrap_or(3000))))
    }
}

#[derive(Args)]
struct TokenArg {
    /// Bearer token that callers must bring, or that we bring; better in NANOCTRL_TOKEN, as
    /// arguments are for all to see
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

impl TokenArg {
    /// The given token, or that of the environment.
    fn find(self) -> Option<Secret> {
        self.token
            .or_else(|| environment::lookup("TOKEN"))
            .map(Secret::from)
    }
}

/// How the server speaks TLS.
#[derive(Args)]
struct TlsArgs {
    /// Speak TLS, with this certificate: a PEM file, with those that lead to its authority
    #[arg(long, value_name = "PATH")]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate: a PEM file
    #[arg(long, value_name = "PATH")]
    tls_key: Option<PathBuf>,
    /// Let in only those with a certificate that one of these authorities has signed: a PEM file
    #[arg(long, value_name = "PATH")]
    tls_client_ca: Option<PathBuf>,
}

impl TlsArgs {
    /// The given files, or those of the environment.
    fn find(self) -> Result<Option<ServerTls>, String> {
        let or = |given: Option<PathBuf>, name| {
            given.or_else(|| environment::lookup(name).map(PathBuf::from))
        };
        let files = (
            or(self.tls_cert, "TLS_CERT"),
            or(self.tls_key, "TLS_KEY"),
            or(self.tls_client_ca, "TLS_CLIENT_CA"),
        );
        match files {
            (Some(cert), Some(key), client_ca) => Ok(Some(ServerTls {
                cert,
                key,
                client_ca,
            })),
            (None, None, None) => Ok(None),
            (cert, key, _) => {
                let is_lacking = |file: &Option<PathBuf>, name| file.is_none().then_some(name);
                let lacking = [
                    is_lacking(&cert, "--tls-cert"),
                    is_lacking(&key, "--tls-key"),
                ];
                let lacking: Vec<_> = lacking.into_iter().flatten().collect();
                Err(format!("TLS needs {}, too", lacking.join(" and ")))
            }
        }
    }
}

#[derive(Args)]
struct ServerArgs {
    /// Host name or address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    host: String,
    /// Port to listen on
    #[arg(long, default_value_t = 3000)]
    port: u16,
    /// Redis to use [default: redis://127.0.0.1:6379, or a private one]
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    token: TokenArg,
}

#[derive(Args)]
struct StartArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Ask here whether the server is up [default: the host it listens on]
    #[arg(long, value_name = "HOST")]
    health_host: Option<String>,
    /// Ask here whether the server is up [default: the port it listens on]
    #[arg(long, value_name = "PORT")]
    health_port: Option<u16>,
    /// Log to append to [default: nanoctrl.log in the runtime folder]
    #[arg(long, value_name = "PATH")]
    log_file: Option<PathBuf>,
    /// How long the server may take to be up, in seconds
    #[arg(long, default_value = "8", value_parser = seconds, value_name = "SECONDS")]
    wait: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

type Outcome = Result<Report, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => error.exit(),
        Err(help) => return Report::new(help.render().to_string()).print(),
    };
    let outcome = match cli.command.unwrap_or(Command::Server(cli.server)) {
        Command::Server(args) => serve(args),
        Command::Start(args) => start(args),
        Command::Status { server, token } => {
            Ok(status(server.find().as_deref(), token.find().as_ref()))
        }
        Command::Services(args) => listing::services(args),
        Command::Agents(args) => listing::agents(args),
        Command::Obs(command) => obs::obs(command),
        Command::Top(source) => top::top(source),
        Command::Doctor(args) => doctor::doctor(args),
        Command::Stop { timeout, force } => stop(timeout, force),
    };
    match outcome {
        Ok(report) => report.print(),
        Err(error) => {
            if let Some(DaemonError::Ended { recent_log, .. }) = error.downcast_ref() {
                complain(format_args!("\nrecent log:\n{recent_log}"));
            }
            complain(format_args!("Error: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(args: ServerArgs) -> Outcome {
    log_to_stdout();
    // Each agent keeps a connection open. With the usual 1,024 files some agents would wait for
    // others to leave.
    if let Err(error) = raise_open_files() {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    let tls = args.tls.find()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A log that may not grow any more (`ulimit -f`) loses lines; otherwise the server would end.
    let _file_size = signal(SignalKind::from_raw(libc::SIGXFSZ))?;
    let redis = RedisSource::choose(args.redis_url.as_deref())?;
    let mut config = Config::new(redis)
        .listen(args.host, args.port)
        .addresses_from_environment();
    if let Some(token) = args.token.find() {
        config = config.token(token);
    }
    if let Some(tls) = tls {
        config = config.tls(tls);
    }
    let server = tokio::select! {
        server = Server::start(config) => server?,
        _ = terminate.recv() => return Ok(Report::new("")),
        _ = interrupt.recv() => return Ok(Report::new("")),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    server.stop().await;
    Ok(Report::new(""))
}

fn log_to_stdout() {
    let wanted = environment::lookup("RUST_LOG").unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::try_new(&wanted);
    let refused = filter.as_ref().err().map(ToString::to_string);
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("info")))
        .with_ansi(io::stdout().is_terminal())
        // The reader of the log may go; the server stays.
        .log_internal_errors(false)
        .init();
    if let Some(error) = refused {
        tracing::warn!(wanted, error, "no such log filter, taking `info`");
    }
}

fn start(args: StartArgs) -> Outcome {
    let started = daemon::start(&daemon::Start {
        host: args.server.host,
        port: args.server.port,
        redis_url: args.server.redis_url,
        token: args.server.token.find(),
        tls: args.server.tls.find()?,
        health_host: args.health_host,
        health_port: args.health_port,
        log_file: args.log_file,
        wait: args.wait,
    })?;
    Ok(Report::new(match started {
        StartOutcome::Up(running) => {
            let pid = running.pid;
            format!("nanoctrl started (pid={pid})\n{}", describe(&running))
        }
        StartOutcome::Silent {
            running,
            recent_log,
        } => {
            let pid = running.pid;
            format!(
                "nanoctrl process started (pid={pid}), but health check timed out\n{}\nrecent log:\n{recent_log}\n",
                describe(&running)
            )
        }
        StartOutcome::Already { pid } => format!("nanoctrl is already running (pid={pid})\n"),
        StartOutcome::Occupied { address } => {
            format!("a server that nanoctrl did not start already answers at {address}\n")
        }
    }))
}

fn describe(running: &RunningServer) -> String {
    let mut text = format!(
        "address: {}\nlog: {}\n",
        running.address,
        running.log.display()
    );
    if running.private_redis {
        text +=
            "redis: a private one, for agents on this machine; none was named and none answers\n";
    }
    text
}

fn status(address: Option<&str>, token: Option<&Secret>) -> Report {
    let status = daemon::status(address, token);
    let mut text = match status.pid {
        Some(pid) => format!("pid: {pid}\nprocess: running\n"),
        None => NOT_RUNNING.to_owned(),
    };
    text += &format!("address: {}\n", status.address);
    text += &match &status.health {
        Ok(()) => "health: ok\n".to_owned(),
        Err(reason) => format!("health: down ({reason})\n"),
    };
    if status.is_locked {
        let was = if token.is_some() {
            "another one was brought"
        } else {
            "none was brought"
        };
        text += &format!("token: needed, and {was}; set NANOCTRL_TOKEN\n");
    }
    if let Some(log) = status.log {
        text += &format!("log: {}\n", log.display());
    }
    match status.search {
        None => Report::new(text),
        Some(search) => {
            complain(tell(&search));
            Report::new(text).failed()
        }
    }
}

/// What `stop` and `status` print first if they find no server.
const NOT_RUNNING: &str = "nanoctrl is not running\n";

fn stop(timeout: Duration, force: bool) -> Outcome {
    Ok(match daemon::stop(timeout, force)? {
        Stopped::Ended { pid } => Report::new(format!("nanoctrl stopped (pid={pid})\n")),
        Stopped::NotFound(search) => {
            complain(tell(&search));
            let report = Report::new(NOT_RUNNING);
            match search.is_in_doubt() {
                true => report.failed(),
                false => report,
            }
        }
    })
}

/// Describes where a server was looked for, and what runs nevertheless.
fn tell(search: &Search) -> String {
    let folders: Vec<_> = search
        .folders
        .iter()
        .map(|it| it.display().to_string())
        .collect();
    let mut text = format!("looked for nanoctrl.pid in {}", folders.join(", "));
    text += &match &search.answering {
        Some(address) => format!("\nbut a server answers at {address}"),
        None => format!(", and nothing answers at {}", search.asked),
    };
    for Stranger {
        pid,
        command,
        folder,
    } in &search.strangers
    {
        text += &format!("\nbut a server of yours runs (pid={pid}): {command}");
        match folder {
            Some(folder) => {
                text += &format!(
                    "\n  it is found with NANOCTRL_RUNTIME_DIR={}",
                    folder.display()
                );
            }
            None => {
                text += "\n  it was not started with `nanoctrl start`: end it where it was started"
            }
        }
    }
    text
}

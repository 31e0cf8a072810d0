//! `nanoctrl obs`: what agents say of themselves, as tables or as JSON. Columns, units and the
//! fields of the JSON are those of DLSlime's `dlslime-ctrl obs`.

#[path = "obs/tables.rs"]
mod tables;
#[path = "obs/units.rs"]
pub(crate) mod units;

use std::error::Error;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use slimerpc::control::obs::{ObsRecord, ObsScan};
use slimerpc::control::{ClientTls, ControlError, NanoCtrl, ObsReader, Secret};
use slimerpc::nanoctrl::{daemon, environment};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::output::{Report, complain, escaped};

/// Where Redis is if nobody says so.
const DEFAULT_URL: &str = "redis://127.0.0.1:6379";

/// How long the started server may take to say where Redis is.
const ASKING: Duration = Duration::from_secs(1);

/// Begins what replaces the terminal's contents; ends a line of it; ends it.
const HOME: &str = "\x1b[H";
const END_OF_LINE: &str = "\x1b[K\n";
const END_OF_PAGE: &str = "\x1b[J";

#[derive(Subcommand)]
pub(crate) enum ObsCommand {
    /// Sum up: how many agents are alive, what they have moved, how often they failed
    Status(ObsArgs),
    /// List the agents
    Peers(ObsArgs),
    /// List the devices of all agents
    Nics(ObsArgs),
    /// List the connections of all agents, each as its agent sees it
    Links(ObsArgs),
}

/// Whose records to read, and from where.
#[derive(Args)]
pub(crate) struct ObsSource {
    /// Redis to read, `redis[s]://[[user]:password@]host[:port][/database]`; better in
    /// NANOCTRL_REDIS_URL if it has a password, as arguments are for all to see
    /// [default: that of the started server, else redis://127.0.0.1:6379]
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,
    /// Scope of the agents [default: agents without a scope]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    scope: String,
    /// Call an agent stale that has said nothing for so long, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 45_000)]
    stale_ms: u64,
}

#[derive(Args)]
pub(crate) struct ObsArgs {
    #[command(flatten)]
    source: ObsSource,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Repeat each second, until Ctrl-C; with --json, each time in one line
    #[arg(long)]
    watch: bool,
}

/// Time between two looks of `--watch`.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// What was found, and how to look at it.
pub(crate) struct Found {
    /// URL of Redis.
    pub(crate) redis: String,
    pub(crate) scope: String,
    pub(crate) scan: ObsScan,
    /// When that was, in Unix milliseconds.
    pub(crate) now_ms: u64,
    pub(crate) stale: Duration,
}

/// What is asked for.
#[derive(Clone, Copy)]
enum View {
    Status,
    Peers,
    Nics,
    Links,
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn obs(command: ObsCommand) -> Result<Report, Box<dyn Error>> {
    let (view, args) = match command {
        ObsCommand::Status(args) => (View::Status, args),
        ObsCommand::Peers(args) => (View::Peers, args),
        ObsCommand::Nics(args) => (View::Nics, args),
        ObsCommand::Links(args) => (View::Links, args),
    };
    let reader = args.source.reader().await?;
    if args.watch {
        return watch(view, &args, &reader).await;
    }
    let found = args.source.look(&reader).await?;
    if args.json {
        complain_of_skipped(&found.scan);
        let json = serde_json::to_string_pretty(&view.json(&found))?;
        return Ok(Report::new(json + "\n"));
    }
    Ok(Report::new(view.text(&found)))
}

impl ObsSource {
    pub(crate) async fn reader(&self) -> Result<ObsReader, ControlError> {
        ObsReader::new(&self.url().await)
    }

    /// The URL of Redis: as an argument, else from the environment, else of the started server.
    async fn url(&self) -> Secret {
        let given = self.redis_url.clone();
        if let Some(url) = given.or_else(|| environment::lookup("REDIS_URL")) {
            return url.into();
        }
        let told = async {
            let tls = ClientTls::default().or_environment();
            let server = NanoCtrl::new(&daemon::address(), "").ok()?.tls(&tls).ok()?;
            let mut server = server.request_timeout(ASKING);
            if let Some(token) = environment::lookup("TOKEN") {
                server = server.token(token).ok()?;
            }
            server.redis_address().await.ok()
        };
        told.await.unwrap_or_else(|| DEFAULT_URL.to_owned()).into()
    }

    pub(crate) async fn look(&self, reader: &ObsReader) -> Result<Found, Box<dyn Error>> {
        let scan = match reader.read(&self.scope).await {
            Err(ControlError::RedisLogin { address, reason }) => {
                return Err(format!(
                "Redis at {address} does not let us in: {reason}. Give user and password in NANOCTRL_REDIS_URL or \
                 --redis-url: redis://user:password@{address}"
            )
            .into());
            }
            read => read?,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Found {
            redis: reader.url(),
            scope: self.scope.clone(),
            scan,
            now_ms: now.unwrap_or_default().as_millis() as u64,
            stale: Duration::from_millis(self.stale_ms),
        })
    }
}

/// Looks each period, and prints what there is, until Ctrl-C or until nobody reads it.
async fn watch(view: View, args: &ObsArgs, reader: &ObsReader) -> Result<Report, Box<dyn Error>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let is_page = io::stdout().is_terminal() && !args.json;
    let paint = async {
        if is_page {
            print("\x1b[2J")?;
        }
        loop {
            let text = match args.source.look(reader).await {
                Ok(found) if args.json => format!("{}\n", view.json(&found)),
                Ok(found) => view.text(&found),
                // Redis may come back.
                Err(error) if args.json => {
                    complain(format_args!("Error: {error}"));
                    String::new()
                }
                Err(error) => format!("Error: {error}\n"),
            };
            match is_page {
                true => {
                    let page = text.replace('\n', END_OF_LINE);
                    print(&format!("{HOME}{page}{END_OF_PAGE}"))?;
                }
                false if args.json => print(&text)?,
                false => print(&format!("{text}\n"))?,
            }
            sleep(PERIOD).await;
        }
    };
    let ended: io::Result<()> = tokio::select! {
        ended = paint => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    match ended {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}").into())
        }
        _ => Ok(Report::new("")),
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

impl View {
    fn text(self, found: &Found) -> String {
        let mut text = match self {
            Self::Status => tables::status(found),
            Self::Peers => tables::peers(found),
            Self::Nics => tables::nics(found),
            Self::Links => tables::links(found),
        };
        text += &skipped(&found.scan);
        text
    }

    fn json(self, found: &Found) -> Value {
        let records = &found.scan.records;
        match self {
            Self::Status => found.totals().json(&found.scan),
            Self::Peers => json!(records),
            Self::Nics => {
                let each = |record: &ObsRecord| {
                    let nics = record.nics.iter().map(|nic| json!(nic));
                    let more = json!({"peer_id": record.peer_id, "age_ms": found.age_ms(record)});
                    nics.map(|nic| merged(nic, &more)).collect::<Vec<_>>()
                };
                records.iter().flat_map(each).collect()
            }
            Self::Links => {
                let each = |record: &ObsRecord| {
                    let links = record.connections.iter().map(|link| json!(link));
                    let more = json!({"src_peer": record.peer_id, "age_ms": found.age_ms(record)});
                    links.map(|link| merged(link, &more)).collect::<Vec<_>>()
                };
                records.iter().flat_map(each).collect()
            }
        }
    }
}

/// An object with the fields of another one, too.
fn merged(mut object: Value, more: &Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut object, more) {
        fields.extend(more.clone());
    }
    object
}

/// Sums over all records.
#[derive(Default)]
struct Totals {
    alive: u64,
    stale: u64,
    stopped: u64,
    assign: u64,
    batch: u64,
    bytes: u64,
    pending: i64,
    errors: u64,
    bandwidth: f64,
}

impl Totals {
    fn json(&self, scan: &ObsScan) -> Value {
        json!({
            "alive": self.alive,
            "stale": self.stale,
            "stopped": self.stopped,
            "assign_total": self.assign,
            "completed_bytes_total": self.bytes,
            "pending_ops": self.pending,
            "error_total": self.errors,
            "ewma_bandwidth_bps": self.bandwidth,
            "skipped": scan.skipped_total,
            "left_out": scan.left_out,
        })
    }
}

impl Found {
    fn age_ms(&self, record: &ObsRecord) -> u64 {
        record.age(self.now_ms).as_millis() as u64
    }

    /// The sums. Any number may stand in a record, so they stop at the largest.
    fn totals(&self) -> Totals {
        use slimerpc::control::obs::ObsState;
        let mut totals = Totals::default();
        for record in &self.scan.records {
            match record.state(self.now_ms, self.stale) {
                ObsState::Alive => totals.alive += 1,
                ObsState::Stale => totals.stale += 1,
                ObsState::Stopped => totals.stopped += 1,
            }
            let summary = &record.summary;
            totals.assign = totals.assign.saturating_add(summary.assign_total);
            totals.batch = totals.batch.saturating_add(summary.batch_total);
            totals.bytes = totals.bytes.saturating_add(summary.completed_bytes_total);
            totals.pending = totals.pending.saturating_add(summary.pending_ops);
            totals.errors = totals.errors.saturating_add(summary.error_total);
            totals.bandwidth += record.ewma_bandwidth_bps;
        }
        totals
    }
}

/// What was not read, and why; empty if all was.
fn skipped(scan: &ObsScan) -> String {
    let mut text = String::new();
    if scan.skipped_total > 0 {
        text += &format!(
            "\n{} cannot be read and are left out:\n",
            records(scan.skipped_total)
        );
        for skipped in &scan.skipped {
            text += &format!("  {}: {}\n", escaped(skipped.key.chars()), skipped.problem);
        }
        let more = scan.skipped_total - scan.skipped.len() as u64;
        if more > 0 {
            text += &format!("  and {more} more\n");
        }
    }
    if scan.left_out > 0 {
        text += &format!(
            "\n{} are too many and are left out\n",
            records(scan.left_out)
        );
    }
    text
}

fn records(count: u64) -> String {
    match count {
        1 => "1 record".to_owned(),
        _ => format!("{count} records"),
    }
}

pub(crate) fn complain_of_skipped(scan: &ObsScan) {
    let text = skipped(scan);
    if !text.is_empty() {
        complain(text.trim());
    }
}

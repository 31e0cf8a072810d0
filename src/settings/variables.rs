//! The variables of the environment that supply settings of agents. An empty one counts as unset.

use std::str::FromStr;
use std::time::Duration;

use super::{Refused, rules};
use crate::control::{ClientTls, NanoCtrl, Secret};
use crate::fabric::tcp::TcpOptions;
use crate::fabric::{LinkType, RetryPolicy};
use crate::tls::TlsFiles;

/// What the name of a variable begins with that supplies a setting, if it is not DLSlime's or for
/// NanoCtrl.
pub const PREFIX: &str = "SLIME_RPC_";

/// A variable that supplies a setting of an agent.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    check: fn(&str) -> Result<(), String>,
}

impl Variable {
    /// Refuses a value that an agent would refuse whatever else is set, and says what is allowed.
    pub fn check(&self, value: &str) -> Result<(), String> {
        (self.check)(value)
    }
}

macro_rules! variables {
    ($($(#[$docs:meta])* $constant:ident = $name:expr, $check:expr;)*) => {
        $($(#[$docs])* pub const $constant: &str = $name;)*

        /// All of them.
        pub const VARIABLES: &[Variable] = &[$(Variable { name: $name, check: $check },)*];
    };
}

variables! {
    /// Where peers are found: `host`, `local`, or the URL of a NanoCtrl.
    CONTROL = "SLIME_RPC_CONTROL", control;
    /// How to log in to Redis.
    REDIS_URL = "SLIME_RPC_REDIS_URL", redis;
    /// The fabrics that may be used.
    FABRICS = "SLIME_RPC_FABRICS", |text| allowed(rules::fabrics(text));
    /// Where `tcp0` listens.
    TCP_BIND = "SLIME_RPC_TCP_BIND", |text| allowed(rules::tcp_bind(text));
    /// Where peers dial `tcp0`.
    TCP_ADVERTISE = "SLIME_RPC_TCP_ADVERTISE", |text| allowed(rules::tcp_advertise(text));
    /// Certificate for TLS between peers.
    TLS_CERT = TlsFiles::SETTINGS[0], any;
    /// Key of that certificate.
    TLS_KEY = TlsFiles::SETTINGS[1], any;
    /// Authority for the certificates of peers.
    TLS_CA = TlsFiles::SETTINGS[2], any;
    /// Whether to tell the program's recorder of metrics.
    METRICS = "SLIME_RPC_METRICS", yes_or_no;
    /// Where to serve metrics over HTTP.
    METRICS_ADDR = "SLIME_RPC_METRICS_ADDR", |text| allowed(rules::metrics_address(text));
    /// What to log to standard error: `info`, or like `slimerpc_actors=debug`.
    LOG = "SLIME_RPC_LOG", log;
    /// Bytes of a ring slot.
    SLOT_SIZE = "SLIME_RPC_SLOT_SIZE", |text| number(text, |size| rules::geometries(Some(size), None));
    /// Calls that one proxy has in flight.
    MAX_INFLIGHT = "SLIME_RPC_MAX_INFLIGHT", |text| number(text, |slots| rules::geometries(None, Some(slots)));
    /// Bytes of the largest message.
    MAX_PAYLOAD = "SLIME_RPC_MAX_PAYLOAD", number_of::<usize>;
    /// Bytes registered for messages beyond a slot.
    PAYLOAD_MEMORY = "SLIME_RPC_PAYLOAD_MEMORY", number_of::<usize>;
    /// Levels of nesting in values.
    MAX_DEPTH = "SLIME_RPC_MAX_DEPTH", |text| number(text, |depth| rules::codec(Some(depth), None));
    /// Most values in a pickle.
    MAX_PICKLE_VALUES = "SLIME_RPC_MAX_PICKLE_VALUES", |text| number(text, |values| rules::codec(None, Some(values)));
    /// Threads for parallel methods.
    SERVER_WORKERS = "SLIME_RPC_SERVER_WORKERS", |text| number(text, rules::workers);
    /// Whether to raise the limit of file descriptors.
    RAISE_OPEN_FILES = "SLIME_RPC_RAISE_OPEN_FILES", yes_or_no;
    /// For registering and connecting, in ms.
    CONNECT_TIMEOUT = "SLIME_RPC_CONNECT_TIMEOUT_MS", |text| millis(text, |it| rules::some_time("connect_timeout", it));
    /// How long starting waits for an alias, in ms.
    TAKE_OVER = "SLIME_RPC_TAKE_OVER_MS", number_of::<u64>;
    /// For each call, in ms.
    CALL_TIMEOUT = "SLIME_RPC_CALL_TIMEOUT_MS", |text| millis(text, |it| rules::some_time("call_timeout", it));
    /// How long calls wait for a lost peer, in ms.
    RECONNECT_WAIT = "SLIME_RPC_RECONNECT_WAIT_MS", number_of::<u64>;
    /// How long a stream may be left unread, in ms.
    STREAM_PATIENCE = "SLIME_RPC_STREAM_PATIENCE_MS", |text| millis(text, |it| rules::some_time("stream_patience", it));
    /// When a proxy's connection rests, in ms.
    IDLE_AFTER = "SLIME_RPC_IDLE_AFTER_MS", |text| millis(text, rules::idle_after);
    /// How long a waiter polls, in us.
    BUSY_POLL = "SLIME_RPC_BUSY_POLL_US", |text| number(text, |it| rules::busy_poll(Duration::from_micros(it)));
    /// Time between two heartbeats, in ms.
    HEARTBEAT = "SLIME_RPC_HEARTBEAT_MS", |text| millis(text, |it| heartbeats(LinkType::Shm, Some(it), Some(Duration::MAX)));
    /// How long heartbeats may stay away, in ms.
    DETECTION = "SLIME_RPC_DETECTION_MS", |text| millis(text, |it| heartbeats(LinkType::Shm, None, Some(it)));
    /// Code of the wait for a receive.
    MIN_RNR_TIMER = "SLIME_RPC_MIN_RNR_TIMER", |text| code(text, |policy| &mut policy.min_rnr_timer);
    /// Tries after "receiver not ready".
    RNR_RETRY = "SLIME_RPC_RNR_RETRY", |text| code(text, |policy| &mut policy.rnr_retry);
    /// Code of the wait for an acknowledgement.
    ACK_TIMEOUT = "SLIME_RPC_ACK_TIMEOUT", |text| code(text, |policy| &mut policy.timeout);
    /// Retries after such a wait.
    RETRY_CNT = "SLIME_RPC_RETRY_CNT", |text| code(text, |policy| &mut policy.retry_cnt);
    /// Bearer token for NanoCtrl.
    TOKEN = "NANOCTRL_TOKEN", |text| Secret::from(text).check_token().map_err(str::to_owned);
    /// Authorities for a NanoCtrl at `https://`.
    NANOCTRL_CA = ClientTls::SETTINGS[0], any;
    /// This side's certificate for it.
    NANOCTRL_CERT = ClientTls::SETTINGS[1], any;
    /// Key of that certificate.
    NANOCTRL_KEY = ClientTls::SETTINGS[2], any;
    /// Whether to publish what the agent says of itself; DLSlime's, as the two below.
    OBS = "DLSLIME_OBS", yes_or_no;
    /// Time between two such records, in ms.
    OBS_PERIOD = "DLSLIME_OBS_TIME_STEP_MS", |text| millis(text, rules::obs_period);
    /// `0`: no record is published although [`OBS`] is set.
    OBS_REDIS = "DLSLIME_OBS_REDIS", yes_or_no;
}

/// The variables that supply the files for TLS between peers.
pub const TLS: [&str; 3] = TlsFiles::SETTINGS;

/// The variables that supply the fields of a retry policy.
pub const RETRY: [&str; 4] = [MIN_RNR_TIMER, RNR_RETRY, ACK_TIMEOUT, RETRY_CNT];

/// Reads a whole number.
pub fn whole<T: FromStr>(text: &str) -> Result<T, &'static str> {
    let number = text.trim().parse();
    number.map_err(|_| "a whole number is expected, not too large")
}

/// Reads a yes or no.
pub fn flag(text: &str) -> Result<bool, &'static str> {
    match &*text.trim().to_lowercase() {
        "0" | "false" | "no" | "off" => Ok(false),
        "1" | "true" | "yes" | "on" => Ok(true),
        _ => Err("1 or 0 is expected"),
    }
}

/// The name among `known` that another one is most like, and in how many letters they differ.
pub fn nearest<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<(&'a str, usize)> {
    let distances = known
        .into_iter()
        .map(|known| (known, strsim::levenshtein(known, name)));
    distances.min_by_key(|(_, letters)| *letters)
}

/// What an agent refuses of values of which each is fine by itself. `value` gives that of a
/// variable, if it is set and fine.
pub fn contradictions(value: impl Fn(&str) -> Option<String>) -> Vec<Refused> {
    let size = |name| value(name).and_then(|text| whole(&text).ok());
    let time = |name| Some(Duration::from_millis(whole(&value(name)?).ok()?));
    let mut refused = Vec::new();
    let rings = rules::geometries(size(SLOT_SIZE), size(MAX_INFLIGHT));
    let memory = rings
        .and_then(|rings| rules::memory(rings.native, size(MAX_PAYLOAD), size(PAYLOAD_MEMORY)));
    refused.extend(memory.err());
    let of_link = |link| heartbeats(link, time(HEARTBEAT), time(DETECTION));
    let links = of_link(LinkType::Shm).and_then(|()| of_link(LinkType::Roce));
    refused.extend(links.err());
    refused.extend(rules::tls_files(TLS.map(&value)).err());
    // A name is of one host, and was resolved when it was checked.
    let is_address = |bind: &String| TcpOptions::name_in(bind).is_none();
    let bind = value(TCP_BIND).filter(is_address);
    if let Some(Ok(mut options)) = bind.map(|bind| rules::tcp_bind(&bind)) {
        let advertise = value(TCP_ADVERTISE).map(|it| rules::tcp_advertise(&it));
        options.advertise = advertise.and_then(Result::ok);
        refused.extend(rules::tcp(options).err());
    }
    refused
}

fn allowed<T>(checked: Result<T, Refused>) -> Result<(), String> {
    checked.map(drop).map_err(|refused| refused.allowed)
}

fn heartbeats(
    link: LinkType,
    heartbeat: Option<Duration>,
    detection: Option<Duration>,
) -> Result<(), Refused> {
    rules::check_heartbeats(rules::heartbeats(link, heartbeat, detection))
}

fn any(_: &str) -> Result<(), String> {
    Ok(())
}

fn yes_or_no(text: &str) -> Result<(), String> {
    flag(text).map(drop).map_err(str::to_owned)
}

fn number_of<T: FromStr>(text: &str) -> Result<(), String> {
    whole::<T>(text).map(drop).map_err(str::to_owned)
}

fn number<T: FromStr, R>(text: &str, rule: impl Fn(T) -> Result<R, Refused>) -> Result<(), String> {
    whole(text)
        .map_err(str::to_owned)
        .and_then(|number| allowed(rule(number)))
}

fn millis<R>(text: &str, rule: impl Fn(Duration) -> Result<R, Refused>) -> Result<(), String> {
    number(text, |millis| rule(Duration::from_millis(millis)))
}

fn code(text: &str, field: impl Fn(&mut RetryPolicy) -> &mut u8) -> Result<(), String> {
    let mut policy = RetryPolicy::default();
    *field(&mut policy) = whole(text).map_err(str::to_owned)?;
    policy.check("").map_err(|error| match error {
        crate::fabric::FabricError::Limit { allowed, .. } => allowed,
        error => error.to_string(),
    })
}

fn control(text: &str) -> Result<(), String> {
    match text.trim() {
        "local" | "host" => Ok(()),
        url => NanoCtrl::new(url, "")
            .map(drop)
            .map_err(|error| error.to_string()),
    }
}

fn redis(text: &str) -> Result<(), String> {
    let server = NanoCtrl::new("localhost", "").and_then(|server| server.redis(text));
    server.map(drop).map_err(|error| error.to_string())
}

/// As agents read it that have the cargo feature `log`; not known here without `server`.
fn log(text: &str) -> Result<(), String> {
    #[cfg(feature = "server")]
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(text) {
        return Err(format!(
            "levels like info, or slimerpc_actors=debug,warn, are expected: {error}"
        ));
    }
    let _ = text;
    Ok(())
}

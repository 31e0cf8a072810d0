//! The settings that an agent starts with.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use slimerpc::channel::{Geometry, HeartbeatTiming};
use slimerpc::control::topology::Topology;
use slimerpc::control::{ClientTls, Control, ControlError, Host, Local, NanoCtrl, Secret};
#[cfg(feature = "faults")]
use slimerpc::fabric::Device;
use slimerpc::fabric::tcp::TcpOptions;
use slimerpc::fabric::{self, FabricError, FabricKind, Fabrics, LinkType, RetryPolicy};
use slimerpc::settings::{
    self, CONTROL, DEFAULT_OBS_PERIOD, FABRICS, METRICS, METRICS_ADDR, OBS, OBS_PERIOD, OBS_REDIS,
    REDIS_URL, TCP_ADVERTISE, TCP_BIND, TLS, TOKEN,
};
use slimerpc::tls::{self, TlsFiles};

use crate::agent::settings::{Limits, Polling, Timeouts};
use crate::agent::{environment, log};
use crate::memory::devices::{Devices, Opener};
use crate::observe::{Metrics, Observed};
use crate::{AgentError, PeerAgent, Strategy};

/// The control plane through which an agent finds its peers.
#[derive(Debug, Clone)]
enum Plane {
    Local,
    Host,
    NanoCtrl(String),
}

impl From<&str> for Plane {
    fn from(text: &str) -> Self {
        match text.trim() {
            "local" => Self::Local,
            "host" => Self::Host,
            url => Self::NanoCtrl(url.to_owned()),
        }
    }
}

/// Settings of a [`PeerAgent`]; see [`PeerAgent::builder`].
///
/// The environment supplies what the program does not set; an empty variable counts as unset.
/// [`start`](Self::start) refuses settings that make no sense, whatever their source. A variable
/// that begins with `SLIME_RPC_` and is not in the table has no effect; the log says so, and names
/// the variable that it is most like.
///
/// | setting | or else | default | unit | effect |
/// | --- | --- | --- | --- | --- |
/// | [`nanoctrl`](Self::nanoctrl), [`host`](Self::host), [`local`](Self::local) or [`control`](Self::control) | `SLIME_RPC_CONTROL` | local | URL, `host` or `local` | where peers are found |
/// | [`token`](Self::token) | `NANOCTRL_TOKEN` | none | | bearer token for NanoCtrl, if it wants one |
/// | [`nanoctrl_tls`](Self::nanoctrl_tls) | `NANOCTRL_CA`, `NANOCTRL_CERT`, `NANOCTRL_KEY` | authorities of the system; no certificate | PEM files | what vouches for a NanoCtrl at `https://`, and our certificate, if it wants one |
/// | [`redis`](Self::redis) | `SLIME_RPC_REDIS_URL` | as NanoCtrl says, no login | URL | how to log in to Redis, and maybe where it is |
/// | [`alias`](Self::alias) | | generated | | name under which peers find us |
/// | [`scope`](Self::scope) | | none | | isolates jobs that share a control plane |
/// | [`device`](Self::device) | | chosen for each peer, out of `SLIME_VISIBLE_DEVICES` | | what carries the bytes |
/// | [`fabrics`](Self::fabrics) | `SLIME_RPC_FABRICS` | shm,rdma,tcp; shm,rdma if `local` | list | what may carry the bytes, the preferred first |
/// | [`tcp_bind`](Self::tcp_bind) | `SLIME_RPC_TCP_BIND` | the address that this host uses towards NanoCtrl, any port; loopback without NanoCtrl | address or name of this host | where the device `tcp0` listens |
/// | [`tcp_advertise`](Self::tcp_advertise) | `SLIME_RPC_TCP_ADVERTISE` | as `tcp_bind` | address | where peers dial `tcp0` |
/// | [`tls`](Self::tls) | `SLIME_RPC_TLS_CERT`, `SLIME_RPC_TLS_KEY`, `SLIME_RPC_TLS_CA` | none: not encrypted | PEM files | certificate, key and authority for mutual TLS over `tcp0`; all three or none |
/// | [`slot_size`](Limits::slot_size) | `SLIME_RPC_SLOT_SIZE` | 32,768; towards DLSlime peers 32,000,000 | bytes | a message in the ring, header (16 bytes) included; larger ones go around it, or, to and from DLSlime peers, nowhere; equal on both sides |
/// | [`max_inflight`](Limits::max_inflight) | `SLIME_RPC_MAX_INFLIGHT` | 16 | calls | calls in flight of one proxy; more wait in order; equal on both sides |
/// | [`max_payload`](Limits::max_payload) | `SLIME_RPC_MAX_PAYLOAD` | 1 GiB | bytes | largest message between native peers |
/// | [`payload_memory`](Limits::payload_memory) | `SLIME_RPC_PAYLOAD_MEMORY` | 4 GiB | bytes | registered for messages beyond a slot at the same time, for each device |
/// | [`max_depth`](Limits::max_depth) | `SLIME_RPC_MAX_DEPTH` | 128 | levels | values within values, written or read; for the whole process |
/// | [`max_pickle_values`](Limits::max_pickle_values) | `SLIME_RPC_MAX_PICKLE_VALUES` | 16,777,216 | values | in a pickle that is read; for the whole process |
/// | [`workers`](Limits::workers) | `SLIME_RPC_SERVER_WORKERS` | 1 | threads | parallel methods of one service that run at once |
/// | [`busy_poll`](Polling::busy_poll) | `SLIME_RPC_BUSY_POLL_US` | 50; 0 where this process has one core, by its affinity or quota | us | how long a waiter polls before it sleeps |
/// | [`connect_timeout`](Timeouts::connect_timeout) | `SLIME_RPC_CONNECT_TIMEOUT_MS` | 10,000 | ms | for registering, and for finding and connecting a peer |
/// | [`take_over`](Timeouts::take_over) | `SLIME_RPC_TAKE_OVER_MS` | 0 | ms | how long starting waits for an alias that is taken |
/// | [`call_timeout`](Timeouts::call_timeout) | `SLIME_RPC_CALL_TIMEOUT_MS` | none | ms | for each call of this agent's proxies |
/// | [`reconnect_wait`](Timeouts::reconnect_wait) | `SLIME_RPC_RECONNECT_WAIT_MS` | 0 | ms | for which calls wait for a peer that is lost |
/// | [`stream_patience`](Timeouts::stream_patience) | `SLIME_RPC_STREAM_PATIENCE_MS` | 30,000 | ms | how long callers may leave a stream of this agent's services unread |
/// | [`idle_after`](Timeouts::idle_after) | `SLIME_RPC_IDLE_AFTER_MS` | never | ms | without a call before a proxy's connection rests until the next one; 0: never |
/// | [`heartbeat`](Polling::heartbeat) | `SLIME_RPC_HEARTBEAT_MS` | half of the detection time | ms | between two heartbeats to each native peer |
/// | [`detection`](Polling::detection) | `SLIME_RPC_DETECTION_MS` | 1,000 on shared memory, 3,000 otherwise | ms | a peer that sends no heartbeat for so long is stalled |
/// | [`raise_open_files`](Limits::raise_open_files) | `SLIME_RPC_RAISE_OPEN_FILES` | no | 1 or 0 | raise this process' limit of file descriptors as far as it may, for many peers; processes that it starts inherit that |
/// | [`metrics`](Self::metrics) | `SLIME_RPC_METRICS` | no | 1 or 0 | count calls, and tell the program's recorder of metrics |
/// | [`metrics_address`](Self::metrics_address) | `SLIME_RPC_METRICS_ADDR` | none | address:port | count calls, and serve them as Prometheus text |
/// | | `SLIME_RPC_LOG` | nothing | like `info` or `slimerpc_actors=debug` | logged to standard error, unless the program has set up a subscriber of its own |
/// | [`strategy`](Self::strategy) | | one for one | | which services are restarted together |
/// | [`obs`](Self::obs) | `DLSLIME_OBS` | no | 1 or 0 | publish what the agent says of itself, for `nanoctrl obs` and the console; with NanoCtrl only |
/// | | `DLSLIME_OBS_TIME_STEP_MS` | 1,000 | ms | between two such records; 10 to 3,600,000 |
/// | | `DLSLIME_OBS_REDIS` | 1 | 1 or 0 | 0: `DLSLIME_OBS` publishes nothing |
/// | [`retry`](Self::retry): `min_rnr_timer` | `SLIME_RPC_MIN_RNR_TIMER` | 12 (0.64 ms) | code | wait that we ask of a sender when we have no receive posted |
/// | `rnr_retry` | `SLIME_RPC_RNR_RETRY` | 6 | tries | after "receiver not ready"; 7: for ever |
/// | `timeout` | `SLIME_RPC_ACK_TIMEOUT` | 14 (67 ms) | code | wait for an acknowledgement |
/// | `retry_cnt` | `SLIME_RPC_RETRY_CNT` | 6 | tries | after such a wait, before the peer is given up |
#[derive(Debug, Clone, Default)]
#[must_use = "an agent begins with `start`"]
pub struct Builder {
    plane: Option<Plane>,
    token: Option<Secret>,
    nanoctrl_tls: ClientTls,
    redis: Option<Secret>,
    alias: Option<String>,
    scope: String,
    device: Option<String>,
    fabrics: Option<String>,
    tcp_bind: Option<String>,
    tcp_advertise: Option<String>,
    tls: Option<TlsFiles>,
    opener: Opener,
    limits: Limits,
    timeouts: Timeouts,
    polling: Polling,
    retry: Option<RetryPolicy>,
    strategy: Strategy,
    obs: Option<bool>,
    metrics: Option<bool>,
    metrics_address: Option<String>,
}

/// The settings that an agent starts with.
pub(crate) struct Settings {
    pub(crate) control: Arc<dyn Control>,
    pub(crate) devices: Devices,
    pub(crate) topology: Topology,
    /// The files with which peers are met over TCP, by TLS only, if there are any.
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) alias: Option<String>,
    pub(crate) geometry: Geometry,
    pub(crate) dlslime_geometry: Geometry,
    pub(crate) workers: NonZeroUsize,
    pub(crate) retry: RetryPolicy,
    pub(crate) busy_poll: Duration,
    pub(crate) connect_timeout: Duration,
    /// How long to wait for an alias that is taken.
    pub(crate) take_over: Duration,
    pub(crate) call_timeout: Option<Duration>,
    pub(crate) reconnect_wait: Duration,
    pub(crate) stream_patience: Duration,
    /// After how long an idle connection rests; `None` means never.
    pub(crate) idle_after: Option<Duration>,
    pub(crate) strategy: Strategy,
    /// Time between two records of what the agent says of itself, if it says anything.
    pub(crate) obs: Option<Duration>,
    /// The scope of the agent.
    pub(crate) scope: String,
    /// What is counted, if anything is.
    pub(crate) observed: Option<Arc<Observed>>,
    pub(crate) metrics: Metrics,
    polling: Polling,
}

impl Settings {
    /// How often to send heartbeats on links of this kind, and how long the peer's may stay away.
    pub(crate) fn heartbeat(&self, link: LinkType) -> HeartbeatTiming {
        self.polling.heartbeats(link)
    }
}

impl Builder {
    /// Finds peers through the NanoCtrl server at `url` and the Redis that it names.
    pub fn nanoctrl(mut self, url: impl Into<String>) -> Self {
        self.plane = Some(Plane::NanoCtrl(url.into()));
        self
    }

    /// Finds peers among the processes of this user on this host, with nothing installed. They meet
    /// in `$XDG_RUNTIME_DIR/slimerpc`, or in `/tmp/slimerpc-<uid>` where that variable is not set.
    ///
    /// ```
    /// use slimerpc_actors::PeerAgent;
    /// let builder = PeerAgent::builder().alias("worker:0").host();
    /// # let _ = builder;
    /// ```
    pub fn host(mut self) -> Self {
        self.plane = Some(Plane::Host);
        self
    }

    /// Finds peers in this process only, without a server.
    pub fn local(mut self) -> Self {
        self.plane = Some(Plane::Local);
        self
    }

    /// Finds peers as `text` says, which may come from a command line: `local`, `host`, or the URL
    /// of a NanoCtrl server.
    ///
    /// ```
    /// use slimerpc_actors::PeerAgent;
    /// let control = std::env::args().nth(1).unwrap_or_else(|| "host".to_owned());
    /// let builder = PeerAgent::builder().control(&control);
    /// # let _ = builder;
    /// ```
    pub fn control(mut self, text: &str) -> Self {
        self.plane = Some(text.into());
        self
    }

    /// Sets the bearer token for a NanoCtrl server that was started with one. No log and no error
    /// shows it.
    ///
    /// ```
    /// use slimerpc_actors::PeerAgent;
    /// let builder = PeerAgent::builder().nanoctrl("http://ctrl:3000").token("hunter2");
    /// assert!(!format!("{builder:?}").contains("hunter2"));
    /// ```
    pub fn token(mut self, token: impl Into<Secret>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets the files for a NanoCtrl server at `https://`: the authorities that may vouch for it,
    /// and the certificate of this agent, for a server that was started with `--tls-client-ca`.
    /// Needs the cargo feature `tls`, as every `https://` does.
    ///
    /// ```
    /// use slimerpc_actors::{ClientTls, PeerAgent};
    /// let builder = PeerAgent::builder().nanoctrl("https://ctrl:3000").nanoctrl_tls(ClientTls {
    ///     ca: Some("/etc/slimerpc/ca.crt".into()),
    ///     ..ClientTls::default()
    /// });
    /// # let _ = builder;
    /// ```
    pub fn nanoctrl_tls(mut self, files: ClientTls) -> Self {
        self.nanoctrl_tls = files;
        self
    }

    /// Sets how to log in to Redis: `redis://[[user]:password@][host[:port]][/database]`, or
    /// `rediss://` for TLS. A server does not pass on its credentials, and DLSlime peers have none.
    /// A URL without a host (`redis://:password@`, `rediss://`) uses the address that the server
    /// names; a URL with a host replaces it. See [`NanoCtrl::redis`].
    pub fn redis(mut self, url: impl Into<Secret>) -> Self {
        self.redis = Some(url.into());
        self
    }

    /// Sets the alias under which peers find this agent. The control plane generates one if none is
    /// set.
    pub fn alias(mut self, alias: impl Into<String>) -> Self {
        self.alias = Some(alias.into());
        self
    }

    /// Sets the scope: agents of different scopes do not see each other.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = scope.into();
        self
    }

    /// Sets the only device to use, by name: `shm0` (shared memory), `tcp0` (TCP), or an RDMA
    /// device like `mlx5_0` or `rxe0`.
    ///
    /// By default, the agent chooses for each peer, among [`fabrics`](Self::fabrics).
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = Some(name.into());
        self
    }

    /// Sets what may carry the bytes, as a list of `shm`, `rdma` and `tcp`, the preferred first. A
    /// connection uses the first of the caller's list that both sides have: shared memory between
    /// processes of one user on one host, RDMA where both have a usable port of one kind, and TCP
    /// otherwise. [`ChannelView::link`](crate::ChannelView::link) tells which.
    ///
    /// Of RDMA devices the first usable port is used, for DLSlime peers too. A port is usable whose
    /// state is ACTIVE, or cannot be told: its network interface is up and its cable plugged in.
    /// `SLIME_VISIBLE_DEVICES` limits the choice.
    ///
    /// An agent opens no TCP port before it connects with a peer over TCP, unless TCP is the only
    /// fabric or [`tcp_bind`](Self::tcp_bind) is set.
    ///
    /// ```
    /// use slimerpc_actors::PeerAgent;
    /// let builder = PeerAgent::builder().fabrics("shm,rdma");
    /// # let _ = builder;
    /// ```
    pub fn fabrics(mut self, list: impl Into<String>) -> Self {
        self.fabrics = Some(list.into());
        self
    }

    /// Sets the address that `tcp0` listens on, or a name of this host, and maybe its port or a
    /// range of ports, one of which is used: `192.0.2.1`, `[::1]:7000`, `worker-3`,
    /// `0.0.0.0:7000-7099`. An agent that exports memory, or uses that of others, takes a second
    /// port. All addresses (`0.0.0.0`, `::`) need [`tcp_advertise`](Self::tcp_advertise), too.
    ///
    /// Only peers that the control plane told a random key of 128 bits are let in. Bytes are not
    /// encrypted without [`tls`](Self::tls).
    ///
    /// ```
    /// use slimerpc_actors::PeerAgent;
    /// let builder = PeerAgent::builder().device("tcp0").tcp_bind("127.0.0.1:7000-7099");
    /// # let _ = builder;
    /// ```
    pub fn tcp_bind(mut self, address: impl Into<String>) -> Self {
        self.tcp_bind = Some(address.into());
        self
    }

    /// Sets the IP address at which peers dial `tcp0`, where that is not the one it listens on: in
    /// a container, behind NAT, or where it listens on all addresses.
    pub fn tcp_advertise(mut self, address: impl Into<String>) -> Self {
        self.tcp_advertise = Some(address.into());
        self
    }

    /// Encrypts what goes over TCP, and checks whom it goes to: `cert` is this agent's certificate,
    /// `key` its key, and `ca` the authority that must have signed the certificate of each peer,
    /// all PEM files. A certificate names the aliases that its holder may have, as URIs:
    /// `URI:slimerpc:worker:0`, or `URI:slimerpc:worker:*`. An agent does not start with one that
    /// does not name its own.
    ///
    /// Peers without certificates are refused, and refuse this agent. The files are looked at
    /// whenever a connection is made, and read anew when one has changed. Needs the cargo feature
    /// `tls`.
    ///
    /// ```
    /// use slimerpc_actors::PeerAgent;
    /// let builder = PeerAgent::builder().tls("worker.crt", "worker.key", "ca.crt");
    /// # let _ = builder;
    /// ```
    pub fn tls(
        mut self,
        cert: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        ca: impl Into<PathBuf>,
    ) -> Self {
        self.tls = Some(TlsFiles {
            cert: cert.into(),
            key: key.into(),
            ca: ca.into(),
        });
        self
    }

    /// Wraps each device that this agent opens in what `wrap` returns, to test how a program
    /// handles failures of its fabric.
    ///
    /// ```
    /// use std::time::Duration;
    /// use slimerpc_actors::PeerAgent;
    /// use slimerpc_actors::faults::{Fault, Faults, Plan};
    ///
    /// let faults = Faults::new(Plan::seeded(42).with(Fault::PeerLost.chance(0.001)));
    /// let wrapping = faults.clone();
    /// let builder = PeerAgent::builder().wrap_device(move |device| wrapping.wrap(device));
    /// # let _ = (builder, faults.stats());
    /// ```
    #[cfg(feature = "faults")]
    pub fn wrap_device(
        mut self,
        wrap: impl Fn(Arc<dyn Device>) -> Arc<dyn Device> + Send + Sync + 'static,
    ) -> Self {
        self.opener = Opener::wrapping(Arc::new(wrap));
        self
    }

    /// Sets how large messages may be, how many may be under way, and what the agent may use for
    /// them. A later call adds to an earlier one.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits.or(self.limits);
        self
    }

    /// Sets how long the agent waits for others. A later call adds to an earlier one.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts.or(self.timeouts);
        self
    }

    /// Sets how often the agent polls for replies and requests, and checks that its peers are
    /// alive. A later call adds to an earlier one.
    pub fn polling(mut self, polling: Polling) -> Self {
        self.polling = polling.or(self.polling);
        self
    }

    /// Sets how long a queue pair retries before it gives a peer up. Default: min_rnr_timer 12,
    /// rnr_retry 6, timeout 14 and retry_cnt 6.
    ///
    /// ```
    /// use slimerpc_actors::{PeerAgent, RetryPolicy};
    /// let far_away = RetryPolicy { timeout: 18, ..RetryPolicy::default() };
    /// let builder = PeerAgent::builder().retry(far_away);
    /// # let _ = builder;
    /// ```
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Sets which services are restarted together. Default: a service is restarted alone.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Sets whether the agent publishes what it says of itself, once a second: a record in Redis
    /// that `nanoctrl obs`, the console of `nanoctrl` and DLSlime's `dlslime-ctrl obs` read. It
    /// needs [`nanoctrl`](Self::nanoctrl).
    ///
    /// ```
    /// use slimerpc_actors::PeerAgent;
    /// let builder = PeerAgent::builder().nanoctrl("http://ctrl:3000").obs(true);
    /// # let _ = builder;
    /// ```
    pub fn obs(mut self, is_on: bool) -> Self {
        self.obs = Some(is_on);
        self
    }

    /// Counts calls and how long they take, and tells the recorder that the program has installed
    /// (crate `metrics`) once a second. [`PeerAgent::figures`] has the same figures. Off by
    /// default: then nothing is counted, unless [`metrics_address`](Self::metrics_address) or
    /// [`obs`](Self::obs) is set.
    ///
    /// ```
    /// use slimerpc_actors::PeerAgent;
    /// let builder = PeerAgent::builder().alias("worker:0").metrics(true);
    /// # let _ = builder;
    /// ```
    pub fn metrics(mut self, tell: bool) -> Self {
        self.metrics = Some(tell);
        self
    }

    /// Counts calls and how long they take, and serves the figures as Prometheus text at
    /// `http://ADDRESS/metrics`. The address is an IP address and a port, like `127.0.0.1:9464`.
    /// Everybody who reaches it can read them, so choose loopback or an address inside your
    /// network.
    ///
    /// ```
    /// use slimerpc_actors::PeerAgent;
    /// let builder = PeerAgent::builder().alias("worker:0").metrics_address("127.0.0.1:9464");
    /// # let _ = builder;
    /// ```
    pub fn metrics_address(mut self, address: impl Into<String>) -> Self {
        self.metrics_address = Some(address.into());
        self
    }

    /// Starts the agent: opens the device, registers, and begins to accept callers.
    ///
    /// # Errors
    /// An error if a setting is out of range, the device cannot be opened, the alias is taken, or
    /// the control plane cannot be reached.
    pub async fn start(self) -> Result<PeerAgent, AgentError> {
        let listening = self.listening().await?;
        PeerAgent::start(self.settle(listening)?).await
    }

    /// Where peers are found.
    fn plane(&self) -> Plane {
        let environment = || environment::text(CONTROL).map(|text| Plane::from(&*text));
        let plane = self.plane.clone().or_else(environment);
        plane.unwrap_or(Plane::Local)
    }

    /// Where `tcp0` listens, if that is set; a name is resolved. Otherwise the address of this host
    /// towards the control plane, if `tcp0` has to be told.
    async fn listening(&self) -> Result<Option<TcpOptions>, AgentError> {
        let Some(bind) = or_environment(&self.tcp_bind, TCP_BIND) else {
            let own = self.own_address().await;
            return Ok(own.map(|bind| TcpOptions {
                bind,
                ..TcpOptions::default()
            }));
        };
        // A name may have to be asked for.
        let text = bind.clone();
        let parsed = tokio::task::spawn_blocking(move || settings::tcp_bind(&text)).await;
        let options = parsed.map_err(|_| AgentError::ShutDown)??;
        if let Some((name, _)) = TcpOptions::name_in(&bind)
            && options.bind.is_loopback()
            && !name.eq_ignore_ascii_case("localhost")
        {
            // As Debian has it in /etc/hosts of each host.
            tracing::warn!(
                "tcp_bind: the name {name} stands for {} here, which no other host can dial; give an address or /etc/hosts another",
                options.bind
            );
        }
        Ok(Some(options))
    }

    /// The address of this host towards the control plane, if `tcp0` has to be told.
    async fn own_address(&self) -> Option<IpAddr> {
        let Plane::NanoCtrl(url) = self.plane() else {
            return None;
        };
        let uses_tcp = match &self.device {
            Some(device) => device.eq_ignore_ascii_case(fabric::TCP),
            // Nonsense is refused later.
            None => self.allowed().ok()?.contain(FabricKind::Tcp),
        };
        if !uses_tcp {
            return None;
        }
        // A malformed URL is refused later.
        let control = NanoCtrl::new(&url, &self.scope).ok()?;
        control.own_address().await?.parse().ok()
    }

    /// The fabrics that may be used.
    fn allowed(&self) -> Result<Fabrics, AgentError> {
        let Some(list) = or_environment(&self.fabrics, FABRICS) else {
            return Ok(Fabrics::default(!matches!(self.plane(), Plane::Local)));
        };
        Ok(settings::fabrics(&list)?)
    }

    /// Refuses a device of a fabric that may not be used.
    fn check_device(&self, devices: &Devices) -> Result<(), AgentError> {
        let list = or_environment(&self.fabrics, FABRICS);
        let (Some(device), Some(list)) = (&self.device, list) else {
            return Ok(());
        };
        let kind = FabricKind::of(devices.links()[0]);
        if self.allowed()?.contain(kind) {
            return Ok(());
        }
        Err(AgentError::Setting {
            name: "fabrics".into(),
            value: list,
            allowed: format!("the device {device} is of the fabric {kind}: choose one of them"),
        })
    }

    /// How `tcp0` listens.
    fn tcp(&self, listening: Option<TcpOptions>) -> Result<TcpOptions, AgentError> {
        let mut options = listening.unwrap_or_default();
        if let Some(advertise) = or_environment(&self.tcp_advertise, TCP_ADVERTISE) {
            options.advertise = Some(settings::tcp_advertise(&advertise)?);
        }
        options.tls = self.certificates()?;
        Ok(settings::tcp(options)?)
    }

    /// The files for TLS, if there are.
    fn certificates(&self) -> Result<Option<TlsFiles>, AgentError> {
        let files = match &self.tls {
            Some(files) => Some(files.clone()),
            None => settings::tls_files(TLS.map(environment::text))?,
        };
        if let Some(files) = files.as_ref().filter(|_| !tls::IS_BUILT_IN) {
            return Err(AgentError::Setting {
                name: TLS[0].into(),
                value: files.cert.display().to_string(),
                allowed: "TLS needs the cargo feature `tls` of slimerpc-actors".to_owned(),
            });
        }
        Ok(files)
    }

    /// Time between two records of what the agent says of itself, if it says anything.
    fn obs_period(&self) -> Result<Option<Duration>, AgentError> {
        let is_wanted = match self.obs {
            Some(is_wanted) => is_wanted,
            None => {
                environment::flag(OBS)? == Some(true)
                    && environment::flag(OBS_REDIS)? != Some(false)
            }
        };
        if !is_wanted {
            return Ok(None);
        }
        if !matches!(self.plane(), Plane::NanoCtrl(_)) {
            let lacking = "records of what an agent says of itself lie in the Redis of a NanoCtrl: \
                set `nanoctrl` or SLIME_RPC_CONTROL to its URL, too";
            // The variable may be set for all programs of a host, DLSlime's among them.
            if self.obs.is_none() {
                tracing::warn!("{OBS} has no effect: {lacking}");
                return Ok(None);
            }
            return Err(AgentError::Setting {
                name: "obs".into(),
                value: "true".to_owned(),
                allowed: lacking.to_owned(),
            });
        }
        let period = environment::millis(OBS_PERIOD)?.unwrap_or(DEFAULT_OBS_PERIOD);
        Ok(Some(settings::obs_period(period)?))
    }

    fn server(&self, url: &str, within: Duration) -> Result<NanoCtrl, ControlError> {
        let or = |set: &Option<Secret>, name| set.clone().or_else(|| environment::secret(name));
        let tls = self.nanoctrl_tls.clone().or_environment();
        let mut control = NanoCtrl::new(url, &self.scope)?
            .tls(&tls)?
            .register_timeout(within);
        if let Some(token) = or(&self.token, TOKEN) {
            control = control.token(token)?;
        }
        if let Some(url) = or(&self.redis, REDIS_URL) {
            control = control.redis(url)?;
        }
        Ok(control)
    }

    pub(crate) fn settle(self, listening: Option<TcpOptions>) -> Result<Settings, AgentError> {
        log::begin()?;
        environment::warn_of_unknown();
        let limits = self.limits.clone().or_environment()?;
        let codec_limits = limits.codec()?;
        let workers = settings::workers(limits.workers.unwrap_or(1))?;
        let timeouts = self.timeouts.clone().or_environment()?;
        timeouts.check()?;
        let polling = self.polling.clone().or_environment()?;
        polling.check()?;
        let retry = self.retry.map_or_else(environment::retry, Ok)?;
        let geometries = limits.geometries()?;
        let memory_limits = limits.memory(geometries.native)?;
        if limits.raise_open_files == Some(true) {
            fabric::raise_open_files()
                .map_err(FabricError::os("raising the limit of open files"))?;
        }
        let mut topology = Topology::of_host();
        if let Some(device) = &self.device {
            topology = topology.preferring(device);
        }
        let metrics = Metrics::new(
            match self.metrics {
                Some(set) => set,
                None => environment::flag(METRICS)? == Some(true),
            },
            or_environment(&self.metrics_address, METRICS_ADDR),
        )?;
        let fabrics = self.allowed()?;
        let is_only = self.device.is_some() || fabrics.are_only(FabricKind::Tcp);
        // What is asked for is tried at once, so that the agent does not start if it cannot be.
        let at_once = is_only || or_environment(&self.tcp_bind, TCP_BIND).is_some();
        let tcp = self.tcp(listening)?;
        let tls = tcp.tls.clone();
        let opener = self.opener.clone().listening(tcp, at_once);
        let devices = Devices::open(
            &opener,
            self.device.as_deref(),
            &fabrics,
            &topology,
            memory_limits,
        )?;
        self.check_device(&devices)?;
        // Otherwise it meets nobody by TLS.
        let tls = tls.filter(|_| devices.on(LinkType::Tcp).is_some());
        if let (Some(files), Some(alias)) = (&tls, &self.alias) {
            check_alias(files, alias)?;
        }
        retry.check(devices.first().device().name())?;
        let connect_timeout = timeouts.connecting();
        let obs = self.obs_period()?;
        let control: Arc<dyn Control> = match self.plane() {
            Plane::Local => Arc::new(Local::new(&self.scope)),
            Plane::Host => Arc::new(Host::new(&self.scope)),
            Plane::NanoCtrl(url) => Arc::new(self.server(&url, connect_timeout)?),
        };
        codec_limits.apply();
        let observed: Option<Arc<Observed>> =
            (metrics.is_wanted() || obs.is_some()).then(Arc::default);
        if let Some(observed) = &observed {
            observed.watch_devices(devices.names());
        }
        Ok(Settings {
            control,
            devices,
            topology,
            tls,
            alias: self.alias,
            geometry: geometries.native,
            dlslime_geometry: geometries.compatible,
            workers,
            retry,
            busy_poll: polling.before_sleep(),
            connect_timeout,
            take_over: timeouts.take_over.unwrap_or_default(),
            call_timeout: timeouts.call_timeout,
            reconnect_wait: timeouts.reconnect_wait.unwrap_or_default(),
            stream_patience: timeouts.between_items(),
            idle_after: timeouts.before_rest(),
            strategy: self.strategy,
            obs,
            scope: self.scope,
            observed,
            metrics,
            polling,
        })
    }
}

/// Refuses a certificate with which no peer would meet an agent of this alias.
fn check_alias(files: &TlsFiles, alias: &str) -> Result<(), AgentError> {
    files
        .check_alias(alias)
        .map_err(|error| AgentError::Setting {
            name: error.setting.into(),
            value: error.path.display().to_string(),
            allowed: error.reason,
        })
}

/// What the program sets, or else the environment.
fn or_environment(set: &Option<String>, name: &str) -> Option<String> {
    set.clone().or_else(|| environment::text(name))
}

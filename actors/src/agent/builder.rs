//! Settings of an agent.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use slimerpc::channel::{Geometry, HeartbeatTiming, MemoryLimits};
use slimerpc::control::topology::Topology;
use slimerpc::control::{Control, ControlError, Local, NanoCtrl, Secret};
#[cfg(feature = "faults")]
use slimerpc::fabric::Device;
use slimerpc::fabric::{self, FabricError, LinkType, RetryPolicy};
use slimerpc::wire::CodecLimits;

use crate::agent::devices::{Devices, Opener};
use crate::agent::serve::check_workers;
use crate::{AgentError, PeerAgent, Strategy, agent::environment};

const SLOT_SIZE: usize = 32 * 1024;
/// What DLSlime peers have unless they are told otherwise.
const DLSLIME_SLOT_SIZE: usize = 32_000_000;
const MAX_INFLIGHT: usize = 16;
const BUSY_POLL: Duration = Duration::from_micros(50);
const MAX_BUSY_POLL: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DETECTION: Duration = Duration::from_secs(3);
const DETECTION_SHM: Duration = Duration::from_secs(1);
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(1);
const STREAM_PATIENCE: Duration = Duration::from_secs(30);

/// Where an agent finds its peers.
#[derive(Debug, Clone)]
enum Plane {
    Local,
    NanoCtrl(String),
}

/// Settings of a [`PeerAgent`]; see [`PeerAgent::builder`].
///
/// What is not set here may stand in the environment; an empty variable counts as none. [`start`](Self::start) refuses what
/// makes no sense, wherever it came from.
///
/// | setting | or else | default | unit | effect |
/// | --- | --- | --- | --- | --- |
/// | [`nanoctrl`](Self::nanoctrl) / [`local`](Self::local) | | local | URL | where peers are found |
/// | [`token`](Self::token) | `NANOCTRL_TOKEN` | none | | bearer token for NanoCtrl, if it wants one |
/// | [`redis`](Self::redis) | `SLIME_RPC_REDIS_URL` | as NanoCtrl says, no login | URL | how to log in to Redis, and maybe where it is |
/// | [`alias`](Self::alias) | | generated | | name under which peers find us |
/// | [`scope`](Self::scope) | | none | | isolates jobs that share a control plane |
/// | [`device`](Self::device) | | chosen for each peer, out of `SLIME_VISIBLE_DEVICES` | | what carries the bytes |
/// | [`slot_size`](Self::slot_size) | `SLIME_RPC_SLOT_SIZE` | 32,768; towards DLSlime peers 32,000,000 | bytes | a message in the ring, header (16 bytes) included; larger ones go around it, or, to and from DLSlime peers, nowhere; equal on both sides |
/// | [`max_inflight`](Self::max_inflight) | `SLIME_RPC_MAX_INFLIGHT` | 16 | calls | calls in flight of one proxy; more wait in order; equal on both sides |
/// | [`max_payload`](Self::max_payload) | `SLIME_RPC_MAX_PAYLOAD` | 1 GiB | bytes | largest message between native peers |
/// | [`payload_memory`](Self::payload_memory) | `SLIME_RPC_PAYLOAD_MEMORY` | 4 GiB | bytes | registered for messages beyond a slot at the same time, for each device |
/// | [`max_depth`](Self::max_depth) | `SLIME_RPC_MAX_DEPTH` | 128 | levels | values within values, written or read; for the whole process |
/// | [`max_pickle_values`](Self::max_pickle_values) | `SLIME_RPC_MAX_PICKLE_VALUES` | 16,777,216 | values | in a pickle that is read; for the whole process |
/// | [`workers`](Self::workers) | `SLIME_RPC_SERVER_WORKERS` | 1 | threads | parallel methods of one service that run at once |
/// | [`busy_poll`](Self::busy_poll) | `SLIME_RPC_BUSY_POLL_US` | 50; 0 where this process has one core, by its affinity or quota | us | how long a waiter polls before it sleeps |
/// | [`connect_timeout`](Self::connect_timeout) | `SLIME_RPC_CONNECT_TIMEOUT_MS` | 10,000 | ms | for registering, and for finding and connecting a peer |
/// | [`take_over`](Self::take_over) | `SLIME_RPC_TAKE_OVER_MS` | 0 | ms | how long starting waits for an alias that is taken |
/// | [`call_timeout`](Self::call_timeout) | `SLIME_RPC_CALL_TIMEOUT_MS` | none | ms | for each call of this agent's proxies |
/// | [`reconnect_wait`](Self::reconnect_wait) | `SLIME_RPC_RECONNECT_WAIT_MS` | 0 | ms | for which calls wait for a peer that is lost |
/// | [`stream_patience`](Self::stream_patience) | `SLIME_RPC_STREAM_PATIENCE_MS` | 30,000 | ms | how long callers may leave a stream of this agent's services unread |
/// | [`heartbeat`](Self::heartbeat) | `SLIME_RPC_HEARTBEAT_MS` | half of the detection time | ms | between two signs of life to each native peer |
/// | [`detection`](Self::detection) | `SLIME_RPC_DETECTION_MS` | 1,000 on shared memory, 3,000 otherwise | ms | without a sign of life for so long, a peer is stalled |
/// | [`raise_open_files`](Self::raise_open_files) | `SLIME_RPC_RAISE_OPEN_FILES` | no | 1 or 0 | raise this process' limit of file descriptors as far as it may, for many peers; processes that it starts inherit that |
/// | [`strategy`](Self::strategy) | | one for one | | which services are restarted together |
/// | [`retry`](Self::retry): `min_rnr_timer` | `SLIME_RPC_MIN_RNR_TIMER` | 12 (0.64 ms) | code | wait that we ask of a sender when we have no receive posted |
/// | `rnr_retry` | `SLIME_RPC_RNR_RETRY` | 6 | tries | after "receiver not ready"; 7: for ever |
/// | `timeout` | `SLIME_RPC_ACK_TIMEOUT` | 14 (67 ms) | code | wait for an acknowledgement |
/// | `retry_cnt` | `SLIME_RPC_RETRY_CNT` | 6 | tries | after such a wait, before the peer is given up |
#[derive(Debug, Clone)]
#[must_use = "an agent begins with `start`"]
pub struct Builder {
    plane: Plane,
    token: Option<Secret>,
    redis: Option<Secret>,
    alias: Option<String>,
    scope: String,
    device: Option<String>,
    opener: Opener,
    slot_size: Option<usize>,
    max_inflight: Option<usize>,
    max_payload: Option<usize>,
    payload_memory: Option<usize>,
    max_depth: Option<usize>,
    max_pickle_values: Option<usize>,
    workers: Option<usize>,
    retry: Option<RetryPolicy>,
    busy_poll: Option<Duration>,
    connect_timeout: Option<Duration>,
    take_over: Option<Duration>,
    call_timeout: Option<Duration>,
    reconnect_wait: Option<Duration>,
    stream_patience: Option<Duration>,
    raise_open_files: Option<bool>,
    strategy: Strategy,
    heartbeat: Option<Duration>,
    detection: Option<Duration>,
}

/// What an agent is started with.
pub(crate) struct Settings {
    pub(crate) control: Arc<dyn Control>,
    pub(crate) devices: Devices,
    pub(crate) topology: Topology,
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
    pub(crate) strategy: Strategy,
    heartbeat: Option<Duration>,
    detection: Option<Duration>,
}

impl Settings {
    /// How often to give signs of life on links of this kind, and how long to do without.
    pub(crate) fn heartbeat(&self, link: LinkType) -> HeartbeatTiming {
        heartbeat(self.heartbeat, self.detection, link)
    }
}

/// While the only core polls, a peer on this host does not run.
fn busy_poll() -> Duration {
    match thread::available_parallelism() {
        Ok(cores) if cores.get() == 1 => Duration::ZERO,
        _ => BUSY_POLL,
    }
}

fn heartbeat(
    interval: Option<Duration>,
    detection: Option<Duration>,
    link: LinkType,
) -> HeartbeatTiming {
    let detection = detection.unwrap_or(match link {
        LinkType::Shm => DETECTION_SHM,
        _ => DETECTION,
    });
    HeartbeatTiming {
        interval: interval.unwrap_or(detection / 2),
        detection,
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            plane: Plane::Local,
            token: None,
            redis: None,
            alias: None,
            scope: String::new(),
            device: None,
            opener: Opener::default(),
            slot_size: None,
            max_inflight: None,
            max_payload: None,
            payload_memory: None,
            max_depth: None,
            max_pickle_values: None,
            workers: None,
            retry: None,
            busy_poll: None,
            connect_timeout: None,
            take_over: None,
            call_timeout: None,
            reconnect_wait: None,
            stream_patience: None,
            raise_open_files: None,
            strategy: Strategy::default(),
            heartbeat: None,
            detection: None,
        }
    }
}

impl Builder {
    /// Finds peers through the NanoCtrl server at `url` and the Redis that it names.
    pub fn nanoctrl(mut self, url: impl Into<String>) -> Self {
        self.plane = Plane::NanoCtrl(url.into());
        self
    }

    /// Finds peers in this process only; nothing needs to be installed or running.
    pub fn local(mut self) -> Self {
        self.plane = Plane::Local;
        self
    }

    /// The bearer token that the NanoCtrl server was started with, if it was started with one. It is shown nowhere.
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

    /// How to log in to Redis: `redis://[[user]:password@][host[:port]][/database]`, or `rediss://` for TLS. A server tells
    /// nobody its credentials, and DLSlime peers know none. Without a host Redis is where the server says, so
    /// `redis://:password@` and `rediss://` are enough; with one it is there. See [`NanoCtrl::redis`].
    pub fn redis(mut self, url: impl Into<Secret>) -> Self {
        self.redis = Some(url.into());
        self
    }

    /// The name under which peers find this agent. Without one the control plane makes one up.
    pub fn alias(mut self, alias: impl Into<String>) -> Self {
        self.alias = Some(alias.into());
        self
    }

    /// Isolates this agent and its peers from those of other scopes.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = scope.into();
        self
    }

    /// The only device to use, by name: `shm0` (shared memory), or an RDMA device like `mlx5_0` or `rxe0`.
    ///
    /// Without this, peers on the same host are reached through shared memory, and others, DLSlime peers among
    /// them, through the first usable RDMA port. `SLIME_VISIBLE_DEVICES` limits the choice.
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = Some(name.into());
        self
    }

    /// Has `wrap` put something around each device that this agent opens: for tests of what becomes of a program when its
    /// fabric fails.
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

    /// Bytes of a ring slot, 16 bytes of header included. Equal on both sides. Larger messages are read by the receiver out of
    /// the sender's memory; DLSlime peers cannot do that, so towards them this is the limit.
    pub fn slot_size(mut self, bytes: usize) -> Self {
        self.slot_size = Some(bytes);
        self
    }

    /// Calls that one proxy has in flight; further ones wait in order. Equal on both sides.
    pub fn max_inflight(mut self, calls: usize) -> Self {
        self.max_inflight = Some(calls);
        self
    }

    /// Bytes of the largest message between native peers.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = Some(bytes);
        self
    }

    /// Levels of values within values that are written or read, by all agents of this process: arguments, results, items
    /// and errors. Both ends need the same. However many are allowed, what takes more than 1 MiB of stack is refused; see
    /// [`CodecLimits`].
    pub fn max_depth(mut self, levels: usize) -> Self {
        self.max_depth = Some(levels);
        self
    }

    /// Values in a pickle that any agent of this process reads; see [`CodecLimits`].
    pub fn max_pickle_values(mut self, values: usize) -> Self {
        self.max_pickle_values = Some(values);
        self
    }

    /// Bytes that may be registered at the same time for messages beyond a slot, on each device. A quarter of it at most
    /// stays registered for later ones.
    pub fn payload_memory(mut self, bytes: usize) -> Self {
        self.payload_memory = Some(bytes);
        self
    }

    /// Threads for the parallel methods of each service that has some, at least 1; see [`Share`](crate::Share).
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = Some(threads);
        self
    }

    /// How long a queue pair insists before it gives a peer up: min_rnr_timer 12, rnr_retry 6, timeout 14 and
    /// retry_cnt 6 if not set.
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

    /// How long a waiter polls before it sleeps. Zero: it sleeps at once.
    pub fn busy_poll(mut self, budget: Duration) -> Self {
        self.busy_poll = Some(budget);
        self
    }

    /// How long registering with the control plane may take, and finding and connecting a peer.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = Some(limit);
        self
    }

    /// How long [`start`](Self::start) waits for an alias that another agent has, and says so in the log; not at all, if not set.
    ///
    /// An agent that was killed keeps its alias for up to 60 s, unless its process is proved to have ended: it ran on this host,
    /// and can be seen from here. So this is for an agent that is restarted under its alias in another container or on another
    /// host: with 65 s it starts when the alias of the dead one has expired. One that is alive keeps it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use slimerpc_actors::PeerAgent;
    /// let builder = PeerAgent::builder().alias("worker:0").take_over(Duration::from_secs(65));
    /// # let _ = builder;
    /// ```
    pub fn take_over(mut self, within: Duration) -> Self {
        self.take_over = Some(within);
        self
    }

    /// Gives every call made through this agent's proxies so long; see [`Proxy::with_timeout`](crate::Proxy::with_timeout).
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.call_timeout = Some(limit);
        self
    }

    /// How long calls wait for a connection that is lost to be made again, within their deadlines; they fail at once with
    /// [`RpcError::PeerLost`](crate::RpcError::PeerLost) if this is not set. It is for calls made while the peer is not there.
    /// Those that were under way when it was lost fail all the same: whether they were run, [`RpcError::ran`](crate::RpcError::ran)
    /// says. Calls that wait are made when their replies are polled, in no certain order. For one proxy see
    /// [`Proxy::with_reconnect_wait`](crate::Proxy::with_reconnect_wait).
    pub fn reconnect_wait(mut self, limit: Duration) -> Self {
        self.reconnect_wait = Some(limit);
        self
    }

    /// How long the caller of a stream may leave it without asking for an item, until the service ends it with
    /// [`RpcError::Stalled`](crate::RpcError::Stalled): a serial method's stream keeps the service's other serial methods waiting.
    pub fn stream_patience(mut self, limit: Duration) -> Self {
        self.stream_patience = Some(limit);
        self
    }

    /// Raises this process' limit of file descriptors (`ulimit -n`) as far as it may, since each peer takes some 20 on shared
    /// memory. It is not done unless it is asked for: processes that this one starts inherit the limit, and `select()`, which
    /// some still use, breaks with descriptors beyond 1,024.
    ///
    /// ```no_run
    /// # use slimerpc_actors::{AgentError, PeerAgent};
    /// # async fn example() -> Result<(), AgentError> {
    /// let worker = PeerAgent::builder().alias("worker:0").raise_open_files(true).start().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn raise_open_files(mut self, raises: bool) -> Self {
        self.raise_open_files = Some(raises);
        self
    }

    /// Which of its services are restarted when one has to be: that one alone, if not set.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// How often this agent gives signs of life to each native peer that it is connected with; half of the detection time if
    /// not set.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = Some(interval);
        self
    }

    /// Without a sign of life for so long, a native peer is [stalled](crate::PeerEvent::Stalled). That it is gone is noticed
    /// at once on shared memory, and on RDMA devices when it does not acknowledge the next sign of life within
    /// [`retry`](Self::retry).
    pub fn detection(mut self, limit: Duration) -> Self {
        self.detection = Some(limit);
        self
    }

    /// Starts the agent: opens the device, registers, and begins to listen.
    ///
    /// # Errors
    /// A setting is out of range; the device cannot be opened; the alias is taken; the control plane cannot
    /// be reached.
    pub async fn start(self) -> Result<PeerAgent, AgentError> {
        PeerAgent::start(self.settle()?).await
    }

    fn control(&self, url: &str, within: Duration) -> Result<NanoCtrl, ControlError> {
        let or = |set: &Option<Secret>, name| set.clone().or_else(|| environment::secret(name));
        let mut control = NanoCtrl::new(url, &self.scope)?.register_timeout(within);
        if let Some(token) = or(&self.token, "NANOCTRL_TOKEN") {
            control = control.token(token)?;
        }
        if let Some(url) = or(&self.redis, "SLIME_RPC_REDIS_URL") {
            control = control.redis(url)?;
        }
        Ok(control)
    }

    /// The limits of what is encoded and decoded, if any is set here. They are those of the process.
    fn settle_codec_limits(&self) -> Result<CodecLimits, AgentError> {
        let current = CodecLimits::current();
        let or = |set: Option<usize>, name, current| match set {
            Some(set) => Ok(set),
            None => Ok::<_, AgentError>(environment::number(name)?.unwrap_or(current)),
        };
        let limits = CodecLimits {
            depth: or(self.max_depth, "SLIME_RPC_MAX_DEPTH", current.depth)?,
            pickle_values: or(
                self.max_pickle_values,
                "SLIME_RPC_MAX_PICKLE_VALUES",
                current.pickle_values,
            )?,
        };
        let refuse = |name, value: usize, allowed: &str| AgentError::Setting {
            name: Cow::Borrowed(name),
            value: value.to_string(),
            allowed: allowed.to_owned(),
        };
        if limits.depth == 0 {
            let allowed = "the arguments of a call are a tuple, which is a level";
            return Err(refuse("max_depth", 0, allowed));
        }
        if limits.pickle_values == 0 {
            let allowed = "a pickle has a value in it";
            return Err(refuse("max_pickle_values", 0, allowed));
        }
        Ok(limits)
    }

    pub(crate) fn settle(self) -> Result<Settings, AgentError> {
        let codec_limits = self.settle_codec_limits()?;
        let or = |set: Option<usize>, name, default| match set {
            Some(set) => Ok(set),
            None => Ok::<_, AgentError>(environment::number(name)?.unwrap_or(default)),
        };
        let set_slot_size = match self.slot_size {
            Some(set) => Some(set),
            None => environment::number("SLIME_RPC_SLOT_SIZE")?,
        };
        let slot_size = set_slot_size.unwrap_or(SLOT_SIZE);
        let slots = or(self.max_inflight, "SLIME_RPC_MAX_INFLIGHT", MAX_INFLIGHT)?;
        let workers = check_workers(or(self.workers, "SLIME_RPC_SERVER_WORKERS", 1)?)?;
        let busy_poll = match self.busy_poll {
            Some(set) => set,
            None => environment::micros("SLIME_RPC_BUSY_POLL_US")?.unwrap_or_else(busy_poll),
        };
        let connect_timeout = match self.connect_timeout {
            Some(set) => set,
            None => environment::millis("SLIME_RPC_CONNECT_TIMEOUT_MS")?.unwrap_or(CONNECT_TIMEOUT),
        };
        let take_over = match self.take_over {
            Some(set) => set,
            None => environment::millis("SLIME_RPC_TAKE_OVER_MS")?.unwrap_or_default(),
        };
        let call_timeout = match self.call_timeout {
            Some(set) => Some(set),
            None => environment::millis("SLIME_RPC_CALL_TIMEOUT_MS")?,
        };
        let reconnect_wait = match self.reconnect_wait {
            Some(set) => set,
            None => environment::millis("SLIME_RPC_RECONNECT_WAIT_MS")?.unwrap_or_default(),
        };
        let stream_patience = match self.stream_patience {
            Some(set) => set,
            None => environment::millis("SLIME_RPC_STREAM_PATIENCE_MS")?.unwrap_or(STREAM_PATIENCE),
        };
        check_times(busy_poll, connect_timeout, call_timeout, stream_patience)?;
        let (heartbeat, detection) = self.settle_heartbeat()?;
        let retry = self.retry.map_or_else(environment::retry, Ok)?;
        let geometry = |slot_size| {
            Geometry::new(slots, slot_size).map_err(|error| AgentError::Setting {
                name: "slot_size x max_inflight".into(),
                value: format!("{slot_size} x {slots}"),
                allowed: error.to_string(),
            })
        };
        let dlslime_geometry = geometry(set_slot_size.unwrap_or(DLSLIME_SLOT_SIZE))?;
        let geometry = geometry(slot_size)?;
        let defaults = MemoryLimits::default();
        let payload = or(self.max_payload, "SLIME_RPC_MAX_PAYLOAD", defaults.payload)?;
        let total = or(
            self.payload_memory,
            "SLIME_RPC_PAYLOAD_MEMORY",
            defaults.total,
        )?;
        check_payloads(payload, total, geometry)?;
        let limits = MemoryLimits {
            payload,
            total,
            idle: total / 4,
        };
        let raises = self.raise_open_files;
        if raises.map_or_else(|| environment::flag("SLIME_RPC_RAISE_OPEN_FILES"), Ok)? {
            fabric::raise_open_files()
                .map_err(FabricError::os("raising the limit of open files"))?;
        }
        let mut topology = Topology::of_host();
        if let Some(device) = &self.device {
            topology = topology.preferring(device);
        }
        let devices = Devices::open(&self.opener, self.device.as_deref(), &topology, limits)?;
        retry.check(devices.first().device().name())?;
        let control: Arc<dyn Control> = match &self.plane {
            Plane::Local => Arc::new(Local::new(&self.scope)),
            Plane::NanoCtrl(url) => Arc::new(self.control(url, connect_timeout)?),
        };
        codec_limits.apply();
        Ok(Settings {
            control,
            devices,
            topology,
            alias: self.alias,
            geometry,
            dlslime_geometry,
            workers,
            retry,
            busy_poll,
            connect_timeout,
            take_over,
            call_timeout,
            reconnect_wait,
            stream_patience,
            strategy: self.strategy,
            heartbeat,
            detection,
        })
    }

    fn settle_heartbeat(&self) -> Result<(Option<Duration>, Option<Duration>), AgentError> {
        let interval = match self.heartbeat {
            Some(set) => Some(set),
            None => environment::millis("SLIME_RPC_HEARTBEAT_MS")?,
        };
        let detection = match self.detection {
            Some(set) => Some(set),
            None => environment::millis("SLIME_RPC_DETECTION_MS")?,
        };
        for link in [LinkType::Shm, LinkType::Roce] {
            let beat = heartbeat(interval, detection, link);
            let refuse = |name, value: Duration, allowed: &str| AgentError::Setting {
                name: Cow::Borrowed(name),
                value: format!("{value:?}"),
                allowed: allowed.to_owned(),
            };
            if beat.interval < SHORTEST_HEARTBEAT {
                let allowed =
                    "signs of life more often than every millisecond would keep cores busy";
                return Err(refuse("heartbeat", beat.interval, allowed));
            }
            if beat.interval >= beat.detection {
                let allowed = format!(
                    "a peer that gives signs of life no more often than that would be taken for stalled after {:?}, the \
                     detection time",
                    beat.detection
                );
                return Err(refuse("heartbeat", beat.interval, &allowed));
            }
        }
        Ok((interval, detection))
    }
}

/// Refuses limits for messages beyond a slot that contradict themselves.
fn check_payloads(payload: usize, total: usize, geometry: Geometry) -> Result<(), AgentError> {
    let refuse = |name, value: usize, allowed: String| {
        Err(AgentError::Setting {
            name: Cow::Borrowed(name),
            value: value.to_string(),
            allowed,
        })
    };
    let slot = geometry.max_payload();
    if payload < slot {
        let allowed = format!("a slot carries messages of {slot} bytes all the same");
        return refuse("max_payload", payload, allowed);
    }
    if payload > slot && total == 0 {
        let allowed = "messages beyond a slot take some memory, or set max_payload to \
            what a slot carries"
            .to_owned();
        return refuse("payload_memory", total, allowed);
    }
    Ok(())
}

/// Refuses times with which nothing could ever work.
fn check_times(
    busy_poll: Duration,
    connect_timeout: Duration,
    call_timeout: Option<Duration>,
    stream_patience: Duration,
) -> Result<(), AgentError> {
    let refuse = |name, value: Duration, allowed: &str| {
        Err(AgentError::Setting {
            name: Cow::Borrowed(name),
            value: format!("{value:?}"),
            allowed: allowed.to_owned(),
        })
    };
    if connect_timeout.is_zero() {
        let allowed = "connecting takes more than no time";
        return refuse("connect_timeout", connect_timeout, allowed);
    }
    if let Some(limit) = call_timeout.filter(Duration::is_zero) {
        return refuse("call_timeout", limit, "a call takes more than no time");
    }
    if stream_patience.is_zero() {
        let allowed = "a caller takes some time to ask for the next item";
        return refuse("stream_patience", stream_patience, allowed);
    }
    if busy_poll > MAX_BUSY_POLL {
        let allowed = "waiters would keep their cores busy for more than 10 s after each call";
        return refuse("busy_poll", busy_poll, allowed);
    }
    Ok(())
}

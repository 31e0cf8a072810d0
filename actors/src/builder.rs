//! Settings of an agent.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use slimerpc::channel::Geometry;
use slimerpc::control::topology::Topology;
use slimerpc::control::{Control, Local, NanoCtrl};
use slimerpc::fabric::RetryPolicy;

use crate::devices::Devices;
use crate::serve::check_workers;
use crate::{AgentError, PeerAgent};

const MAX_BUSY_POLL: Duration = Duration::from_secs(10);

/// Where an agent finds its peers.
#[derive(Debug, Clone)]
enum Plane {
    Local,
    NanoCtrl(String),
}

/// Settings of a [`PeerAgent`]; see [`PeerAgent::builder`].
///
/// | setting | default | unit | effect |
/// | --- | --- | --- | --- |
/// | [`nanoctrl`](Self::nanoctrl) / [`local`](Self::local) | local | URL | where peers are found |
/// | [`alias`](Self::alias) | generated | | name under which peers find us |
/// | [`scope`](Self::scope) | none | | isolates jobs that share a control plane |
/// | [`device`](Self::device) | chosen for each peer | | what carries the bytes |
/// | [`slot_size`](Self::slot_size) | 32,768 | bytes | largest message, header (16 bytes) included |
/// | [`max_inflight`](Self::max_inflight) | 16, or `SLIME_RPC_MAX_INFLIGHT` | calls | calls in flight of one proxy; more wait in order |
/// | [`workers`](Self::workers) | 1, or `SLIME_RPC_SERVER_WORKERS` | threads | parallel methods of one service that run at once |
/// | [`retry`](Self::retry) | 12, 6, 14, 6 | | how long a queue pair insists before it gives a peer up |
/// | [`busy_poll`](Self::busy_poll) | 50 us | time | how long a waiter polls before it sleeps |
/// | [`connect_timeout`](Self::connect_timeout) | 10 s | time | for finding and connecting a peer |
/// | [`call_timeout`](Self::call_timeout) | none | time | for each call of this agent's proxies |
#[derive(Debug, Clone)]
#[must_use = "an agent begins with `start`"]
pub struct Builder {
    plane: Plane,
    alias: Option<String>,
    scope: String,
    device: Option<String>,
    slot_size: usize,
    max_inflight: Option<usize>,
    workers: Option<usize>,
    retry: RetryPolicy,
    busy_poll: Duration,
    connect_timeout: Duration,
    call_timeout: Option<Duration>,
}

/// What an agent is started with.
pub(crate) struct Settings {
    pub(crate) control: Arc<dyn Control>,
    pub(crate) devices: Devices,
    pub(crate) topology: Topology,
    pub(crate) alias: Option<String>,
    pub(crate) geometry: Geometry,
    pub(crate) workers: NonZeroUsize,
    pub(crate) retry: RetryPolicy,
    pub(crate) busy_poll: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) call_timeout: Option<Duration>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            plane: Plane::Local,
            alias: None,
            scope: String::new(),
            device: None,
            slot_size: 32 * 1024,
            max_inflight: None,
            workers: None,
            retry: RetryPolicy::default(),
            busy_poll: Duration::from_micros(50),
            connect_timeout: Duration::from_secs(10),
            call_timeout: None,
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

    /// Bytes of a ring slot: the largest message, 16 bytes of header included. Equal on both sides.
    pub fn slot_size(mut self, bytes: usize) -> Self {
        self.slot_size = bytes;
        self
    }

    /// Calls that one proxy has in flight; further ones wait in order. Equal on both sides.
    pub fn max_inflight(mut self, calls: usize) -> Self {
        self.max_inflight = Some(calls);
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
    /// use slimerpc_actors::{PeerAgent, slimerpc::fabric::RetryPolicy};
    /// let far_away = RetryPolicy { timeout: 18, ..RetryPolicy::default() };
    /// let builder = PeerAgent::builder().retry(far_away);
    /// # let _ = builder;
    /// ```
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How long a waiter polls before it sleeps. Zero: it sleeps at once.
    pub fn busy_poll(mut self, budget: Duration) -> Self {
        self.busy_poll = budget;
        self
    }

    /// How long finding and connecting a peer may take.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Gives every call made through this agent's proxies so long; see [`Proxy::with_timeout`](crate::Proxy::with_timeout).
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.call_timeout = Some(limit);
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

    /// Refuses times with which nothing could ever work.
    fn check_times(&self) -> Result<(), AgentError> {
        let refuse = |name, value: Duration, allowed: &str| {
            Err(AgentError::Setting {
                name,
                value: format!("{value:?}"),
                allowed: allowed.to_owned(),
            })
        };
        if self.connect_timeout.is_zero() {
            return refuse(
                "connect_timeout",
                self.connect_timeout,
                "connecting takes more than no time",
            );
        }
        if let Some(limit) = self.call_timeout.filter(Duration::is_zero) {
            return refuse("call_timeout", limit, "a call takes more than no time");
        }
        if self.busy_poll > MAX_BUSY_POLL {
            return refuse(
                "busy_poll",
                self.busy_poll,
                "waiters would keep their cores busy for more than 10 s after each call",
            );
        }
        Ok(())
    }

    fn settle(self) -> Result<Settings, AgentError> {
        self.check_times()?;
        let slots = setting(self.max_inflight, "SLIME_RPC_MAX_INFLIGHT", 16)?;
        let workers = setting(self.workers, "SLIME_RPC_SERVER_WORKERS", 1)?;
        let geometry =
            Geometry::new(slots, self.slot_size).map_err(|error| AgentError::Setting {
                name: "slot_size x max_inflight",
                value: format!("{} x {slots}", self.slot_size),
                allowed: error.to_string(),
            })?;
        let mut topology = Topology::of_host();
        if let Some(device) = &self.device {
            topology = topology.preferring(device);
        }
        let devices = Devices::open(self.device.as_deref(), &topology)?;
        self.retry.check(devices.first().name())?;
        let control: Arc<dyn Control> = match &self.plane {
            Plane::Local => Arc::new(Local::new(&self.scope)),
            Plane::NanoCtrl(url) => Arc::new(NanoCtrl::new(url, &self.scope)?),
        };
        Ok(Settings {
            control,
            devices,
            topology,
            alias: self.alias,
            geometry,
            workers: check_workers(workers)?,
            retry: self.retry,
            busy_poll: self.busy_poll,
            connect_timeout: self.connect_timeout,
            call_timeout: self.call_timeout,
        })
    }
}

/// What was set, or else stands in the environment, or else the default.
fn setting(set: Option<usize>, name: &'static str, default: usize) -> Result<usize, AgentError> {
    let value = match (set, std::env::var(name)) {
        (Some(set), _) => return Ok(set),
        (None, Ok(value)) => value,
        (None, Err(_)) => return Ok(default),
    };
    value.parse().map_err(|_| AgentError::Setting {
        name,
        value,
        allowed: "a number is expected".to_owned(),
    })
}

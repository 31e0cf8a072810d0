//! Settings of an agent in groups: its limits, its timeouts, and how it polls.
//!
//! Each setting is declared once, with the variable that supplies it if the program does not.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use slimerpc::channel::{Geometries, Geometry, HeartbeatTiming, MemoryLimits};
use slimerpc::fabric::LinkType;
use slimerpc::wire::CodecLimits;

use crate::AgentError;
use crate::agent::environment;

const SLOT_SIZE: usize = 32 * 1024;
/// The slot size that DLSlime peers use by default.
const DLSLIME_SLOT_SIZE: usize = 32_000_000;
const MAX_INFLIGHT: usize = 16;
/// Most threads for the parallel methods of one service.
const MAX_WORKERS: usize = 1024;
const BUSY_POLL: Duration = Duration::from_micros(50);
const MAX_BUSY_POLL: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DETECTION: Duration = Duration::from_secs(3);
const DETECTION_SHM: Duration = Duration::from_secs(1);
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(1);
const STREAM_PATIENCE: Duration = Duration::from_secs(30);
const SHORTEST_IDLE: Duration = Duration::from_millis(20);

macro_rules! group {
    ($(#[$docs:meta])* $group:ident { $($(#[$setting_docs:meta])* $setting:ident: $type:ty, $read:ident($variable:literal);)* }) => {
        $(#[$docs])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[must_use = "settings do nothing until an agent's builder is given them"]
        pub struct $group {
            $(pub(super) $setting: Option<$type>,)*
        }

        impl $group {
            /// The variables that supply these settings.
            pub(crate) const VARIABLES: &[&str] = &[$($variable,)*];

            $(
                $(#[$setting_docs])*
                pub fn $setting(mut self, $setting: $type) -> Self {
                    self.$setting = Some($setting);
                    self
                }
            )*

            /// These settings, completed from `earlier`.
            pub(crate) fn or(self, earlier: Self) -> Self {
                Self {
                    $($setting: self.$setting.or(earlier.$setting),)*
                }
            }

            /// These settings, completed from the environment. Only variables that are needed are
            /// read.
            pub(crate) fn or_environment(self) -> Result<Self, AgentError> {
                Ok(Self {
                    $($setting: match self.$setting {
                        Some(set) => Some(set),
                        None => environment::$read($variable)?,
                    },)*
                })
            }
        }
    };
}

group! {
    /// How large messages may be, how many may be under way, and what an agent may use for them.
    ///
    /// The environment supplies a limit that is not set, and otherwise a default applies;
    /// [`Builder`](crate::Builder) has all of them in one table.
    ///
    /// ```
    /// use slimerpc_actors::{Limits, PeerAgent};
    /// let limits = Limits::default().slot_size(64 * 1024).max_inflight(64);
    /// let builder = PeerAgent::builder().alias("worker:0").limits(limits);
    /// # let _ = builder;
    /// ```
    Limits {
        /// Bytes of a ring slot, including 16 bytes of header. Equal on both sides. A receiver
        /// reads a larger message out of the sender's memory. DLSlime peers cannot do that, so
        /// towards them this is the limit.
        slot_size: usize, number("SLIME_RPC_SLOT_SIZE");
        /// Calls that one proxy has in flight; further calls wait in order. Equal on both sides.
        max_inflight: usize, number("SLIME_RPC_MAX_INFLIGHT");
        /// Bytes of the largest message between native peers.
        max_payload: usize, number("SLIME_RPC_MAX_PAYLOAD");
        /// Bytes that may be registered at the same time for messages beyond a slot, on each
        /// device. At most a quarter of it stays registered for later messages.
        payload_memory: usize, number("SLIME_RPC_PAYLOAD_MEMORY");
        /// Levels of nesting in the values that all agents of this process write or read:
        /// arguments, results, items and errors. Both ends need the same setting. A value that
        /// takes more than 1 MiB of stack is refused in any case; see [`CodecLimits`].
        max_depth: usize, number("SLIME_RPC_MAX_DEPTH");
        /// Most values in a pickle that any agent of this process reads; see [`CodecLimits`].
        max_pickle_values: usize, number("SLIME_RPC_MAX_PICKLE_VALUES");
        /// Threads for the parallel methods of each service that has some, at least 1; see
        /// [`Share`](crate::Share).
        workers: usize, number("SLIME_RPC_SERVER_WORKERS");
        /// Raises this process' limit of file descriptors (`ulimit -n`) as far as permitted, since
        /// each peer takes some 6 on shared memory. Off by default: child processes inherit the
        /// limit, and `select()`, which some programs still use, breaks with descriptors beyond
        /// 1,024.
        raise_open_files: bool, flag("SLIME_RPC_RAISE_OPEN_FILES");
    }
}

group! {
    /// How long an agent waits for others.
    ///
    /// The environment supplies a timeout that is not set, and otherwise a default applies;
    /// [`Builder`](crate::Builder) has all of them in one table.
    ///
    /// ```
    /// use std::time::Duration;
    /// use slimerpc_actors::{PeerAgent, Timeouts};
    /// let timeouts = Timeouts::default()
    ///     .call_timeout(Duration::from_secs(5))
    ///     .reconnect_wait(Duration::from_secs(30));
    /// let builder = PeerAgent::builder().alias("driver:0").timeouts(timeouts);
    /// # let _ = builder;
    /// ```
    Timeouts {
        /// How long registering with the control plane may take, and how long finding and
        /// connecting a peer may take.
        connect_timeout: Duration, millis("SLIME_RPC_CONNECT_TIMEOUT_MS");
        /// How long [`start`](crate::Builder::start) waits for an alias that another agent has; the
        /// log says so. If this is not set, it does not wait.
        ///
        /// An agent that was killed keeps its alias for up to 60 s, unless its process is proved to
        /// have ended because it ran on this host and is visible from here. This setting is
        /// therefore for an agent that is restarted under its alias in another container or on
        /// another host: with 65 s it starts when the alias of the dead agent has expired. A living
        /// agent keeps its alias.
        take_over: Duration, millis("SLIME_RPC_TAKE_OVER_MS");
        /// Deadline of every call through this agent's proxies; see
        /// [`Proxy::with_timeout`](crate::Proxy::with_timeout).
        call_timeout: Duration, millis("SLIME_RPC_CALL_TIMEOUT_MS");
        /// How long new calls wait, within their deadlines, for a lost connection to be restored.
        /// If this is not set, they fail at once with
        /// [`RpcError::PeerLost`](crate::RpcError::PeerLost). Calls that were under way when the
        /// connection was lost fail in any case; [`RpcError::ran`](crate::RpcError::ran) says
        /// whether they ran. Waiting calls are sent when their replies are polled, in no particular
        /// order. [`Proxy::with_reconnect_wait`](crate::Proxy::with_reconnect_wait) sets it for one
        /// proxy.
        reconnect_wait: Duration, millis("SLIME_RPC_RECONNECT_WAIT_MS");
        /// How long the caller of a stream may leave it without asking for an item. Then the
        /// service ends the stream with [`RpcError::Stalled`](crate::RpcError::Stalled), because
        /// the stream of a serial method keeps the service's other serial methods waiting.
        stream_patience: Duration, millis("SLIME_RPC_STREAM_PATIENCE_MS");
        /// How long a proxy has had nothing to do when its connection rests: its channels close,
        /// and its next call opens them again, in some milliseconds. By default, and with zero, it
        /// never rests. Set it where a service has hundreds of callers that seldom call.
        ///
        /// A connection that rests costs neither end memory, descriptors or heartbeats. Nothing is
        /// lost, and calls keep their order: those made meanwhile wait for the connection, within
        /// their deadlines and the connect timeout. Calls, streams, replies that are
        /// [lent](crate::Reply::lent) and calls that nobody waits for keep the connection awake,
        /// until they have ended. Connections with DLSlime peers, and with the agent itself, never
        /// rest.
        ///
        /// To open a connection takes the control plane, and the service's thread between two of
        /// its requests: if that is busy or away for longer than the connect timeout, the calls end
        /// with [`LossCause::NotReopened`](crate::LossCause::NotReopened). That a peer has died is
        /// noticed only by a call, unless somebody watches it.
        idle_after: Duration, millis("SLIME_RPC_IDLE_AFTER_MS");
    }
}

group! {
    /// How often an agent polls for replies and requests, and how often it checks that its peers
    /// are alive.
    ///
    /// The environment supplies a time that is not set, and otherwise a default applies;
    /// [`Builder`](crate::Builder) has all of them in one table.
    ///
    /// ```
    /// use std::time::Duration;
    /// use slimerpc_actors::{PeerAgent, Polling};
    /// let asleep = Polling::default().busy_poll(Duration::ZERO);
    /// let builder = PeerAgent::builder().alias("driver:0").polling(asleep);
    /// # let _ = builder;
    /// ```
    Polling {
        /// How long a waiter polls before it sleeps; with zero it sleeps at once.
        busy_poll: Duration, micros("SLIME_RPC_BUSY_POLL_US");
        /// How often this agent sends a heartbeat to each native peer that it is connected with; by
        /// default half of the detection time.
        heartbeat: Duration, millis("SLIME_RPC_HEARTBEAT_MS");
        /// How long a native peer may send no heartbeat before it is
        /// [stalled](crate::PeerEvent::Stalled). The agent notices that a peer is gone at once on
        /// shared memory; on RDMA devices it notices when the peer does not acknowledge the next
        /// heartbeat within [`retry`](crate::Builder::retry).
        detection: Duration, millis("SLIME_RPC_DETECTION_MS");
    }
}

fn refuse(name: &'static str, value: impl ToString, allowed: impl Into<String>) -> AgentError {
    AgentError::Setting {
        name: Cow::Borrowed(name),
        value: value.to_string(),
        allowed: allowed.into(),
    }
}

fn refuse_time(name: &'static str, value: Duration, allowed: impl Into<String>) -> AgentError {
    refuse(name, format!("{value:?}"), allowed)
}

/// A number of threads for parallel methods.
pub(crate) fn check_workers(threads: usize) -> Result<NonZeroUsize, AgentError> {
    NonZeroUsize::new(threads)
        .filter(|threads| threads.get() <= MAX_WORKERS)
        .ok_or_else(|| {
            let allowed = format!("parallel methods run on 1 to {MAX_WORKERS} threads");
            refuse("workers", threads, allowed)
        })
}

impl Limits {
    /// The codec limits of the process, if any of them is set.
    pub(crate) fn codec(&self) -> Result<CodecLimits, AgentError> {
        let current = CodecLimits::current();
        let limits = CodecLimits {
            depth: self.max_depth.unwrap_or(current.depth),
            pickle_values: self.max_pickle_values.unwrap_or(current.pickle_values),
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

    /// The shapes of rings, towards native and towards DLSlime peers.
    pub(crate) fn geometries(&self) -> Result<Geometries, AgentError> {
        let slots = self.max_inflight.unwrap_or(MAX_INFLIGHT);
        let of_size = |default| {
            let slot_size = self.slot_size.unwrap_or(default);
            Geometry::new(slots, slot_size).map_err(|error| {
                let value = format!("{slot_size} x {slots}");
                refuse("slot_size x max_inflight", value, error.to_string())
            })
        };
        Ok(Geometries {
            compatible: of_size(DLSLIME_SLOT_SIZE)?,
            native: of_size(SLOT_SIZE)?,
        })
    }

    /// The limits of the memory for messages beyond a slot of this shape. Contradictory limits are
    /// refused.
    pub(crate) fn memory(&self, geometry: Geometry) -> Result<MemoryLimits, AgentError> {
        let defaults = MemoryLimits::default();
        let payload = self.max_payload.unwrap_or(defaults.payload);
        let total = self.payload_memory.unwrap_or(defaults.total);
        let slot = geometry.max_payload();
        if payload < slot {
            let allowed = format!("a slot carries messages of {slot} bytes all the same");
            return Err(refuse("max_payload", payload, allowed));
        }
        if payload > slot && total == 0 {
            let allowed = "messages beyond a slot take some memory, or set max_payload to \
                what a slot carries";
            return Err(refuse("payload_memory", total, allowed));
        }
        Ok(MemoryLimits {
            payload,
            total,
            idle: total / 4,
        })
    }
}

impl Timeouts {
    /// Refuses timeouts with which nothing could ever work.
    pub(crate) fn check(&self) -> Result<(), AgentError> {
        let refused = [
            (
                "connect_timeout",
                self.connect_timeout,
                "connecting takes more than no time",
            ),
            (
                "call_timeout",
                self.call_timeout,
                "a call takes more than no time",
            ),
            (
                "stream_patience",
                self.stream_patience,
                "a caller takes some time to ask for the next item",
            ),
        ];
        for (name, set, allowed) in refused {
            if let Some(zero) = set.filter(Duration::is_zero) {
                return Err(refuse_time(name, zero, allowed));
            }
        }
        let idle = self.idle_after.filter(|idle| !idle.is_zero());
        if let Some(short) = idle.filter(|idle| *idle < SHORTEST_IDLE) {
            let allowed = format!(
                "at least {SHORTEST_IDLE:?}, or 0 for never: opening a connection takes milliseconds"
            );
            return Err(refuse_time("idle_after", short, allowed));
        }
        Ok(())
    }

    pub(crate) fn connecting(&self) -> Duration {
        self.connect_timeout.unwrap_or(CONNECT_TIMEOUT)
    }

    /// How long an idle connection stays open; `None` means for ever.
    pub(crate) fn before_rest(&self) -> Option<Duration> {
        self.idle_after.filter(|idle| !idle.is_zero())
    }

    pub(crate) fn between_items(&self) -> Duration {
        self.stream_patience.unwrap_or(STREAM_PATIENCE)
    }
}

impl Polling {
    /// Refuses times that would keep cores busy, or that would declare living peers stalled.
    pub(crate) fn check(&self) -> Result<(), AgentError> {
        if let Some(longest) = self.busy_poll.filter(|budget| *budget > MAX_BUSY_POLL) {
            let allowed = "waiters would keep their cores busy for more than 10 s after each call";
            return Err(refuse_time("busy_poll", longest, allowed));
        }
        for link in [LinkType::Shm, LinkType::Roce] {
            let HeartbeatTiming {
                interval,
                detection,
            } = self.heartbeats(link);
            if interval < SHORTEST_HEARTBEAT {
                let allowed = "heartbeats more often than every millisecond would keep cores busy";
                return Err(refuse_time("heartbeat", interval, allowed));
            }
            if interval >= detection {
                let allowed = format!(
                    "a peer that sends heartbeats no more often than that would be taken for stalled after {detection:?}, the \
                     detection time"
                );
                return Err(refuse_time("heartbeat", interval, allowed));
            }
        }
        Ok(())
    }

    /// How long a waiter polls. A process with a single core does not poll: a peer on this host
    /// could not run meanwhile.
    pub(crate) fn before_sleep(&self) -> Duration {
        self.busy_poll
            .unwrap_or_else(|| match thread::available_parallelism() {
                Ok(cores) if cores.get() == 1 => Duration::ZERO,
                _ => BUSY_POLL,
            })
    }

    /// How often to send heartbeats on links of this kind, and how long the peer's may stay away.
    pub(crate) fn heartbeats(&self, link: LinkType) -> HeartbeatTiming {
        let detection = self.detection.unwrap_or(match link {
            LinkType::Shm => DETECTION_SHM,
            _ => DETECTION,
        });
        HeartbeatTiming {
            interval: self.heartbeat.unwrap_or(detection / 2),
            detection,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_later_replaces_what_was_set_and_nothing_else() {
        let earlier = Limits::default().slot_size(1).max_inflight(2);
        let both = Limits::default().slot_size(3).workers(4).or(earlier);
        let expected = Limits::default().slot_size(3).max_inflight(2).workers(4);
        assert_eq!(both, expected);
    }
}

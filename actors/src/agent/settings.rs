//! Settings of an agent in groups: its limits, its timeouts, and how it polls.
//!
//! Each setting is declared once, with the variable that supplies it if the program does not.

use std::thread;
use std::time::Duration;

use slimerpc::channel::{Geometries, Geometry, HeartbeatTiming, MemoryLimits};
use slimerpc::fabric::LinkType;
use slimerpc::settings::{self, DEFAULT_BUSY_POLL};
use slimerpc::wire::CodecLimits;

use crate::AgentError;
use crate::agent::environment;

macro_rules! group {
    ($(#[$docs:meta])* $group:ident { $($(#[$setting_docs:meta])* $setting:ident: $type:ty, $read:ident($variable:ident);)* }) => {
        $(#[$docs])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[must_use = "settings do nothing until an agent's builder is given them"]
        pub struct $group {
            $(pub(super) $setting: Option<$type>,)*
        }

        impl $group {
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
                        None => environment::$read(settings::$variable)?,
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
        slot_size: usize, number(SLOT_SIZE);
        /// Calls that one proxy has in flight; further calls wait in order. Equal on both sides.
        max_inflight: usize, number(MAX_INFLIGHT);
        /// Bytes of the largest message between native peers.
        max_payload: usize, number(MAX_PAYLOAD);
        /// Bytes that may be registered at the same time for messages beyond a slot, on each
        /// device. At most a quarter of it stays registered for later messages.
        payload_memory: usize, number(PAYLOAD_MEMORY);
        /// Levels of nesting in the values that all agents of this process write or read:
        /// arguments, results, items and errors. Both ends need the same setting. A value that
        /// takes more than 1 MiB of stack is refused in any case; see [`CodecLimits`].
        max_depth: usize, number(MAX_DEPTH);
        /// Most values in a pickle that any agent of this process reads; see [`CodecLimits`].
        max_pickle_values: usize, number(MAX_PICKLE_VALUES);
        /// Threads for the parallel methods of each service that has some, at least 1; see
        /// [`Share`](crate::Share).
        workers: usize, number(SERVER_WORKERS);
        /// Raises this process' limit of file descriptors (`ulimit -n`) as far as permitted, since
        /// each peer takes some 6 on shared memory. Off by default: child processes inherit the
        /// limit, and `select()`, which some programs still use, breaks with descriptors beyond
        /// 1,024.
        raise_open_files: bool, flag(RAISE_OPEN_FILES);
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
        connect_timeout: Duration, millis(CONNECT_TIMEOUT);
        /// How long [`start`](crate::Builder::start) waits for an alias that another agent has; the
        /// log says so. If this is not set, it does not wait.
        ///
        /// An agent that was killed keeps its alias for up to 60 s, unless its process is proved to
        /// have ended because it ran on this host and is visible from here. This setting is
        /// therefore for an agent that is restarted under its alias in another container or on
        /// another host: with 65 s it starts when the alias of the dead agent has expired. A living
        /// agent keeps its alias.
        take_over: Duration, millis(TAKE_OVER);
        /// Deadline of every call through this agent's proxies; see
        /// [`Proxy::with_timeout`](crate::Proxy::with_timeout).
        call_timeout: Duration, millis(CALL_TIMEOUT);
        /// How long new calls wait, within their deadlines, for a lost connection to be restored.
        /// If this is not set, they fail at once with
        /// [`RpcError::PeerLost`](crate::RpcError::PeerLost). Calls that were under way when the
        /// connection was lost fail in any case; [`RpcError::ran`](crate::RpcError::ran) says
        /// whether they ran. Waiting calls are sent when their replies are polled, in no particular
        /// order. [`Proxy::with_reconnect_wait`](crate::Proxy::with_reconnect_wait) sets it for one
        /// proxy.
        reconnect_wait: Duration, millis(RECONNECT_WAIT);
        /// How long the caller of a stream may leave it without asking for an item. Then the
        /// service ends the stream with [`RpcError::Stalled`](crate::RpcError::Stalled), because
        /// the stream of a serial method keeps the service's other serial methods waiting.
        stream_patience: Duration, millis(STREAM_PATIENCE);
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
        idle_after: Duration, millis(IDLE_AFTER);
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
        busy_poll: Duration, micros(BUSY_POLL);
        /// How often this agent sends a heartbeat to each native peer that it is connected with; by
        /// default half of the detection time.
        heartbeat: Duration, millis(HEARTBEAT);
        /// How long a native peer may send no heartbeat before it is
        /// [stalled](crate::PeerEvent::Stalled). The agent notices that a peer is gone at once on
        /// shared memory; on RDMA devices it notices when the peer does not acknowledge the next
        /// heartbeat within [`retry`](crate::Builder::retry).
        detection: Duration, millis(DETECTION);
    }
}

impl Limits {
    /// The codec limits of the process, if any of them is set.
    pub(crate) fn codec(&self) -> Result<CodecLimits, AgentError> {
        Ok(settings::codec(self.max_depth, self.max_pickle_values)?)
    }

    /// The shapes of rings, towards native and towards DLSlime peers.
    pub(crate) fn geometries(&self) -> Result<Geometries, AgentError> {
        Ok(settings::geometries(self.slot_size, self.max_inflight)?)
    }

    /// The limits of the memory for messages beyond a slot of this shape. Contradictory limits are
    /// refused.
    pub(crate) fn memory(&self, geometry: Geometry) -> Result<MemoryLimits, AgentError> {
        let limits = settings::memory(geometry, self.max_payload, self.payload_memory);
        Ok(limits?)
    }
}

impl Timeouts {
    /// Refuses timeouts with which nothing could ever work.
    pub(crate) fn check(&self) -> Result<(), AgentError> {
        let some = [
            ("connect_timeout", self.connect_timeout),
            ("call_timeout", self.call_timeout),
            ("stream_patience", self.stream_patience),
        ];
        for (name, set) in some {
            set.map(|time| settings::some_time(name, time))
                .transpose()?;
        }
        self.idle_after.map(settings::idle_after).transpose()?;
        Ok(())
    }

    pub(crate) fn connecting(&self) -> Duration {
        self.connect_timeout
            .unwrap_or(settings::DEFAULT_CONNECT_TIMEOUT)
    }

    /// How long an idle connection stays open; `None` means for ever.
    pub(crate) fn before_rest(&self) -> Option<Duration> {
        self.idle_after.filter(|idle| !idle.is_zero())
    }

    pub(crate) fn between_items(&self) -> Duration {
        self.stream_patience
            .unwrap_or(settings::DEFAULT_STREAM_PATIENCE)
    }
}

impl Polling {
    /// Refuses times that would keep cores busy, or that would declare living peers stalled.
    pub(crate) fn check(&self) -> Result<(), AgentError> {
        self.busy_poll.map(settings::busy_poll).transpose()?;
        for link in [LinkType::Shm, LinkType::Roce] {
            settings::check_heartbeats(self.heartbeats(link))?;
        }
        Ok(())
    }

    /// How long a waiter polls. A process with a single core does not poll: a peer on this host
    /// could not run meanwhile.
    pub(crate) fn before_sleep(&self) -> Duration {
        self.busy_poll
            .unwrap_or_else(|| match thread::available_parallelism() {
                Ok(cores) if cores.get() == 1 => Duration::ZERO,
                _ => DEFAULT_BUSY_POLL,
            })
    }

    /// How often to send heartbeats on links of this kind, and how long the peer's may stay away.
    pub(crate) fn heartbeats(&self, link: LinkType) -> HeartbeatTiming {
        settings::heartbeats(link, self.heartbeat, self.detection)
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

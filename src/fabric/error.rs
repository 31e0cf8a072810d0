//! Errors of a fabric that are not completions.

use std::io;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{QueuePairState, SystemLimit};
use crate::tls::TlsError;

/// A verb was refused. Accepted work that fails is reported by a completion instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FabricError {
    /// An argument exceeds the limits of the device.
    #[error("{what} is {given}; {device} allows {allowed}")]
    Limit {
        /// Name of the argument.
        what: &'static str,
        /// Value of the argument.
        given: u64,
        /// Description of the allowed range.
        allowed: String,
        /// Name of the device.
        device: String,
    },
    /// The queue pair's state does not allow the operation.
    #[error("queue pair {qp_num}: {verb} is not possible in state {state}")]
    InvalidState {
        /// Number of the queue pair.
        qp_num: u32,
        /// The operation.
        verb: &'static str,
        /// The state of the queue pair.
        state: QueuePairState,
    },
    /// The send or receive queue is full: poll completions, then post again.
    #[error("queue pair {qp_num}: the {queue} queue of {depth} work requests is full")]
    QueueFull {
        /// Number of the queue pair.
        qp_num: u32,
        /// `send` or `receive`.
        queue: &'static str,
        /// Depth of the queue.
        depth: u32,
    },
    /// An object belongs to another device.
    #[error("the {what} does not belong to {device}")]
    Foreign {
        /// The kind of object.
        what: &'static str,
        /// Name of the device that was called.
        device: String,
    },
    /// The peer's queue pair cannot be reached at the address given.
    #[error("queue pair {qp_num} cannot connect: {reason}")]
    Unreachable {
        /// Number of the local queue pair.
        qp_num: u32,
        /// What is wrong with the address.
        reason: String,
    },
    /// The peer cannot be reached over TLS, or not without.
    #[error("queue pair {qp_num} cannot connect with its peer: {error}")]
    Tls {
        /// Number of the local queue pair.
        qp_num: u32,
        /// Which side lacks or refuses what.
        error: TlsError,
    },
    /// The device does not exist or is not usable.
    #[error("device `{device}` cannot be used: {reason}")]
    NoDevice {
        /// The name that was requested.
        device: String,
        /// Why the device is not usable, and what can be done.
        reason: String,
    },
    /// A verb of libibverbs failed.
    #[error("{verb} ({attributes}): {source}; {hint}")]
    Verb {
        /// Name of the verb.
        verb: &'static str,
        /// Arguments of the verb.
        attributes: String,
        /// Error number of the verb.
        source: io::Error,
        /// The usual cause.
        hint: &'static str,
    },
    /// The memory cannot be registered, because that would lock more than this user may.
    #[error(
        "{needed} bytes cannot be registered: this process may lock {limit} bytes in all; raise the limit \
         (`ulimit -l {}` or more, or `unlimited`; LimitMEMLOCK= in a systemd unit)",
        (.needed + .limit).div_ceil(1024)
    )]
    MemoryLock {
        /// Bytes that were to be registered.
        needed: u64,
        /// The limit in bytes (`ulimit -l` is in KiB).
        limit: u64,
    },
    /// A limit of the operating system was reached.
    #[error("{limit} ({doing}: {source})")]
    SystemLimit {
        /// The limit that was reached.
        limit: SystemLimit,
        /// The operation that reached it.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The operating system refused an operation.
    #[error("{doing}: {source}")]
    Os {
        /// The operation that was refused.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// An error that another process returned; only its text travels.
    #[error("{message}")]
    Elsewhere {
        /// Text of the original error.
        message: String,
    },
}

/// Serializes the error as text, because its fields mean nothing outside the process that made
/// them.
impl Serialize for FabricError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FabricError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let message = String::deserialize(deserializer)?;
        Ok(Self::Elsewhere { message })
    }
}

impl FabricError {
    /// Wraps an operating-system error, which may mean a [limit](SystemLimit); for use in
    /// `map_err`.
    ///
    /// ```
    /// use slimerpc::fabric::FabricError;
    /// let opened = std::fs::File::open("/nonexistent").map_err(FabricError::os("opening a file"));
    /// assert!(matches!(opened, Err(FabricError::Os { .. })));
    /// ```
    pub fn os<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| {
            let source = source.into();
            Self::of_limit(SystemLimit::met(&source), doing, source)
        }
    }

    /// Wraps an error of starting a thread, which may mean a [limit](SystemLimit); for use in
    /// `map_err`.
    pub(crate) fn thread(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::of_limit(SystemLimit::of_thread(&source), doing, source)
    }

    fn of_limit(limit: Option<SystemLimit>, doing: &'static str, source: io::Error) -> Self {
        match limit {
            Some(limit) => Self::SystemLimit {
                limit,
                doing,
                source,
            },
            None => Self::Os { doing, source },
        }
    }
}

//! What can go wrong at a fabric outside of completions.

use std::io;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{QueuePairState, SystemLimit};

/// A verb was refused. Failures of work that was accepted arrive as completions instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FabricError {
    /// An argument lies outside what the device allows.
    #[error("{what} is {given}; {device} allows {allowed}")]
    Limit {
        /// Which argument.
        what: &'static str,
        /// Its value.
        given: u64,
        /// The allowed range, in words.
        allowed: String,
        /// Name of the device.
        device: String,
    },
    /// The queue pair is not in a state in which this can be done.
    #[error("queue pair {qp_num}: {verb} is not possible in state {state}")]
    InvalidState {
        /// Number of the queue pair.
        qp_num: u32,
        /// What was asked.
        verb: &'static str,
        /// The state that it is in.
        state: QueuePairState,
    },
    /// The send or receive queue is full: poll completions, then post again.
    #[error("queue pair {qp_num}: the {queue} queue of {depth} work requests is full")]
    QueueFull {
        /// Number of the queue pair.
        qp_num: u32,
        /// `send` or `receive`.
        queue: &'static str,
        /// Its depth.
        depth: u32,
    },
    /// An object of another device was passed.
    #[error("the {what} does not belong to {device}")]
    Foreign {
        /// The kind of object.
        what: &'static str,
        /// The device that was asked.
        device: String,
    },
    /// The peer's queue pair cannot be reached with the address given.
    #[error("queue pair {qp_num} cannot connect: {reason}")]
    Unreachable {
        /// Number of the local queue pair.
        qp_num: u32,
        /// What is wrong with the address.
        reason: String,
    },
    /// There is no such device, or none that can be used.
    #[error("device `{device}` cannot be used: {reason}")]
    NoDevice {
        /// The name asked for.
        device: String,
        /// What is the matter, and what can be done.
        reason: String,
    },
    /// A verb of libibverbs failed.
    #[error("{verb} ({attributes}): {source}; {hint}")]
    Verb {
        /// Which one.
        verb: &'static str,
        /// What it was called with.
        attributes: String,
        /// Its errno.
        source: io::Error,
        /// The usual cause.
        hint: &'static str,
    },
    /// Memory cannot be registered, as that would lock more than this user may.
    #[error(
        "{needed} bytes cannot be registered: this process may lock {limit} bytes in all; raise the limit \
         (`ulimit -l {}` or more, or `unlimited`; LimitMEMLOCK= in a systemd unit)",
        (.needed + .limit).div_ceil(1024)
    )]
    MemoryLock {
        /// Bytes to be registered.
        needed: u64,
        /// The limit in bytes (`ulimit -l` is in KiB).
        limit: u64,
    },
    /// A limit of the operating system stands in the way.
    #[error("{limit} ({doing}: {source})")]
    SystemLimit {
        /// Which one.
        limit: SystemLimit,
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The operating system refused.
    #[error("{doing}: {source}")]
    Os {
        /// What was being done.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// An error of another process, as it travelled: its text.
    #[error("{message}")]
    Elsewhere {
        /// The text.
        message: String,
    },
}

/// As text: what it holds means something where it was made only.
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
    /// Wraps an operating-system error, which may mean a [limit](SystemLimit); for use in `map_err`.
    ///
    /// ```
    /// use slimerpc::fabric::FabricError;
    /// let opened = std::fs::File::open("/nonexistent").map_err(FabricError::os("opening a file"));
    /// assert!(matches!(opened, Err(FabricError::Os { .. })));
    /// ```
    pub fn os<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| {
            let source = source.into();
            Self::of_limit(SystemLimit::of(&source), doing, source)
        }
    }

    /// The same of an error of starting a thread.
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

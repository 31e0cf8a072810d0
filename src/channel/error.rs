//! Errors of channels.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Mismatch;
use crate::fabric::{CompletionStatus, FabricError};
use crate::tls::TlsError;

/// Why a channel was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum LossCause {
    /// The connection ended without notice: the peer died, or closed it.
    #[error("its end of the connection is gone; it died or closed it")]
    Gone,
    /// A work request failed.
    #[error("the connection failed: {0}")]
    Completion(CompletionStatus),
    /// A verb failed.
    #[error("{0}")]
    Fabric(String),
    /// The peer writes more messages than it was asked for, as fast as they are read.
    #[error("the peer floods this agent with messages that it was not asked for")]
    Flood,
    /// The peer left cleanly.
    #[error("the peer left")]
    Left,
    /// This agent left.
    #[error("this agent was shut down")]
    ShutDown,
    /// The channel has had nothing to do for a while; the next call opens another.
    #[error("it rests until the next call")]
    Resting,
    /// The channel rested, and another could not be opened for the next call.
    #[error("it rested, and could not be opened again: {0}")]
    NotReopened(Box<NotReopened>),
}

/// Why a channel that [rested](LossCause::Resting) could not be opened again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum NotReopened {
    /// The two agents do not fit together any more, or the service is not there.
    #[error(transparent)]
    Refused(Mismatch),
    /// The peer cannot be reached over TLS any more, or not without.
    #[error(transparent)]
    Tls(TlsError),
    /// Something else, such as a peer that does not answer in time.
    #[error("{0}")]
    Other(String),
}

impl LossCause {
    /// Each [name](Self::name) that a cause may have.
    pub const NAMES: [&str; 8] = [
        "gone",
        "completion",
        "fabric",
        "flood",
        "left",
        "shut_down",
        "resting",
        "not_reopened",
    ];

    /// The kind of cause in a word, for metrics.
    ///
    /// ```
    /// use slimerpc::channel::LossCause;
    /// assert_eq!(LossCause::Gone.name(), "gone");
    /// ```
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Completion(_) => "completion",
            Self::Fabric(_) => "fabric",
            Self::Flood => "flood",
            Self::Left => "left",
            Self::ShutDown => "shut_down",
            Self::Resting => "resting",
            Self::NotReopened(_) => "not_reopened",
        }
    }

    /// Returns whether the cause is the peer's: it is gone, or cannot be reached.
    ///
    /// ```
    /// use slimerpc::channel::LossCause;
    /// assert!(LossCause::Gone.is_of_peer() && !LossCause::ShutDown.is_of_peer());
    /// ```
    pub fn is_of_peer(&self) -> bool {
        match self {
            Self::Gone
            | Self::Completion(_)
            | Self::Fabric(_)
            | Self::Left
            | Self::NotReopened(_) => true,
            Self::Flood | Self::ShutDown | Self::Resting => false,
        }
    }
}

impl From<CompletionStatus> for LossCause {
    fn from(status: CompletionStatus) -> Self {
        match status {
            CompletionStatus::Flushed => Self::Gone,
            failure => Self::Completion(failure),
        }
    }
}

/// Why a call did not bring an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request exceeds the largest payload, or, towards a DLSlime peer, a slot. Nothing was
    /// sent.
    #[error("the request takes {size} bytes, and {limit} are allowed")]
    TooLarge {
        /// Size of the payload in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// There is no registered memory for a payload beyond a slot.
    #[error("no registered memory for {size} bytes: {reason}")]
    NoMemory {
        /// Size of the payload in bytes.
        size: usize,
        /// Why the memory is not available.
        reason: String,
        /// Whether it is the answer's memory, so that the call was run.
        is_answer: bool,
    },
    /// The arguments cannot be encoded. Nothing was sent.
    #[error("the arguments cannot be encoded: {0}")]
    Encode(String),
    /// The call's deadline passed.
    #[error("no answer within {after:?}")]
    Timeout {
        /// The time that was allowed.
        after: Duration,
        /// Whether the request was sent; if not, it never will be.
        sent: bool,
    },
    /// The channel is closed.
    #[error("the channel is closed: {cause}")]
    Closed {
        /// Why the channel was closed.
        cause: LossCause,
        /// Whether the request was sent; if not, it never will be.
        sent: bool,
    },
}

/// Why two ends do not connect.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A verb failed.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// The peer's endpoint is impossible.
    #[error("the peer's {field} is not acceptable: {reason}")]
    BadEndpoint {
        /// Name of the field.
        field: Cow<'static, str>,
        /// What is wrong with it.
        reason: String,
    },
}

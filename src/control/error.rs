//! Errors of the control plane.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fabric::SystemLimit;
use crate::tls::{CertificateProblem, TlsError, TlsFileError};

/// The control plane did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The alias belongs to a registered agent.
    #[error(
        "the alias `{alias}` is taken{}{}; choose another, or wait until the other agent has left, as the setting \
         `take_over` does", in_scope(.scope), by(.holder)
    )]
    AliasTaken {
        /// The alias that was requested.
        alias: String,
        /// Scope of the request; empty for none.
        scope: String,
        /// Description of the agent that has the alias; empty if unknown.
        holder: String,
    },
    /// The record's key is also the key of another agent's record: `mr:w:0:x` is the record `0:x`
    /// of `w`, or `x` of `w:0`.
    #[error(
        "the record `{key}` belongs to another agent: its alias and the name of its record make the same key as ours; \
         choose another name for the record, without `:`"
    )]
    RecordTaken {
        /// The key in Redis.
        key: String,
    },
    /// The directory in which agents of one host meet cannot be used.
    #[error("agents of this host cannot meet at {path}: {reason}")]
    HostDirectory {
        /// Path of the directory, or of the file in it.
        path: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A limit of the operating system was reached where agents of one host meet.
    #[error("{limit} ({path}: {reason})")]
    SystemLimit {
        /// The limit that was reached.
        limit: SystemLimit,
        /// Path of the directory, or of the file in it.
        path: String,
        /// The system's error.
        reason: String,
    },
    /// NanoCtrl does not answer.
    #[error("NanoCtrl at {url} cannot be reached: {reason}. Is `nanoctrl start` running there?")]
    NanoCtrlUnreachable {
        /// URL of the server.
        url: String,
        /// What the HTTP client reported.
        reason: String,
    },
    /// NanoCtrl answers at an `https://` URL, but no TLS connection was made.
    #[error("no TLS connection with NanoCtrl at {url}: {error}{}", tls_advice(.error))]
    Tls {
        /// URL of the server.
        url: String,
        /// Which side refuses what.
        error: TlsError,
    },
    /// What answers at an `http://` URL does not answer in HTTP.
    #[error(
        "what answers at {url} does not speak HTTP: {reason}; a NanoCtrl that was started with --tls-cert has an https:// URL"
    )]
    NotHttp {
        /// URL of the server.
        url: String,
        /// What the HTTP client reported.
        reason: String,
    },
    /// A file that a TLS setting names cannot be used.
    #[error(transparent)]
    TlsFile(TlsFileError),
    /// Redis does not answer.
    #[error(
        "Redis at {address} cannot be reached: {reason}. This address was named by {named_by}; does Redis listen there, \
         and with TLS if and only if `rediss://` is set?"
    )]
    RedisUnreachable {
        /// `host:port` of Redis.
        address: String,
        /// The source of the address: a NanoCtrl, or the setting `redis`.
        named_by: String,
        /// What the Redis client reported.
        reason: String,
    },
    /// Redis refuses the login, or a command that agents need.
    #[error(
        "Redis at {address} does not let us in: {reason}. NanoCtrl tells nobody user and password; give them in \
         SLIME_RPC_REDIS_URL or as the setting `redis`: redis://user:password@"
    )]
    RedisLogin {
        /// `host:port` of Redis.
        address: String,
        /// What Redis answered.
        reason: String,
    },
    /// Redis answered with an error (it is read-only, is out of memory, ...).
    #[error("Redis at {address} refuses: {reason}")]
    RedisRefused {
        /// `host:port` of Redis.
        address: String,
        /// What Redis answered.
        reason: String,
    },
    /// Redis lacks a command that agents need, or denies it to its user.
    #[error("Redis at {address} cannot be used: {lacking}")]
    RedisUnfit {
        /// `host:port` of Redis.
        address: String,
        /// Names of what is missing.
        lacking: String,
    },
    /// NanoCtrl requires its bearer token.
    #[error("NanoCtrl at {url} {}", token_advice(*.is_given))]
    Unauthorized {
        /// URL of the server.
        url: String,
        /// Whether the request had a token, which then was the wrong one.
        is_given: bool,
    },
    /// NanoCtrl answered with an error.
    #[error("NanoCtrl at {url} answered {path} with {status}: {body}")]
    Refused {
        /// URL of the server.
        url: String,
        /// Path of the request.
        path: String,
        /// HTTP status.
        status: u16,
        /// Beginning of the response body.
        body: String,
    },
    /// An answer or record is not JSON of the expected form.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// Name of the answer or record.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A call took longer than its timeout.
    #[error("{what} was not answered within {after:?}")]
    Timeout {
        /// The request, and the server it went to.
        what: String,
        /// The timeout.
        after: Duration,
    },
    /// An alias or scope is not usable.
    #[error("`{name}` cannot be used as {what}: {reason}")]
    BadName {
        /// The name that was given.
        name: String,
        /// `alias` or `scope`.
        what: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A secret setting is not usable. The error does not repeat its value.
    #[error("the {what} cannot be used: {reason}")]
    BadSetting {
        /// Name of the setting.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The agent is not registered, or has left.
    #[error("not registered")]
    NotRegistered,
    /// An error that another process returned; only its text travels.
    #[error("{message}")]
    Elsewhere {
        /// Text of the original error.
        message: String,
    },
}

impl ControlError {
    /// Returns whether a limit of the operating system was in the way: the same may be possible
    /// once others have given back what they use.
    ///
    /// ```
    /// use slimerpc::control::ControlError;
    /// assert!(!ControlError::NotRegistered.is_of_limit());
    /// ```
    pub fn is_of_limit(&self) -> bool {
        matches!(self, Self::SystemLimit { .. })
    }

    /// Returns whether the same may be possible a moment later, because the control plane was away,
    /// busy or in trouble, or a limit of the operating system was in the way.
    ///
    /// ```
    /// use slimerpc::control::ControlError;
    /// assert!(!ControlError::NotRegistered.may_pass());
    /// ```
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NanoCtrlUnreachable { .. }
            | Self::RedisUnreachable { .. }
            | Self::Timeout { .. }
            // For instance while Redis loads its data, or its users.
            | Self::RedisRefused { .. }
            | Self::RedisLogin { .. }
            // Many processes take turns at the lock of a scope.
            | Self::HostDirectory { .. } => true,
            // With 408 it has not waited for what a busy process was slow to send.
            Self::Refused { status, .. } => *status == 408 || *status >= 500,
            _ => self.is_of_limit(),
        }
    }
}

/// Serializes the error as text, because its fields mean nothing outside the process that made
/// them.
impl Serialize for ControlError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ControlError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let message = String::deserialize(deserializer)?;
        Ok(Self::Elsewhere { message })
    }
}

fn token_advice(is_given: bool) -> &'static str {
    if is_given {
        "refuses our token; give the one that it was started with, in NANOCTRL_TOKEN or as the setting `token`"
    } else {
        "wants a token and was given none; give the one that it was started with, in NANOCTRL_TOKEN or as the setting \
         `token`"
    }
}

fn tls_advice(error: &TlsError) -> &'static str {
    match error {
        TlsError::Theirs(CertificateProblem::UnknownAuthority) => {
            "; give the file of the server's authority in NANOCTRL_CA or as the setting `nanoctrl_tls`"
        }
        TlsError::Theirs(CertificateProblem::WrongName(_)) => {
            "; use a host in the URL that the server's certificate names"
        }
        TlsError::Ours(CertificateProblem::Missing) => {
            "; give one in NANOCTRL_CERT and NANOCTRL_KEY or as the setting `nanoctrl_tls`"
        }
        TlsError::Ours(_) => "; NANOCTRL_CERT or the setting `nanoctrl_tls` names it",
        TlsError::Handshake(_) => "; a server without --tls-cert has an http:// URL",
        _ => "",
    }
}

fn by(holder: &str) -> String {
    match holder {
        "" => String::new(),
        holder => format!(" by {holder}"),
    }
}

fn in_scope(scope: &str) -> String {
    if scope.is_empty() {
        String::new()
    } else {
        format!(" in scope `{scope}`")
    }
}

//! Errors of the control plane.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The control plane did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The name belongs to a registered agent.
    #[error(
        "the alias `{alias}` is taken{}{}; choose another, or wait until the other agent has left: a crashed one keeps its \
         name for up to 60 s, for which the setting `take_over` waits", in_scope(.scope), by(.holder)
    )]
    AliasTaken {
        /// The name asked for.
        alias: String,
        /// The scope it was asked for in; empty for none.
        scope: String,
        /// Who has it, in words; empty if that is not known.
        holder: String,
    },
    /// The key of a record is that of another agent's record: `mr:w:0:x` is the record `0:x` of `w`, or `x` of `w:0`.
    #[error(
        "the record `{key}` belongs to another agent: its alias and the name of its record make the same key as ours; \
         choose another name for the record, without `:`"
    )]
    RecordTaken {
        /// The key in Redis.
        key: String,
    },
    /// NanoCtrl does not answer.
    #[error("NanoCtrl at {url} cannot be reached: {reason}. Is `nanoctrl start` running there?")]
    NanoCtrlUnreachable {
        /// Its URL.
        url: String,
        /// What the HTTP client said.
        reason: String,
    },
    /// Redis does not answer.
    #[error(
        "Redis at {address} cannot be reached: {reason}. This address was named by {named_by}; does Redis listen there, \
         and with TLS if and only if `rediss://` is set?"
    )]
    RedisUnreachable {
        /// `host:port` of Redis.
        address: String,
        /// Who named it: a NanoCtrl, or the setting `redis`.
        named_by: String,
        /// What the Redis client said.
        reason: String,
    },
    /// Redis does not let us in, or not do what we need.
    #[error(
        "Redis at {address} does not let us in: {reason}. NanoCtrl tells nobody user and password; give them in \
         SLIME_RPC_REDIS_URL or as the setting `redis`: redis://user:password@"
    )]
    RedisLogin {
        /// `host:port` of Redis.
        address: String,
        /// What it said.
        reason: String,
    },
    /// Redis answered with an error (it is read-only, is out of memory, ...).
    #[error("Redis at {address} refuses: {reason}")]
    RedisRefused {
        /// `host:port` of Redis.
        address: String,
        /// What it said.
        reason: String,
    },
    /// Redis cannot do, or does not let its user do, what agents need.
    #[error("Redis at {address} cannot be used: {lacking}")]
    RedisUnfit {
        /// `host:port` of Redis.
        address: String,
        /// What it lacks, by name.
        lacking: String,
    },
    /// NanoCtrl answers only those who bring its token.
    #[error("NanoCtrl at {url} {}", token_advice(*.is_given))]
    Unauthorized {
        /// Its URL.
        url: String,
        /// Whether a token was brought, which was the wrong one then.
        is_given: bool,
    },
    /// NanoCtrl answered with an error.
    #[error("NanoCtrl at {url} answered {path} with {status}: {body}")]
    Refused {
        /// Its URL.
        url: String,
        /// The route.
        path: String,
        /// HTTP status.
        status: u16,
        /// Beginning of the body.
        body: String,
    },
    /// Something that should be JSON of a known shape is not.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// Which answer or record.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A call took longer than its timeout.
    #[error("{what} was not answered within {after:?}")]
    Timeout {
        /// What was asked of whom.
        what: String,
        /// The timeout.
        after: Duration,
    },
    /// An alias or scope that cannot be used, and why.
    #[error("`{name}` cannot be used as {what}: {reason}")]
    BadName {
        /// The text given.
        name: String,
        /// `alias` or `scope`.
        what: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A secret setting that cannot be used, and why. What was given is not repeated.
    #[error("the {what} cannot be used: {reason}")]
    BadSetting {
        /// Which one.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The agent is not registered, or has left.
    #[error("not registered")]
    NotRegistered,
    /// An error of another process, as it travelled: its text.
    #[error("{message}")]
    Elsewhere {
        /// The text.
        message: String,
    },
}

/// As text: what it holds means something where it was made only.
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

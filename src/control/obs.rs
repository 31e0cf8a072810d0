//! What agents say of themselves: the records at `obs:peer:<alias>` in Redis, in DLSlime's schema
//! version 1. Native agents add an object [`slimerpc`](ObsRecord::slimerpc) to it.
//!
//! Any client of that Redis may have written a record, so all that is read has limits.

mod bounded;
mod scan;
mod slimerpc;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use scan::{ObsScan, SkippedObs};
pub use slimerpc::{
    SlimerpcCall, SlimerpcEvent, SlimerpcMemory, SlimerpcMethod, SlimerpcObs, SlimerpcPayload,
    SlimerpcPeer, SlimerpcPeerState, SlimerpcService, SlimerpcServiceState, SlimerpcValue,
};

#[cfg(feature = "server")]
pub(crate) use scan::{RawScan, scan, scan_all};

use bounded::{counts, list, map, text};

/// What one agent says of itself, in DLSlime's schema version 1.
///
/// ```
/// use slimerpc::control::obs::ObsRecord;
///
/// let text = br#"{"schema_version": 1, "peer_id": "worker:0", "reported_at_ms": 1000}"#;
/// let record = ObsRecord::parse(text).expect("the schema asks for no more");
/// assert_eq!(record.peer_id, "worker:0");
/// assert!(record.slimerpc.is_none());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ObsRecord {
    /// [`ObsRecord::SCHEMA_VERSION`].
    pub schema_version: u64,
    /// Name of this life of the agent: `<alias>:<pid>:<start, in Unix milliseconds>`.
    #[serde(default, deserialize_with = "text")]
    pub session_id: String,
    /// Alias of the agent.
    #[serde(deserialize_with = "text")]
    pub peer_id: String,
    /// Name of its host.
    #[serde(default, deserialize_with = "text")]
    pub host: String,
    /// Its process.
    #[serde(default)]
    pub pid: u64,
    /// When it said so, in Unix milliseconds by its own clock.
    pub reported_at_ms: u64,
    /// `stopped` in the last record of an agent that has left; otherwise nothing.
    #[serde(
        default,
        deserialize_with = "bounded::some_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub status: Option<String>,
    /// Totals over all devices.
    #[serde(default)]
    pub summary: ObsSummary,
    /// Its devices; at most [`ObsRecord::MOST_PEERS`].
    #[serde(default, deserialize_with = "list::<_, _, { ObsRecord::MOST_PEERS }>")]
    pub nics: Vec<ObsNic>,
    /// Bits a second that its completed operations carried, smoothed.
    #[serde(default)]
    pub ewma_bandwidth_bps: f64,
    /// Its connections; at most [`ObsRecord::MOST_PEERS`].
    #[serde(default, deserialize_with = "list::<_, _, { ObsRecord::MOST_PEERS }>")]
    pub connections: Vec<ObsConnection>,
    /// What only native agents say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slimerpc: Option<SlimerpcObs>,
}

/// Totals since an agent began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObsSummary {
    /// Operations that were begun.
    pub assign_total: u64,
    /// Batches of them.
    pub batch_total: u64,
    /// Bytes of operations that were begun.
    pub submitted_bytes_total: u64,
    /// Bytes of operations that were completed.
    pub completed_bytes_total: u64,
    /// Bytes of operations that failed.
    pub failed_bytes_total: u64,
    /// Operations under way now.
    pub pending_ops: i64,
    /// The same, by the name of the operation.
    #[serde(deserialize_with = "map::<_, _, 64>")]
    pub pending_by_op: BTreeMap<String, i64>,
    /// Operations that failed.
    pub error_total: u64,
    /// Memory regions that are registered now.
    pub mr_count: i64,
    /// Bytes of those.
    pub mr_bytes: i64,
    /// Regions that the program registered.
    pub user_mr_count: i64,
    /// Bytes of those.
    pub user_mr_bytes: i64,
    /// Regions that the library registered for itself.
    pub sys_mr_count: i64,
    /// Bytes of those.
    pub sys_mr_bytes: i64,
}

/// Totals of one device since its agent began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObsNic {
    /// Name of the device.
    #[serde(deserialize_with = "text")]
    pub nic: String,
    /// Its PCI address; empty if unknown.
    #[serde(deserialize_with = "text")]
    pub nic_bdf: String,
    /// Operations that were begun.
    pub assign_total: u64,
    /// Batches of them.
    pub batch_total: u64,
    /// Bytes of operations that were begun.
    pub submitted_bytes_total: u64,
    /// Bytes of operations that were completed.
    pub completed_bytes_total: u64,
    /// Bytes of operations that failed.
    pub failed_bytes_total: u64,
    /// Operations under way now.
    pub pending_ops: i64,
    /// Operations that failed.
    pub error_total: u64,
    /// Posts to the device.
    pub post_batch_total: u64,
    /// Work requests in them.
    pub post_wr_total: u64,
    /// Bytes of those.
    pub post_bytes_total: u64,
    /// Posts that the device refused.
    pub post_failures_total: u64,
    /// Completions with an error.
    pub cq_errors_total: u64,
    /// Bits a second that completed operations carried, smoothed.
    pub ewma_bandwidth_bps: f64,
    /// Counts by the name of the operation.
    #[serde(
        deserialize_with = "counts",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub by_op: BTreeMap<String, BTreeMap<String, i64>>,
}

/// A connection, as one of its ends sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObsConnection {
    /// Name of the connection.
    #[serde(deserialize_with = "text")]
    pub conn_id: String,
    /// Alias of the other end.
    #[serde(deserialize_with = "text")]
    pub peer: String,
    /// Device of this end.
    #[serde(deserialize_with = "text")]
    pub local_nic: String,
    /// Device of the other end.
    #[serde(deserialize_with = "text")]
    pub remote_nic: String,
    /// Its state, in the words of the agent; empty if it has not said.
    #[serde(deserialize_with = "text")]
    pub state: String,
    /// Whether messages can be sent.
    pub connected: bool,
}

/// Whether an agent that has a record is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ObsState {
    /// It has said so lately.
    Alive,
    /// It has not said so for longer than it should.
    Stale,
    /// It has left.
    Stopped,
}

impl fmt::Display for ObsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Alive => "alive",
            Self::Stale => "stale",
            Self::Stopped => "stopped",
        })
    }
}

/// Why a record was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObsProblem {
    /// It is longer than [`ObsRecord::LONGEST`].
    #[error("it is longer than 1 MiB")]
    TooLong,
    /// It is not JSON, or has not the fields of the schema.
    #[error("it is malformed: {reason}")]
    Malformed {
        /// What is wrong with it, and where.
        reason: String,
    },
    /// It is of another version of the schema.
    #[error("it is of schema version {found}, and only 1 can be read")]
    OtherSchema {
        /// Its version.
        found: u64,
    },
    /// It does not say whose it is.
    #[error("it names no agent")]
    Nameless,
    /// It says that it is another agent's than its key does.
    #[error("it lies at the key of another agent than `{named}`, whose it says it is")]
    OtherAgent {
        /// The agent that the record names.
        named: String,
    },
}

impl ObsRecord {
    /// The version of the schema that is read and written.
    pub const SCHEMA_VERSION: u64 = 1;

    /// Longest record, in bytes; a longer one is not read.
    pub const LONGEST: usize = 1 << 20;

    /// Longest name, in bytes; a longer one is cut.
    pub const LONGEST_NAME: usize = 256;

    /// Most devices, connections and peers of a record; more are cut.
    pub const MOST_PEERS: usize = 4096;

    /// What [`status`](Self::status) says in the last record of an agent.
    pub const STOPPED: &str = "stopped";

    /// Cuts a text at [`LONGEST_NAME`](Self::LONGEST_NAME) bytes, between two characters, as
    /// readers do.
    ///
    /// ```
    /// use slimerpc::control::obs::ObsRecord;
    ///
    /// let mut text = "ä".repeat(1000);
    /// ObsRecord::cut(&mut text);
    /// assert_eq!(text, "ä".repeat(128));
    /// ```
    pub fn cut(text: &mut String) {
        bounded::cut(text);
    }

    /// Reads a record. Unknown fields are skipped, and missing ones, beside `schema_version`,
    /// `peer_id` and `reported_at_ms`, get defaults. Lists and names beyond their limits are cut.
    ///
    /// # Errors
    /// [`ObsProblem`] says why the record cannot be used.
    pub fn parse(text: &[u8]) -> Result<Self, ObsProblem> {
        if text.len() > Self::LONGEST {
            return Err(ObsProblem::TooLong);
        }
        let malformed = |error: serde_json::Error| {
            // Its text may repeat a part of the record.
            let mut reason: String = error.to_string().escape_debug().collect();
            bounded::cut(&mut reason);
            ObsProblem::Malformed { reason }
        };
        // A later version may have other fields, so its number is read first.
        let version: Version = serde_json::from_slice(text).map_err(malformed)?;
        if version.schema_version != Self::SCHEMA_VERSION {
            return Err(ObsProblem::OtherSchema {
                found: version.schema_version,
            });
        }
        let mut record: Self = serde_json::from_slice(text).map_err(malformed)?;
        record.limit();
        if record.peer_id.is_empty() {
            return Err(ObsProblem::Nameless);
        }
        Ok(record)
    }

    /// Cuts what is limited over the whole record.
    fn limit(&mut self) {
        let mut room = Self::MOST_PEERS;
        for nic in &mut self.nics {
            nic.by_op.retain(|_, counts| {
                let has_room = counts.len() < room;
                room -= if has_room { 1 + counts.len() } else { 0 };
                has_room
            });
        }
        let mut room = SlimerpcObs::MOST_METHODS_OF_ALL;
        for service in self.slimerpc.iter_mut().flat_map(|ours| &mut ours.services) {
            if service.methods.len() > room {
                service.methods.truncate(room);
                service.methods.shrink_to_fit();
            }
            room -= service.methods.len();
        }
    }

    /// How old the record is at `now_ms`, in Unix milliseconds; none if its clock is ahead.
    pub fn age(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.reported_at_ms))
    }

    /// Whether the agent is there at `now_ms`, if a record older than `stale` is of one that is
    /// not.
    pub fn state(&self, now_ms: u64, stale: Duration) -> ObsState {
        if self.status.as_deref() == Some(Self::STOPPED) {
            return ObsState::Stopped;
        }
        match self.age(now_ms) > stale {
            true => ObsState::Stale,
            false => ObsState::Alive,
        }
    }
}

#[derive(Deserialize)]
struct Version {
    schema_version: u64,
}

#[cfg(test)]
mod tests;

//! What native agents say of themselves beyond DLSlime's schema.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ObsRecord;
use super::bounded::{list, map, text};

/// The object `slimerpc` of a record. Counts are totals since the agent began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlimerpcObs {
    /// Version of this crate.
    #[serde(deserialize_with = "text")]
    pub version: String,
    /// Incarnation of the agent, in hexadecimal.
    #[serde(deserialize_with = "text")]
    pub incarnation: String,
    /// When the agent began, in Unix milliseconds.
    pub started_ms: u64,
    /// Time between two records, in milliseconds.
    pub period_ms: u64,
    /// Its settings by name, at most [`SlimerpcObs::MOST_SETTINGS`]; nothing secret is among them.
    #[serde(deserialize_with = "map::<_, _, { SlimerpcObs::MOST_SETTINGS }>")]
    pub settings: BTreeMap<String, SlimerpcValue>,
    /// Its memory.
    pub memory: SlimerpcMemory,
    /// Payloads of its calls and of its services.
    pub payload: SlimerpcPayload,
    /// The peers that it is connected with, or was; at most [`ObsRecord::MOST_PEERS`].
    #[serde(deserialize_with = "list::<_, _, { ObsRecord::MOST_PEERS }>")]
    pub peers: Vec<SlimerpcPeer>,
    /// The services that it has; at most [`SlimerpcObs::MOST_SERVICES`].
    #[serde(deserialize_with = "list::<_, _, { SlimerpcObs::MOST_SERVICES }>")]
    pub services: Vec<SlimerpcService>,
    /// The methods that it has called; at most [`SlimerpcObs::MOST_METHODS`].
    #[serde(deserialize_with = "list::<_, _, { SlimerpcObs::MOST_METHODS }>")]
    pub calls: Vec<SlimerpcCall>,
    /// What happened to it last, oldest first; at most [`SlimerpcObs::MOST_EVENTS`].
    #[serde(deserialize_with = "list::<_, _, { SlimerpcObs::MOST_EVENTS }>")]
    pub events: Vec<SlimerpcEvent>,
    /// Breaches of the protocol by peers, counted by their kind.
    #[serde(deserialize_with = "map::<_, _, 64>")]
    pub violations: BTreeMap<String, u64>,
}

impl SlimerpcObs {
    /// Most settings of a record; more are cut.
    pub const MOST_SETTINGS: usize = 256;
    /// Most services of a record; more are cut.
    pub const MOST_SERVICES: usize = 256;
    /// Most methods of a service, and most methods that are called; more are cut.
    pub const MOST_METHODS: usize = 1024;
    /// Most methods of all services together; more are cut.
    pub const MOST_METHODS_OF_ALL: usize = 4096;
    /// Most events of a record; more are cut.
    pub const MOST_EVENTS: usize = 64;
}

/// The value of a setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SlimerpcValue {
    /// On or off.
    Flag(bool),
    /// A whole number.
    Whole(u64),
    /// Any other number.
    Number(f64),
    /// Text, of at most [`ObsRecord::LONGEST_NAME`] bytes.
    Text(#[serde(deserialize_with = "text")] String),
}

impl fmt::Display for SlimerpcValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => flag.fmt(f),
            Self::Whole(number) => number.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl From<bool> for SlimerpcValue {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<u64> for SlimerpcValue {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<String> for SlimerpcValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Memory of an agent, on all its devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlimerpcMemory {
    /// Bytes that are registered for messages beyond a slot and for one-sided memory.
    pub registered_bytes: u64,
    /// Bytes of those that are kept for later messages.
    pub pooled_bytes: u64,
}

/// Payloads that an agent has moved, as a caller and in its services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlimerpcPayload {
    /// Bytes that it has sent.
    pub sent_bytes: u64,
    /// Bytes that it has received.
    pub received_bytes: u64,
    /// Bytes a second that it sent in the last period.
    pub sent_per_second: f64,
    /// Bytes a second that it received in the last period.
    pub received_per_second: f64,
}

/// A peer, as the agent that wrote the record sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlimerpcPeer {
    /// Alias of the peer.
    #[serde(deserialize_with = "text")]
    pub alias: String,
    /// What carries the bytes: `shm`, `RoCE`, `IB` or `tcp`; empty if it is not known.
    #[serde(deserialize_with = "text")]
    pub fabric: String,
    /// Why it is this fabric, in words; empty if it is not known.
    #[serde(deserialize_with = "text")]
    pub fabric_why: String,
    /// Whether it is there.
    pub state: SlimerpcPeerState,
    /// Why it is not there; otherwise empty.
    #[serde(deserialize_with = "text")]
    pub why: String,
    /// Since when it is in this state, in Unix milliseconds.
    pub since_ms: u64,
}

/// Whether a peer is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlimerpcPeerState {
    /// It sends heartbeats, or nobody has noticed that it does not.
    Alive,
    /// It is connected and sends no heartbeats.
    Stalled,
    /// The connection is lost, or it has left.
    Gone,
    /// The record does not say, or says something that is not known here.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A service of the agent that wrote the record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlimerpcService {
    /// The name that callers use.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// Name of its type.
    #[serde(rename = "type", deserialize_with = "text")]
    pub type_name: String,
    /// Whether it can be called.
    pub state: SlimerpcServiceState,
    /// How often it has been restarted.
    pub restarts: u64,
    /// Connected callers.
    pub callers: u64,
    /// Requests that it has and has not answered.
    pub in_flight: u64,
    /// Its methods; at most [`SlimerpcObs::MOST_METHODS`].
    #[serde(deserialize_with = "list::<_, _, { SlimerpcObs::MOST_METHODS }>")]
    pub methods: Vec<SlimerpcMethod>,
}

/// Whether a service can be called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlimerpcServiceState {
    /// It can.
    Up,
    /// Its instance has failed, and the next one is not there yet.
    Restarting,
    /// It has been given up.
    Down,
    /// The record does not say, or says something that is not known here.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Figures of a method at its service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlimerpcMethod {
    /// Name of the method.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// Calls that were answered, errors among them.
    pub calls: u64,
    /// Those that were answered with an error.
    pub errors: u64,
    /// Calls that have not been answered yet.
    pub in_flight: u64,
    /// Median of the time in the handler, in microseconds, in the last period that had calls.
    pub p50_us: f64,
    /// 99 of 100 calls were faster than that, in microseconds.
    pub p99_us: f64,
    /// 999 of 1,000 calls were faster than that, in microseconds.
    pub p999_us: f64,
    /// Calls a second that ended, in the last period.
    pub per_second: f64,
}

/// Figures of a method at its caller.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlimerpcCall {
    /// Name of the service.
    #[serde(deserialize_with = "text")]
    pub service: String,
    /// Name of the method.
    #[serde(deserialize_with = "text")]
    pub method: String,
    /// Calls that have ended, with errors among them.
    pub calls: u64,
    /// Those that ended with an error.
    pub errors: u64,
    /// Calls that have not ended yet.
    pub in_flight: u64,
    /// Median of the time of a call, in microseconds, in the last period that had calls.
    pub p50_us: f64,
    /// 99 of 100 calls were faster than that, in microseconds.
    pub p99_us: f64,
    /// 999 of 1,000 calls were faster than that, in microseconds.
    pub p999_us: f64,
    /// Calls a second that ended, in the last period.
    pub per_second: f64,
}

/// Something that happened to an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlimerpcEvent {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// What kind of event: `joined`, `lost`, `healed`, `restarted`, `given_up`, `stalled`,
    /// `fabric`, and others.
    #[serde(deserialize_with = "text")]
    pub kind: String,
    /// The peer or the service that it happened to.
    #[serde(deserialize_with = "text")]
    pub subject: String,
    /// What happened, in words; at most [`ObsRecord::LONGEST_NAME`] bytes.
    #[serde(deserialize_with = "text")]
    pub text: String,
}

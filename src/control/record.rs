//! Records that the control plane keeps.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an agent registers with (`POST /start_peer_agent`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Registration {
    /// The name wanted; `None` for a generated one.
    pub alias: Option<String>,
    /// Host name or IP by which peers may know us.
    pub address: String,
    /// First usable device, where there is one.
    pub device: Option<String>,
    /// Its port.
    pub ib_port: Option<u32>,
    /// Its link type in DLSlime's spelling (`RoCE`, `IB`).
    pub link_type: Option<String>,
    /// Local topology.
    pub resource: Option<Value>,
}

/// What is known of a registered agent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PeerRecord {
    /// Its name.
    pub alias: String,
    /// Host name or IP.
    pub address: String,
    /// Device, if it named one.
    pub device: Option<String>,
    /// Port of the device.
    pub ib_port: Option<u32>,
    /// Link type as it wrote it.
    pub link_type: Option<String>,
    /// Its topology.
    pub resource: Option<Value>,
}

/// A published memory region: `mr:<owner>:<name>`. Readers need only `addr`, `length` and `rkey`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionRecord {
    /// Address of the first byte in the owner's address space.
    pub addr: u64,
    /// Length in bytes.
    pub length: u64,
    /// Key for peers.
    pub rkey: u32,
    /// Key for the owner; informative.
    #[serde(default)]
    pub lkey: u32,
}

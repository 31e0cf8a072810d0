//! Devices and their ports.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Access, FabricError, Gid, MemoryRegion, QueueHalves, QueuePair, QueuePairInit};

/// An opened device: one port, one protection domain.
pub trait Device: Send + Sync + fmt::Debug {
    /// Name as users write it: `shm0`, `mlx5_0`, `rxe0`.
    fn name(&self) -> &str;

    /// The port, as it is now.
    fn port(&self) -> PortAttributes;

    /// What may be asked of this device.
    fn limits(&self) -> DeviceLimits;

    /// Allocates `length` zeroed bytes, page aligned, and registers them.
    ///
    /// # Errors
    /// `length` is 0, memory or a limit (`ulimit -l`) is exhausted, or the device refuses.
    fn register(&self, length: usize, access: Access)
    -> Result<Arc<dyn MemoryRegion>, FabricError>;

    /// Registers the memory of a region of another device here, too, so that peers on either can use it. The other region
    /// lives as long as this one.
    ///
    /// # Errors
    /// This device registers only memory that it has allocated itself ([`FabricError::Foreign`]), a limit is exhausted, or
    /// the device refuses.
    fn register_too(
        &self,
        region: &Arc<dyn MemoryRegion>,
        access: Access,
    ) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        let _ = (region, access);
        Err(FabricError::Foreign {
            what: "memory region",
            device: self.name().to_owned(),
        })
    }

    /// Creates a completion queue for at least `depth` entries (the sum of the depths of the queues
    /// that will complete into it), and the one who takes them.
    ///
    /// # Errors
    /// `depth` is 0 or beyond [`DeviceLimits::max_cqe`], or the device refuses.
    fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError>;

    /// Creates a reliable-connected queue pair in state RESET.
    ///
    /// # Errors
    /// A depth is 0 or beyond [`DeviceLimits::max_qp_wr`], a completion queue belongs to another device,
    /// or the device refuses.
    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError>;
}

/// Limits of a device (`ibv_device_attr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Work requests in one queue.
    pub max_qp_wr: u32,
    /// Entries in one completion queue.
    pub max_cqe: u32,
    /// Bytes that one send may carry inline.
    pub max_inline: u32,
    /// Bytes in one message.
    pub max_message: u64,
}

/// State of a port that a peer needs to know, or a person wants to (`ibv_port_attr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortAttributes {
    /// What the port is attached to.
    pub link_type: LinkType,
    /// Whether the port can carry traffic.
    pub active: bool,
    /// Port number, from 1.
    pub number: u8,
    /// `ibv_mtu` code of the active MTU: 1 = 256 bytes ... 5 = 4096 bytes.
    pub mtu: u8,
    /// Local identifier; 0 where there is none.
    pub lid: u16,
    /// Index in the GID table, -1 where LIDs are used.
    pub gid_index: i32,
    /// The GID at that index.
    pub gid: Gid,
}

/// What a port is attached to. Two peers can connect when theirs are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LinkType {
    /// Shared memory of one host.
    #[serde(rename = "SHM")]
    Shm,
    /// RDMA over converged Ethernet, soft-RoCE included.
    #[serde(rename = "RoCE")]
    Roce,
    /// InfiniBand.
    #[serde(rename = "IB")]
    InfiniBand,
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shm => "SHM",
            Self::Roce => "RoCE",
            Self::InfiniBand => "IB",
        })
    }
}

/// A link type that is not one of those in [`LinkType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown link type `{0}`; known are SHM, RoCE and IB")]
pub struct UnknownLinkType(String);

impl FromStr for LinkType {
    type Err = UnknownLinkType;

    /// Accepts the spellings that DLSlime peers normalise: `roce`, `RoCE v2`, `ethernet`, `ib`, `infiniband`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().to_ascii_lowercase().as_str() {
            "shm" => Ok(Self::Shm),
            "ethernet" | "roce" | "rocev1" | "rocev2" | "roce v2" => Ok(Self::Roce),
            "infiniband" | "ib" => Ok(Self::InfiniBand),
            _ => Err(UnknownLinkType(text.to_owned())),
        }
    }
}

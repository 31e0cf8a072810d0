//! Devices and their ports.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::shm::ShmDevice;
use super::tcp::{TcpDevice, TcpOptions};
use super::{Access, FabricError, Gid, MemoryRegion, QueueHalves, QueuePair, QueuePairInit};

/// An opened RDMA device, or one that behaves like it: one port, one protection domain.
pub trait Device: Send + Sync + fmt::Debug {
    /// Name of the device as users write it: `shm0`, `tcp0`, `mlx5_0`, `rxe0`.
    fn name(&self) -> &str;

    /// Attributes of the port at this moment.
    fn port(&self) -> PortAttributes;

    /// Limits of the device.
    fn limits(&self) -> DeviceLimits;

    /// Allocates `length` zeroed bytes, page aligned, and registers them.
    ///
    /// # Errors
    /// `length` is 0, memory or a limit (`ulimit -l`) is exhausted, or the device refuses.
    fn register(&self, length: usize, access: Access)
    -> Result<Arc<dyn MemoryRegion>, FabricError>;

    /// Registers the memory of another device's region with this device, too, so that peers on
    /// either can use it. The other region lives as long as the new one.
    ///
    /// # Errors
    /// This device registers only memory that it has allocated itself ([`FabricError::Foreign`]), a
    /// limit is exhausted, or the device refuses.
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
    /// that will complete into it), and its poller.
    ///
    /// # Errors
    /// `depth` is 0 or beyond [`DeviceLimits::max_cqe`], or the device refuses.
    fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError>;

    /// Creates a completion queue whose owner is seldom woken. Peers may hold no descriptor for it
    /// then, and their events come a little later.
    ///
    /// # Errors
    /// As [`create_completion_queue`](Self::create_completion_queue).
    fn create_quiet_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
        self.create_completion_queue(depth)
    }

    /// Creates a reliable-connected queue pair in state RESET.
    ///
    /// # Errors
    /// A depth is 0 or beyond [`DeviceLimits::max_qp_wr`], a completion queue belongs to another
    /// device, or the device refuses.
    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError>;
}

/// Limits of a device (`ibv_device_attr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Most work requests in one queue.
    pub max_qp_wr: u32,
    /// Most entries in one completion queue.
    pub max_cqe: u32,
    /// Most bytes that one send may carry inline.
    pub max_inline: u32,
    /// Most bytes in one message.
    pub max_message: u64,
}

/// Attributes of a port that a peer or an operator needs to know (`ibv_port_attr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortAttributes {
    /// The kind of link that the port is attached to.
    pub link_type: LinkType,
    /// Whether the port can carry traffic.
    pub active: bool,
    /// Port number, from 1.
    pub number: u8,
    /// `ibv_mtu` code of the active MTU: 1 = 256 bytes ... 5 = 4096 bytes.
    pub mtu: u8,
    /// Local identifier of the port; 0 where there is none.
    pub lid: u16,
    /// Index in the GID table, -1 where LIDs are used.
    pub gid_index: i32,
    /// The GID at that index.
    pub gid: Gid,
}

/// The kind of link that a port is attached to. Two peers can connect when theirs are equal.
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
    /// TCP between any two hosts.
    #[serde(rename = "TCP")]
    Tcp,
}

impl LinkType {
    /// Returns whether RDMA devices have such ports.
    pub fn is_rdma(self) -> bool {
        matches!(self, Self::Roce | Self::InfiniBand)
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shm => "SHM",
            Self::Roce => "RoCE",
            Self::InfiniBand => "IB",
            Self::Tcp => "TCP",
        })
    }
}

/// The text names no [`LinkType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown link type `{0}`; known are SHM, RoCE, IB and TCP")]
pub struct UnknownLinkType(String);

impl FromStr for LinkType {
    type Err = UnknownLinkType;

    /// Parses the spellings that DLSlime peers normalise: `roce`, `RoCE v2`, `ethernet`, `ib`,
    /// `infiniband`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().to_ascii_lowercase().as_str() {
            "shm" => Ok(Self::Shm),
            "ethernet" | "roce" | "rocev1" | "rocev2" | "roce v2" => Ok(Self::Roce),
            "infiniband" | "ib" => Ok(Self::InfiniBand),
            "tcp" => Ok(Self::Tcp),
            _ => Err(UnknownLinkType(text.to_owned())),
        }
    }
}

/// Name of the shared-memory device, which every host has.
pub const SHM: &str = "shm0";

/// Name of the TCP device, which every host has.
pub const TCP: &str = "tcp0";

/// Opens a device by name: [`SHM`], [`TCP`] on a port of the loopback address, or an RDMA device
/// such as `mlx5_0` or `rxe0` at one of its ports. [`TcpDevice::open`] listens on other addresses.
///
/// # Errors
/// [`FabricError::NoDevice`] if no device has that name or this build has no RDMA; otherwise the
/// reason why it cannot be used.
///
/// ```
/// use slimerpc::fabric;
/// let device = fabric::open("shm0", 1)?;
/// assert_eq!(device.name(), "shm0");
/// assert!(fabric::open("mlx5_77", 1).is_err());
/// # Ok::<_, fabric::FabricError>(())
/// ```
pub fn open(name: &str, port: u8) -> Result<Arc<dyn Device>, FabricError> {
    if name.eq_ignore_ascii_case(SHM) {
        return ShmDevice::open();
    }
    if name.eq_ignore_ascii_case(TCP) {
        return Ok(TcpDevice::open(&TcpOptions::default())?);
    }
    open_rdma(name, port)
}

#[cfg(feature = "verbs")]
fn open_rdma(name: &str, port: u8) -> Result<Arc<dyn Device>, FabricError> {
    super::verbs::open(name, port)
}

#[cfg(not(feature = "verbs"))]
fn open_rdma(name: &str, _port: u8) -> Result<Arc<dyn Device>, FabricError> {
    Err(FabricError::NoDevice {
        device: name.to_owned(),
        reason:
            "this build knows shm0 and tcp0 only; build with the feature `verbs` for RDMA devices"
                .to_owned(),
    })
}

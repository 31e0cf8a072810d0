//! RDMA devices as the kernel describes them in sysfs.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use serde_json::{Value, json};

/// Longest attribute file read.
const LONGEST_ATTRIBUTE: u64 = 4 << 10;

/// One RDMA device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Name of the device, like `mlx5_0`.
    pub name: String,
    /// NUMA node; -1 if unknown.
    pub numa_node: i64,
    /// PCI address; empty for a device without one.
    pub pci_bus_id: String,
    /// Its ports, by number.
    pub ports: Vec<Port>,
}

/// One port of an RDMA device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Number of the port, from 1.
    pub number: u32,
    /// State as the kernel names it: `ACTIVE`, `DOWN`, ...
    pub state: String,
    /// Link type in DLSlime's spelling: `RoCE`, `IB` or `UNKNOWN`.
    pub link_type: String,
}

impl Nic {
    /// Reads the device whose directory is `dir`.
    pub(super) fn read(dir: &Path, name: String) -> Self {
        let mut ports: Vec<Port> = entries(&dir.join("ports"))
            .into_iter()
            .filter_map(|number| Port::read(&dir.join("ports").join(&number), number.parse().ok()?))
            .collect();
        ports.sort_by_key(|port| port.number);
        let numa_node = attribute(&dir.join("device/numa_node"));
        let pci_device = fs::read_link(dir.join("device")).ok();
        Self {
            name,
            numa_node: numa_node.and_then(|text| text.parse().ok()).unwrap_or(-1),
            pci_bus_id: pci_device
                .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
                .unwrap_or_default(),
            ports,
        }
    }

    /// The first usable port of the device.
    pub fn first_usable(&self) -> Option<&Port> {
        self.ports.iter().find(|port| port.is_usable())
    }

    /// Describes the device in DLSlime's schema.
    pub(super) fn to_json(&self) -> Value {
        let health = match self.first_usable() {
            Some(_) => "AVAILABLE",
            None => "UNAVAILABLE",
        };
        json!({
            "name": self.name,
            "health": health,
            "numa_node": self.numa_node,
            "pci_bus_id": self.pci_bus_id,
            "ports": self.ports.iter().map(Port::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Port {
    /// Reads the port whose directory is `dir`.
    pub(super) fn read(dir: &Path, number: u32) -> Option<Self> {
        // The kernel writes `4: ACTIVE`.
        let state = attribute(&dir.join("state"))?;
        let state = state.rsplit(':').next().unwrap_or_default().trim();
        let link_layer = attribute(&dir.join("link_layer")).unwrap_or_default();
        Some(Self {
            number,
            state: state.to_uppercase(),
            link_type: link_type(&link_layer),
        })
    }

    /// Returns whether DLSlime would use the port.
    fn is_usable(&self) -> bool {
        matches!(self.state.as_str(), "ACTIVE" | "UNKNOWN")
    }

    /// Describes the port in DLSlime's schema.
    pub(super) fn to_json(&self) -> Value {
        json!({"port": self.number, "state": self.state, "link_type": self.link_type})
    }
}

/// Writes a link type in DLSlime's spelling: `RoCE`, `IB`, `UNKNOWN` for none, and anything else
/// unchanged.
///
/// ```
/// use slimerpc::control::topology::link_type;
/// assert_eq!(link_type("Ethernet"), "RoCE");
/// assert_eq!(link_type(" InfiniBand "), "IB");
/// assert_eq!(link_type(""), "UNKNOWN");
/// ```
pub fn link_type(text: &str) -> String {
    let text = text.trim();
    match text.to_lowercase().as_str() {
        "ethernet" | "roce" | "rocev1" | "rocev2" | "roce v2" => "RoCE",
        "infiniband" | "ib" => "IB",
        "" => "UNKNOWN",
        _ => text,
    }
    .to_owned()
}

/// Names in a directory; empty if it cannot be read.
pub(super) fn entries(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// The trimmed text of a small sysfs file.
pub(super) fn attribute(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(LONGEST_ATTRIBUTE)
        .read_to_string(&mut text)
        .ok()?;
    Some(text.trim().to_owned())
}

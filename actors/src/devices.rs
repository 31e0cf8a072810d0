//! The devices of an agent, and which of them a connection uses.

use std::fmt;
use std::sync::{Arc, Once};

use slimerpc::control::topology::Topology;
use slimerpc::fabric::{self, Device, FabricError, LinkType};

/// Opened devices, one for each kind of link. Shared memory comes first: it is the faster one where both can be used.
#[derive(Debug, Clone)]
pub(crate) struct Devices(Vec<Arc<dyn Device>>);

impl Devices {
    /// The device asked for, or shared memory and the first usable RDMA port of this host.
    pub(crate) fn open(forced: Option<&str>, topology: &Topology) -> Result<Self, FabricError> {
        if let Some(name) = forced {
            let nic = topology.nics.iter().find(|nic| nic.name == name);
            let port = nic.and_then(|nic| Some(nic.first_usable()?.number));
            return Ok(Self(vec![fabric::open(name, port_number(port))?]));
        }
        let mut devices = vec![fabric::open(fabric::SHM, 1)?];
        match topology.first_usable() {
            None => {
                static SAID: Once = Once::new();
                SAID.call_once(|| {
                    tracing::info!(
                        "this host has no usable RDMA port; shared memory joins peers on it"
                    );
                });
            }
            Some((nic, port)) => match fabric::open(&nic.name, port_number(Some(port.number))) {
                Ok(device) => devices.push(device),
                Err(error) => tracing::warn!(
                    device = nic.name,
                    %error,
                    "an RDMA device cannot be used; going on with shared memory"
                ),
            },
        }
        Ok(Self(devices))
    }

    /// The preferred one.
    pub(crate) fn first(&self) -> &Arc<dyn Device> {
        &self.0[0]
    }

    /// The device on links of this type.
    pub(crate) fn on(&self, link: LinkType) -> Option<&Arc<dyn Device>> {
        self.0.iter().find(|device| device.port().link_type == link)
    }

    /// The kinds of links that there are, in order of preference.
    pub(crate) fn links(&self) -> Vec<LinkType> {
        self.0
            .iter()
            .map(|device| device.port().link_type)
            .collect()
    }

    /// The first RDMA device, or the only one there is.
    pub(crate) fn for_dlslime(&self) -> &Arc<dyn Device> {
        let is_rdma = |device: &&Arc<dyn Device>| device.port().link_type != LinkType::Shm;
        self.0.iter().find(is_rdma).unwrap_or(self.first())
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|device| device.name()).collect();
        f.write_str(&names.join(", "))
    }
}

fn port_number(port: Option<u32>) -> u8 {
    port.and_then(|port| u8::try_from(port).ok()).unwrap_or(1)
}

//! The devices of an agent, and which of them a connection uses.

use std::fmt;
use std::sync::{Arc, Once};

use slimerpc::channel::{Memory, MemoryAccount, MemoryLimits};
use slimerpc::control::topology::Topology;
use slimerpc::fabric::{self, FabricError, LinkType};

/// Opened devices, one for each kind of link, each with the memory that is registered on it for payloads beyond a slot.
/// Shared memory comes first: it is the faster one where both can be used.
#[derive(Debug, Clone)]
pub(crate) struct Devices(Vec<Arc<Memory>>);

impl Devices {
    /// The device asked for, or shared memory and the first usable RDMA port of this host.
    pub(crate) fn open(
        forced: Option<&str>,
        topology: &Topology,
        limits: MemoryLimits,
    ) -> Result<Self, FabricError> {
        if let Some(name) = forced {
            let nic = topology.nics.iter().find(|nic| nic.name == name);
            let port = nic.and_then(|nic| Some(nic.first_usable()?.number));
            let device = fabric::open(name, port_number(port))?;
            return Ok(Self(vec![Memory::new(device, limits)]));
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
        let memory = |device| Memory::new(device, limits);
        Ok(Self(devices.into_iter().map(memory).collect()))
    }

    /// The preferred one.
    pub(crate) fn first(&self) -> &Arc<Memory> {
        &self.0[0]
    }

    /// The device on links of this type.
    pub(crate) fn on(&self, link: LinkType) -> Option<&Arc<Memory>> {
        self.0
            .iter()
            .find(|memory| memory.device().port().link_type == link)
    }

    /// The kinds of links that there are, in order of preference.
    pub(crate) fn links(&self) -> Vec<LinkType> {
        self.0
            .iter()
            .map(|memory| memory.device().port().link_type)
            .collect()
    }

    /// What is registered for payloads beyond a slot.
    pub(crate) fn account(&self) -> MemoryAccount {
        let accounts = self.0.iter().map(|memory| memory.account());
        accounts.fold(MemoryAccount::default(), |sum, one| MemoryAccount {
            lent: sum.lent + one.lent,
            idle: sum.idle + one.idle,
        })
    }

    /// The first RDMA device, or the only one there is.
    pub(crate) fn for_dlslime(&self) -> &Arc<Memory> {
        let is_rdma = |memory: &&Arc<Memory>| memory.device().port().link_type != LinkType::Shm;
        self.0.iter().find(is_rdma).unwrap_or(self.first())
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|memory| memory.device().name()).collect();
        f.write_str(&names.join(", "))
    }
}

fn port_number(port: Option<u32>) -> u8 {
    port.and_then(|port| u8::try_from(port).ok()).unwrap_or(1)
}

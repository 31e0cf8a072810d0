//! The devices of an agent, and which of them a connection uses.

use std::fmt;
use std::sync::{Arc, Once, OnceLock};

use slimerpc::channel::{BufferPool, MemoryAccount, MemoryLimits};
use slimerpc::control::topology::Topology;
use slimerpc::fabric::tcp::{TcpDevice, TcpOptions};
use slimerpc::fabric::{self, Device, FabricError, FabricKind, Fabrics, LinkType};

/// Wraps a device that was opened for the agent.
pub(crate) type Wrap = Arc<dyn Fn(Arc<dyn Device>) -> Arc<dyn Device> + Send + Sync>;

/// Opens devices.
#[derive(Clone, Default)]
pub(crate) struct Opener {
    wrap: Option<Wrap>,
    tcp: TcpOptions,
    /// Whether the tcp device listens before it is needed, so that it is known to be able to.
    listens_at_once: bool,
}

impl Opener {
    /// Opens devices and wraps each with `wrap`.
    #[cfg(feature = "faults")]
    pub(crate) fn wrapping(wrap: Wrap) -> Self {
        Self {
            wrap: Some(wrap),
            ..Self::default()
        }
    }

    /// Opens the tcp device as `options` say, to listen `at_once` or when it is needed.
    pub(crate) fn listening(self, options: TcpOptions, at_once: bool) -> Self {
        Self {
            tcp: options,
            listens_at_once: at_once,
            ..self
        }
    }

    fn open(&self, name: &str, port: u8) -> Result<Arc<dyn Device>, FabricError> {
        let device: Arc<dyn Device> = if name.eq_ignore_ascii_case(fabric::TCP) {
            let device = TcpDevice::on_demand(&self.tcp)?;
            if self.listens_at_once {
                device.listen()?;
            }
            device
        } else {
            fabric::open(name, port)?
        };
        Ok(match &self.wrap {
            Some(wrap) => wrap(device),
            None => device,
        })
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.wrap.as_ref().map_or("as it is", |_| "wrapped");
        f.debug_struct("Opener")
            .field("device", &kind)
            .field("tcp", &self.tcp)
            .finish()
    }
}

/// The opened devices, one for each fabric, in order of preference. Unless settings say otherwise
/// the faster one comes first: shared memory, then RDMA, then TCP.
#[derive(Debug, Clone)]
pub(crate) struct Devices(Arc<[Opened]>);

#[derive(Debug)]
struct Opened {
    /// Registered memory for payloads beyond a slot.
    memory: Arc<BufferPool>,
    port: u8,
    opener: Opener,
    /// The same device, opened once more for memory that is used one-sided: its keys give peers
    /// access to nothing else.
    apart: OnceLock<Arc<BufferPool>>,
}

impl Opened {
    fn new(
        opener: &Opener,
        name: &str,
        port: Option<u32>,
        limits: MemoryLimits,
    ) -> Result<Self, FabricError> {
        let port = u8::try_from(port.unwrap_or(1)).map_err(|_| FabricError::NoDevice {
            device: name.to_owned(),
            reason: "a port has a number from 1 to 255".to_owned(),
        })?;
        Ok(Self {
            memory: BufferPool::new(opener.open(name, port)?, limits),
            port,
            opener: opener.clone(),
            apart: OnceLock::new(),
        })
    }

    fn link(&self) -> LinkType {
        self.memory.device().port().link_type
    }

    fn apart(&self) -> Result<&Arc<BufferPool>, FabricError> {
        if let Some(apart) = self.apart.get() {
            return Ok(apart);
        }
        let device = self.opener.open(self.memory.device().name(), self.port)?;
        let apart = BufferPool::private(device, self.memory.limits());
        Ok(self.apart.get_or_init(|| apart))
    }
}

impl Devices {
    /// Opens the device with this name, or else one for each of the fabrics that this host has.
    pub(crate) fn open(
        opener: &Opener,
        forced: Option<&str>,
        fabrics: &Fabrics,
        topology: &Topology,
        limits: MemoryLimits,
    ) -> Result<Self, FabricError> {
        if let Some(name) = forced {
            let (name, port) = match topology.named(name) {
                Some((nic, Some(port))) => (&*nic.name, Some(port)),
                Some((nic, None)) => (&*nic.name, nic.first_usable().map(|port| port.number)),
                None => (name, None),
            };
            return Ok(Self([Opened::new(opener, name, port, limits)?].into()));
        }
        let mut devices = Vec::new();
        for kind in fabrics.iter() {
            match kind {
                FabricKind::Shm => devices.push(Opened::new(opener, fabric::SHM, None, limits)?),
                FabricKind::Tcp => devices.push(Opened::new(opener, fabric::TCP, None, limits)?),
                FabricKind::Rdma => devices.extend(Self::rdma(opener, fabrics, topology, limits)?),
            }
        }
        Ok(Self(devices.into()))
    }

    /// Opens the first usable RDMA port of this host. It may have none, unless no other fabric may
    /// be used.
    fn rdma(
        opener: &Opener,
        fabrics: &Fabrics,
        topology: &Topology,
        limits: MemoryLimits,
    ) -> Result<Option<Opened>, FabricError> {
        let is_needed = fabrics.are_only(FabricKind::Rdma);
        let Some((nic, port)) = topology.first_usable() else {
            if is_needed {
                return Err(FabricError::NoDevice {
                    device: "rdma".to_owned(),
                    reason: "this host has no usable RDMA port, and no other fabric may be used"
                        .to_owned(),
                });
            }
            static WARNED: Once = Once::new();
            WARNED.call_once(|| tracing::info!("this host has no usable RDMA port"));
            return Ok(None);
        };
        match Opened::new(opener, &nic.name, Some(port.number), limits) {
            Err(error) if !is_needed => {
                tracing::warn!(
                    device = nic.name,
                    %error,
                    "an RDMA device cannot be used; going on without it"
                );
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    /// The preferred device.
    pub(crate) fn first(&self) -> &Arc<BufferPool> {
        &self.0[0].memory
    }

    fn opened(&self, link: LinkType) -> Option<&Opened> {
        self.0.iter().find(|opened| opened.link() == link)
    }

    /// The device on links of this type.
    pub(crate) fn on(&self, link: LinkType) -> Option<&Arc<BufferPool>> {
        self.opened(link).map(|opened| &opened.memory)
    }

    /// The device for one-sided memory on links of this type, or else the first such device.
    pub(crate) fn apart(&self, link: LinkType) -> Result<&Arc<BufferPool>, FabricError> {
        self.opened(link).unwrap_or(&self.0[0]).apart()
    }

    /// The devices for one-sided memory, one for each kind of link.
    pub(crate) fn all_apart(&self) -> Result<Vec<Arc<BufferPool>>, FabricError> {
        let all = self.0.iter().map(|opened| opened.apart().cloned());
        all.collect()
    }

    /// The kinds of links that the devices have, in order of preference.
    pub(crate) fn links(&self) -> Vec<LinkType> {
        self.0.iter().map(Opened::link).collect()
    }

    /// The name of the device on links of this type.
    pub(crate) fn name_on(&self, link: LinkType) -> Option<&str> {
        self.on(link).map(|memory| memory.device().name())
    }

    /// The names of all devices, in order of preference.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|opened| opened.memory.device().name())
    }

    /// The names of the devices that are not RDMA devices, which the topology lists.
    pub(crate) fn beside_rdma(&self) -> Vec<&str> {
        let others = self.0.iter().filter(|opened| !opened.link().is_rdma());
        others.map(|opened| opened.memory.device().name()).collect()
    }

    /// The bytes that are registered for payloads beyond a slot and for one-sided memory.
    pub(crate) fn account(&self) -> MemoryAccount {
        let memories = self.0.iter();
        let memories =
            memories.flat_map(|opened| opened.apart.get().into_iter().chain([&opened.memory]));
        let accounts = memories.map(|memory| memory.account());
        accounts.fold(MemoryAccount::default(), |sum, one| MemoryAccount {
            lent: sum.lent + one.lent,
            idle: sum.idle + one.idle,
        })
    }

    /// The device for DLSlime peers: the first RDMA device, or the only one there is.
    pub(crate) fn for_dlslime(&self) -> &Arc<BufferPool> {
        let rdma = self.0.iter().find(|opened| opened.link().is_rdma());
        rdma.map_or(self.first(), |opened| &opened.memory)
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|opened| opened.memory.device().name());
        let names: Vec<_> = names.collect();
        f.write_str(&names.join(", "))
    }
}

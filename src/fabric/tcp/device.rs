//! The device of the tcp fabric.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once};

use super::address::TcpKey;
use super::completion_queue::TcpCompletionQueue;
use super::connection::{Connection, Identity};
use super::device_state::{DeviceState, lock};
use super::options::TcpOptions;
use super::poller::TcpPoller;
use super::queue_pair::TcpQueuePair;
use super::region::{KeyTable, TcpRegion};
use super::socket;
use super::tls::TlsContext;
use super::unsettled::Unsettled;
use super::worker::Worker;
use crate::fabric::{
    Access, CompletionQueue, Device, DeviceLimits, FabricError, Gid, LinkType, MemoryRegion,
    PortAttributes, QueueHalves, QueuePair, QueuePairInit, TCP, software,
};

/// A listening port of this host as a device, whose peers may be on any other.
///
/// ```
/// use slimerpc::fabric::tcp::{TcpDevice, TcpOptions};
/// use slimerpc::fabric::{Access, Device};
/// let device = TcpDevice::open(&TcpOptions::default())?;
/// assert!(device.address().is_some_and(|address| address.ip().is_loopback()));
/// device.register(4096, Access::ALL)?.copy_in(0, b"hello").expect("it fits");
/// # Ok::<(), slimerpc::fabric::FabricError>(())
/// ```
#[derive(Debug)]
pub struct TcpDevice {
    gid: Gid,
    keys: Arc<KeyTable>,
    gathered: Arc<Unsettled>,
    options: TcpOptions,
    tls: Option<Arc<TlsContext>>,
    /// Listens; made when it is needed.
    worker: Mutex<Option<Arc<Worker>>>,
}

impl TcpDevice {
    /// Listens.
    ///
    /// # Errors
    /// [`FabricError::NoDevice`], which names the setting, if the address or the ports cannot be
    /// had; no file descriptor, memory or thread is left.
    pub fn open(options: &TcpOptions) -> Result<Arc<Self>, FabricError> {
        let device = Self::on_demand(options)?;
        device.listen()?;
        Ok(device)
    }

    /// Listens, if it does not yet.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn listen(&self) -> Result<(), FabricError> {
        self.worker().map(drop)
    }

    /// Makes a device that listens as soon as it has a queue pair, and opens nothing before.
    ///
    /// ```
    /// use slimerpc::fabric::tcp::{TcpDevice, TcpOptions};
    /// let device = TcpDevice::on_demand(&TcpOptions::default())?;
    /// assert_eq!(device.address(), None);
    /// # Ok::<(), slimerpc::fabric::FabricError>(())
    /// ```
    ///
    /// # Errors
    /// [`FabricError::NoDevice`], which names setting and file, if the certificates cannot be used;
    /// or the system gives no random bytes.
    pub fn on_demand(options: &TcpOptions) -> Result<Arc<Self>, FabricError> {
        let tls = options.tls.as_ref().map(TlsContext::open).transpose();
        let tls = tls.map_err(|error| FabricError::NoDevice {
            device: TCP.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Arc::new(Self {
            tls: tls.map(Arc::new),
            gid: Gid(software::random()?),
            keys: Arc::default(),
            gathered: Arc::default(),
            options: options.clone(),
            worker: Mutex::default(),
        }))
    }

    /// The address that peers dial, once the device listens.
    pub fn address(&self) -> Option<SocketAddr> {
        let worker = lock(&self.worker);
        worker.as_ref().map(|worker| worker.state().advertised())
    }

    /// How many connections were closed because the other side did not keep to the protocol.
    pub fn violations(&self) -> u64 {
        let worker = lock(&self.worker);
        worker
            .as_ref()
            .map_or(0, |worker| worker.state().violations())
    }

    /// The connection of this queue pair.
    #[cfg(test)]
    pub(super) fn connection(&self, number: u32) -> Option<Arc<Connection>> {
        self.worker().ok()?.state().find(number)
    }

    /// The one that listens.
    pub(super) fn worker(&self) -> Result<Arc<Worker>, FabricError> {
        let mut worker = lock(&self.worker);
        if let Some(worker) = &*worker {
            return Ok(worker.clone());
        }
        let (listener, advertised) = socket::listen(&self.options)?;
        if !self.options.bind.is_loopback() && self.tls.is_none() {
            static WARNED: Once = Once::new();
            WARNED.call_once(|| {
                let address = SocketAddr::new(self.options.bind, advertised.port());
                tracing::warn!(
                    %address,
                    "tcp0 listens beyond this host, and its bytes are not encrypted; certificates would do that: \
                     SLIME_RPC_TLS_CERT, SLIME_RPC_TLS_KEY and SLIME_RPC_TLS_CA"
                );
            });
        }
        let state = DeviceState::new(
            self.gid,
            self.keys.clone(),
            self.gathered.clone(),
            advertised,
            self.tls.clone(),
        )?;
        let started = Arc::new(Worker::start(Arc::new(state), listener)?);
        *worker = Some(started.clone());
        Ok(started)
    }

    fn own(
        &self,
        queue: &Arc<dyn CompletionQueue>,
    ) -> Result<Arc<TcpCompletionQueue>, FabricError> {
        software::own(TCP, queue, |queue: &TcpCompletionQueue| {
            queue.device() == self.gid
        })
    }
}

impl Device for TcpDevice {
    fn name(&self) -> &str {
        TCP
    }

    fn port(&self) -> PortAttributes {
        software::port(LinkType::Tcp, self.gid)
    }

    fn limits(&self) -> DeviceLimits {
        software::LIMITS
    }

    fn register(
        &self,
        length: usize,
        access: Access,
    ) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        software::check_region(TCP, length)?;
        Ok(Arc::new(TcpRegion::register(&self.keys, length, access)?))
    }

    fn register_too(
        &self,
        region: &Arc<dyn MemoryRegion>,
        access: Access,
    ) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        let registered = TcpRegion::register_too(&self.keys, region, access)?;
        Ok(Arc::new(registered))
    }

    fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
        software::check_completion_queue(TCP, depth)?;
        let queue = Arc::new(TcpCompletionQueue::create(self.gid, self.gathered.clone())?);
        Ok((queue.clone(), Box::new(TcpPoller::new(queue))))
    }

    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        software::check_queue_pair(TCP, init)?;
        let queues = [self.own(&init.send_cq)?, self.own(&init.recv_cq)?];
        let psn = u32::from_ne_bytes(software::random()?) & 0xff_ffff;
        let key = TcpKey::draw()?;
        let worker = self.worker()?;
        let state = worker.state();
        let connection = state.connection(|number| {
            let identity = Identity::new(number, psn, key, init, queues);
            Connection::new(identity, state.clone())
        })?;
        let handle = TcpQueuePair::new(connection, init.max_inline, worker);
        Ok(Box::new(handle))
    }
}

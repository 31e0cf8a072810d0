//! The device of the tcp fabric.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once};

use super::address::{TcpKey, random};
use super::completion_queue::TcpCompletionQueue;
use super::connection::{Connection, Identity};
use super::device_state::{DeviceState, lock};
use super::frame::MAX_MESSAGE;
use super::options::TcpOptions;
use super::poller::TcpPoller;
use super::queue_pair::TcpQueuePair;
use super::region::{KeyTable, TcpRegion};
use super::socket;
use super::worker::Worker;
use crate::fabric::{
    Access, CompletionQueue, Device, DeviceLimits, FabricError, Gid, LinkType, MemoryRegion,
    PortAttributes, QueueHalves, QueuePair, QueuePairInit, TCP,
};

const LIMITS: DeviceLimits = DeviceLimits {
    max_qp_wr: 1 << 18,
    max_cqe: 1 << 24,
    max_inline: 1024,
    max_message: MAX_MESSAGE as u64,
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
    options: TcpOptions,
    /// Listens; made when it is needed.
    worker: Mutex<Option<Arc<Worker>>>,
}

/// The port of the device with this GID.
pub(super) fn port(gid: Gid) -> PortAttributes {
    PortAttributes {
        link_type: LinkType::Tcp,
        active: true,
        number: 1,
        mtu: 5,
        lid: 0,
        gid_index: 0,
        gid,
    }
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
    /// The system gives no random bytes.
    pub fn on_demand(options: &TcpOptions) -> Result<Arc<Self>, FabricError> {
        Ok(Arc::new(Self {
            gid: Gid(random()?),
            keys: Arc::default(),
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

    /// The one that listens.
    fn worker(&self) -> Result<Arc<Worker>, FabricError> {
        let mut worker = lock(&self.worker);
        if let Some(worker) = &*worker {
            return Ok(worker.clone());
        }
        let (listener, advertised) = socket::listen(&self.options)?;
        if !self.options.bind.is_loopback() {
            static WARNED: Once = Once::new();
            WARNED.call_once(|| {
                let address = SocketAddr::new(self.options.bind, advertised.port());
                tracing::warn!(%address, "tcp0 listens beyond this host, and its bytes are not encrypted");
            });
        }
        let state = DeviceState::new(self.gid, self.keys.clone(), advertised)?;
        let started = Arc::new(Worker::start(Arc::new(state), listener)?);
        *worker = Some(started.clone());
        Ok(started)
    }

    fn own(
        &self,
        queue: &Arc<dyn CompletionQueue>,
    ) -> Result<Arc<TcpCompletionQueue>, FabricError> {
        let any: Arc<dyn std::any::Any + Send + Sync> = queue.clone();
        any.downcast::<TcpCompletionQueue>()
            .ok()
            .filter(|queue| queue.device() == self.gid)
            .ok_or_else(|| FabricError::Foreign {
                what: "completion queue",
                device: TCP.to_owned(),
            })
    }
}

/// Refuses a value outside of `1..=max`.
fn check(what: &'static str, given: u64, max: u64) -> Result<(), FabricError> {
    if (1..=max).contains(&given) {
        return Ok(());
    }
    Err(FabricError::Limit {
        what,
        given,
        allowed: format!("1 to {max}"),
        device: TCP.to_owned(),
    })
}

impl Device for TcpDevice {
    fn name(&self) -> &str {
        TCP
    }

    fn port(&self) -> PortAttributes {
        port(self.gid)
    }

    fn limits(&self) -> DeviceLimits {
        LIMITS
    }

    fn register(
        &self,
        length: usize,
        access: Access,
    ) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        check(
            "the length of a memory region",
            length as u64,
            isize::MAX as u64,
        )?;
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
        check(
            "the depth of a completion queue",
            depth.into(),
            LIMITS.max_cqe.into(),
        )?;
        let queue = Arc::new(TcpCompletionQueue::create(self.gid)?);
        Ok((queue.clone(), Box::new(TcpPoller::new(queue))))
    }

    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        let depth = LIMITS.max_qp_wr.into();
        check("max_send_wr", init.max_send_wr.into(), depth)?;
        check("max_recv_wr", init.max_recv_wr.into(), depth)?;
        if init.max_inline > LIMITS.max_inline {
            check(
                "max_inline",
                init.max_inline.into(),
                LIMITS.max_inline.into(),
            )?;
        }
        init.retry.check(TCP)?;
        let queues = [self.own(&init.send_cq)?, self.own(&init.recv_cq)?];
        let psn = u32::from_ne_bytes(random()?) & 0xff_ffff;
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

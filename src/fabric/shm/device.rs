//! The device of the shm fabric.

use std::sync::Arc;

use super::barrier;
use super::completion_queue::{ShmCompletionQueue, ShmPoller};
use super::connection::Connection;
use super::queue_pair::ShmQueuePair;
use super::region::ShmRegion;
use super::sender::MAX_MESSAGE;
use super::worker::Worker;
use crate::fabric::{
    Access, CompletionQueue, Device, DeviceLimits, FabricError, Gid, LinkType, MemoryRegion,
    PortAttributes, QueueHalves, QueuePair, QueuePairInit,
};

/// Name of every shm device.
pub(super) const NAME: &str = "shm0";

const LIMITS: DeviceLimits = DeviceLimits {
    max_qp_wr: 1 << 18,
    max_cqe: 1 << 24,
    max_inline: 1024,
    max_message: MAX_MESSAGE as u64,
};

/// The shared memory of this host as a device.
///
/// Each such device is one port; two of them connect within a process or across processes of one
/// user. Its thread sleeps except when connections are made or end, and stops with the last object
/// made from the device.
///
/// ```
/// use slimerpc::fabric::{Access, shm::ShmDevice};
/// let device = ShmDevice::open()?;
/// let region = device.register(4096, Access::ALL)?;
/// region.copy_in(0, b"hello").expect("it fits");
/// assert_eq!(device.name(), "shm0");
/// # Ok::<(), slimerpc::fabric::FabricError>(())
/// ```
#[derive(Debug)]
pub struct ShmDevice {
    worker: Arc<Worker>,
}

/// The port of the device with this GID.
pub(super) fn port(gid: Gid) -> PortAttributes {
    PortAttributes {
        link_type: LinkType::Shm,
        active: true,
        number: 1,
        mtu: 5,
        lid: 0,
        gid_index: 0,
        gid,
    }
}

impl ShmDevice {
    /// Opens a new device. Its regions and connections take file descriptors; see
    /// [`raise_open_files`](crate::fabric::raise_open_files).
    ///
    /// # Errors
    /// The process is out of file descriptors, memory or threads.
    pub fn open() -> Result<Arc<dyn Device>, FabricError> {
        barrier::register();
        let worker = Arc::new(Worker::start(Gid(random()?))?);
        Ok(Arc::new(Self { worker }))
    }

    fn own(
        &self,
        queue: &Arc<dyn CompletionQueue>,
    ) -> Result<Arc<ShmCompletionQueue>, FabricError> {
        let any: Arc<dyn std::any::Any + Send + Sync> = queue.clone();
        any.downcast::<ShmCompletionQueue>()
            .ok()
            .filter(|queue| queue.device() == self.worker.core().gid())
            .ok_or_else(|| FabricError::Foreign {
                what: "completion queue",
                device: NAME.to_owned(),
            })
    }
}

fn random<const N: usize>() -> Result<[u8; N], FabricError> {
    let mut bytes = [0; N];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(FabricError::os("drawing random bytes"))?;
    // The kernel gives up to 256 bytes at once.
    assert_eq!(read, N);
    Ok(bytes)
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
        device: NAME.to_owned(),
    })
}

impl Device for ShmDevice {
    fn name(&self) -> &str {
        NAME
    }

    fn port(&self) -> PortAttributes {
        port(self.worker.core().gid())
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
        Ok(Arc::new(ShmRegion::register(
            self.worker.clone(),
            length,
            access,
        )?))
    }

    fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
        check(
            "the depth of a completion queue",
            depth.into(),
            LIMITS.max_cqe.into(),
        )?;
        let queue = Arc::new(ShmCompletionQueue::create(self.worker.core().gid())?);
        Ok((queue.clone(), Box::new(ShmPoller::new(queue))))
    }

    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        check(
            "max_send_wr",
            init.max_send_wr.into(),
            LIMITS.max_qp_wr.into(),
        )?;
        check(
            "max_recv_wr",
            init.max_recv_wr.into(),
            LIMITS.max_qp_wr.into(),
        )?;
        if init.max_inline > LIMITS.max_inline {
            check(
                "max_inline",
                init.max_inline.into(),
                LIMITS.max_inline.into(),
            )?;
        }
        init.retry.check(NAME)?;
        let queues = [self.own(&init.send_cq)?, self.own(&init.recv_cq)?];
        let psn = u32::from_ne_bytes(random()?) & 0xff_ffff;
        let core = self.worker.core();
        let connection = core
            .connection(|number| Connection::new(number, psn, init, queues, core.keys().clone()))?;
        let handle = ShmQueuePair::new(connection, init.max_inline, self.worker.clone());
        Ok(Box::new(handle))
    }
}

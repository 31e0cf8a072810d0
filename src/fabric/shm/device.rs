//! The device of the shm fabric.

use std::sync::Arc;

use super::barrier;
use super::completion_queue::{ShmCompletionQueue, ShmPoller};
use super::connection::Connection;
use super::queue_pair::ShmQueuePair;
use super::region::ShmRegion;
use super::worker::Worker;
use crate::fabric::{
    Access, CompletionQueue, Device, DeviceLimits, FabricError, Gid, LinkType, MemoryRegion,
    PortAttributes, QueueHalves, QueuePair, QueuePairInit, SHM, software,
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

impl ShmDevice {
    /// Opens a new device. Its connections take file descriptors, and where the system promises no
    /// memory that it does not have (`vm.overcommit_memory=2`) its regions, too; see
    /// [`raise_open_files`](crate::fabric::raise_open_files).
    ///
    /// # Errors
    /// The process is out of file descriptors, memory or threads.
    pub fn open() -> Result<Arc<dyn Device>, FabricError> {
        barrier::register();
        let worker = Arc::new(Worker::start(Gid(software::random()?))?);
        Ok(Arc::new(Self { worker }))
    }

    fn own(
        &self,
        queue: &Arc<dyn CompletionQueue>,
    ) -> Result<Arc<ShmCompletionQueue>, FabricError> {
        software::own(SHM, queue, |queue: &ShmCompletionQueue| {
            queue.device() == self.worker.core().gid()
        })
    }
}

impl Device for ShmDevice {
    fn name(&self) -> &str {
        SHM
    }

    fn port(&self) -> PortAttributes {
        software::port(LinkType::Shm, self.worker.core().gid())
    }

    fn limits(&self) -> DeviceLimits {
        software::LIMITS
    }

    fn register(
        &self,
        length: usize,
        access: Access,
    ) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        software::check_region(SHM, length)?;
        Ok(Arc::new(ShmRegion::register(
            self.worker.clone(),
            length,
            access,
        )?))
    }

    fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
        software::check_completion_queue(SHM, depth)?;
        let core = self.worker.core();
        let queue = Arc::new(ShmCompletionQueue::create(core.gid(), core.queues())?);
        Ok((queue.clone(), Box::new(ShmPoller::new(queue))))
    }

    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        software::check_queue_pair(SHM, init)?;
        let queues = [self.own(&init.send_cq)?, self.own(&init.recv_cq)?];
        let psn = u32::from_ne_bytes(software::random()?) & 0xff_ffff;
        let core = self.worker.core();
        let memory = (core.queues().clone(), core.keys().clone());
        let connection =
            core.connection(|number| Connection::new(number, psn, init, queues, memory))?;
        let handle = ShmQueuePair::new(connection, init.max_inline, self.worker.clone());
        Ok(Box::new(handle))
    }
}

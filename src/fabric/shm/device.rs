//! The device of the shm fabric.

use std::sync::Arc;

use super::barrier;
use super::completion_queue::{ShmCompletionQueue, ShmPoller};
use super::connection::Connection;
use super::open_device::OpenDevice;
use super::port::Port;
use super::queue_pair::ShmQueuePair;
use super::quiet_queues::QuietQueues;
use super::region::ShmRegion;
use crate::fabric::{
    Access, CompletionQueue, Device, DeviceLimits, FabricError, LinkType, MemoryRegion,
    PortAttributes, QueueHalves, QueuePair, QueuePairInit, SHM, software,
};

/// The shared memory of this host as a device.
///
/// Two of them connect within a process or across processes of one user. Those of one process share
/// a port: a thread, which sleeps except when connections are made or end and stops with the last
/// object made from any of them, and a link to each other process. Their memory and their keys are
/// their own.
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
    device: Arc<OpenDevice>,
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
        Ok(Arc::new(Self::on(Port::of_process()?)))
    }

    /// Opens a new device on a port of its own, as another process has one.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    #[cfg(test)]
    pub(super) fn open_apart() -> Result<Arc<Self>, FabricError> {
        barrier::register();
        Ok(Arc::new(Self::on(Arc::new(Port::open()?))))
    }

    fn on(port: Arc<Port>) -> Self {
        let device = Arc::new(OpenDevice::on(port));
        Self { device }
    }

    fn completion_queue(
        &self,
        depth: u32,
        quiet: Option<&QuietQueues>,
    ) -> Result<QueueHalves, FabricError> {
        software::check_completion_queue(SHM, depth)?;
        let device = &self.device;
        let queue = ShmCompletionQueue::create(device.number(), device.queues(), quiet)?;
        let queue = Arc::new(queue);
        Ok((queue.clone(), Box::new(ShmPoller::new(queue))))
    }

    pub(super) fn queue_pair(&self, init: &QueuePairInit) -> Result<ShmQueuePair, FabricError> {
        software::check_queue_pair(SHM, init)?;
        let queues = [self.own(&init.send_cq)?, self.own(&init.recv_cq)?];
        let psn = u32::from_ne_bytes(software::random()?) & 0xff_ffff;
        let device = &self.device;
        let memory = (device.queues().clone(), device.keys().clone());
        let connection = device
            .port()
            .connection(|number| Connection::new(number, psn, init, queues, memory))?;
        Ok(ShmQueuePair::new(
            connection,
            init.max_inline,
            device.clone(),
        ))
    }

    fn own(
        &self,
        queue: &Arc<dyn CompletionQueue>,
    ) -> Result<Arc<ShmCompletionQueue>, FabricError> {
        software::own(SHM, queue, |queue: &ShmCompletionQueue| {
            queue.device() == self.device.number()
        })
    }
}

impl Device for ShmDevice {
    fn name(&self) -> &str {
        SHM
    }

    fn port(&self) -> PortAttributes {
        software::port(LinkType::Shm, self.device.port().gid())
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
            self.device.clone(),
            length,
            access,
        )?))
    }

    fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
        self.completion_queue(depth, None)
    }

    fn create_quiet_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
        self.completion_queue(depth, Some(self.device.port().quiet_queues()))
    }

    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        Ok(Box::new(self.queue_pair(init)?))
    }
}

//! A device whose verbs may fail.

use std::any::Any;
use std::io;
use std::sync::Arc;

use super::completion_queue::{FaultyCompletionQueue, FaultyPoller};
use super::controller::FaultsState;
use super::pair::Pair;
use super::plan::Point;
use super::queue_pair::FaultyQueuePair;
use crate::fabric::{
    Access, CompletionQueue, Device, DeviceLimits, FabricError, MemoryRegion, PortAttributes,
    QueueHalves, QueuePair, QueuePairInit,
};

/// A device under a fault plan; see [`Faults::wrap`](super::Faults::wrap). Its regions are those of
/// the device itself.
#[derive(Debug)]
pub(super) struct FaultyDevice {
    inner: Arc<dyn Device>,
    core: Arc<FaultsState>,
}

impl FaultyDevice {
    pub(super) fn new(inner: Arc<dyn Device>, core: Arc<FaultsState>) -> Self {
        Self { inner, core }
    }

    fn check_memory(&self, needed: usize) -> Result<(), FabricError> {
        match self.core.throw(Point::Registration, 0, None) {
            None => Ok(()),
            Some(_) => Err(FabricError::MemoryLock {
                needed: needed as u64,
                limit: 0,
            }),
        }
    }

    fn own(
        &self,
        queue: &Arc<dyn CompletionQueue>,
    ) -> Result<Arc<FaultyCompletionQueue>, FabricError> {
        let any: Arc<dyn Any + Send + Sync> = queue.clone();
        any.downcast().map_err(|_| FabricError::Foreign {
            what: "completion queue",
            device: self.name().to_owned(),
        })
    }
}

impl Device for FaultyDevice {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn port(&self) -> PortAttributes {
        self.inner.port()
    }

    fn limits(&self) -> DeviceLimits {
        self.inner.limits()
    }

    fn register(
        &self,
        length: usize,
        access: Access,
    ) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        self.check_memory(length)?;
        self.inner.register(length, access)
    }

    fn register_too(
        &self,
        region: &Arc<dyn MemoryRegion>,
        access: Access,
    ) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        self.check_memory(region.len())?;
        self.inner.register_too(region, access)
    }

    fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
        let (inner, poller) = self.inner.create_completion_queue(depth)?;
        let core = self.core.clone();
        let queue = Arc::new(FaultyCompletionQueue::new(inner, poller, core)?);
        self.core.add_queue(&queue);
        Ok((queue.clone(), Box::new(FaultyPoller(queue))))
    }

    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        let (send_cq, recv_cq) = (self.own(&init.send_cq)?, self.own(&init.recv_cq)?);
        let inner = QueuePairInit {
            send_cq: send_cq.inner().clone(),
            recv_cq: recv_cq.inner().clone(),
            ..init.clone()
        };
        let ordinal = self.core.next_pair();
        if self.core.throw(Point::QueuePair, ordinal, None).is_some() {
            return Err(FabricError::Os {
                doing: "creating a queue pair, and a fault was planned there",
                source: io::ErrorKind::OutOfMemory.into(),
            });
        }
        let pair = Arc::new(Pair::new(ordinal, self.inner.create_queue_pair(&inner)?));
        self.core.add_pair(&pair);
        for queue in [&send_cq, &recv_cq] {
            queue.attach(&pair);
        }
        let depths = (init.max_send_wr, init.max_recv_wr);
        let core = self.core.clone();
        Ok(Box::new(FaultyQueuePair::new(
            pair, core, send_cq, recv_cq, depths,
        )))
    }
}

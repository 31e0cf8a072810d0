//! A device that records the order in which its objects are dropped, for tests of DROP-1, and the
//! sends of each doorbell.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Access, Device, DeviceLimits, FabricError, MemoryRegion, PortAttributes, QueueHalves,
    QueuePair, QueuePairAddress, QueuePairInit, QueuePairState, RecvRequest, RemoteSlice,
    SendRequest,
};

/// An object that was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// A queue pair, drained.
    QueuePair,
    /// A region, deregistered.
    Region,
}

/// A device that records the order in which its objects are dropped.
#[derive(Debug)]
pub(crate) struct DropOrder {
    device: Arc<dyn Device>,
    gone: Log<Gone>,
    doorbells: Log<usize>,
}

#[derive(Debug, Clone)]
struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Log<T> {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DropOrder {
    /// Wraps `device`.
    pub(crate) fn new(device: Arc<dyn Device>) -> Arc<Self> {
        Arc::new(Self {
            device,
            gone: Log::new(),
            doorbells: Log::new(),
        })
    }

    /// Takes the records since the last call, in order.
    pub(crate) fn take_gone(&self) -> Vec<Gone> {
        std::mem::take(&mut *self.gone.lock())
    }

    /// Takes how many sends each doorbell since the last call was for.
    pub(crate) fn take_doorbells(&self) -> Vec<usize> {
        std::mem::take(&mut *self.doorbells.lock())
    }
}

impl Device for DropOrder {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn port(&self) -> PortAttributes {
        self.device.port()
    }

    fn limits(&self) -> DeviceLimits {
        self.device.limits()
    }

    fn register(
        &self,
        length: usize,
        access: Access,
    ) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        let region = self.device.register(length, access)?;
        let gone = self.gone.clone();
        Ok(Arc::new(NotedRegion { region, gone }))
    }

    fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
        self.device.create_completion_queue(depth)
    }

    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        let qp = Some(self.device.create_queue_pair(init)?);
        let (gone, doorbells) = (self.gone.clone(), self.doorbells.clone());
        Ok(Box::new(NotedQueuePair {
            qp,
            gone,
            doorbells,
        }))
    }
}

#[derive(Debug)]
struct NotedRegion {
    region: Arc<dyn MemoryRegion>,
    gone: Log<Gone>,
}

// SAFETY: it is the region within, which keeps the contract.
unsafe impl MemoryRegion for NotedRegion {
    fn as_ptr(&self) -> NonNull<u8> {
        self.region.as_ptr()
    }

    fn len(&self) -> usize {
        self.region.len()
    }

    fn lkey(&self) -> u32 {
        self.region.lkey()
    }

    fn rkey(&self) -> u32 {
        self.region.rkey()
    }
}

impl Drop for NotedRegion {
    fn drop(&mut self) {
        self.gone.lock().push(Gone::Region);
    }
}

#[derive(Debug)]
struct NotedQueuePair {
    /// There until it is dropped.
    qp: Option<Box<dyn QueuePair>>,
    gone: Log<Gone>,
    doorbells: Log<usize>,
}

impl NotedQueuePair {
    fn qp(&self) -> &dyn QueuePair {
        &**self.qp.as_ref().expect("it has not been dropped")
    }

    fn qp_mut(&mut self) -> &mut dyn QueuePair {
        &mut **self.qp.as_mut().expect("it has not been dropped")
    }
}

impl QueuePair for NotedQueuePair {
    fn number(&self) -> u32 {
        self.qp().number()
    }

    fn address(&self) -> QueuePairAddress {
        self.qp().address()
    }

    fn state(&self) -> QueuePairState {
        self.qp().state()
    }

    fn to_init(&mut self) -> Result<(), FabricError> {
        self.qp_mut().to_init()
    }

    fn expect_peer(&mut self, alias: &str) {
        self.qp_mut().expect_peer(alias);
    }

    fn to_rtr(&mut self, remote: &QueuePairAddress) -> Result<(), FabricError> {
        self.qp_mut().to_rtr(remote)
    }

    fn to_rts(&mut self) -> Result<(), FabricError> {
        self.qp_mut().to_rts()
    }

    fn to_error(&mut self) -> Result<(), FabricError> {
        self.qp_mut().to_error()
    }

    fn to_reset(&mut self) -> Result<(), FabricError> {
        self.qp_mut().to_reset()
    }

    fn post_recv(&mut self, request: RecvRequest) -> Result<(), FabricError> {
        self.qp_mut().post_recv(request)
    }

    fn post_send(&mut self, request: &SendRequest<'_>) -> Result<(), FabricError> {
        self.doorbells.lock().push(1);
        self.qp_mut().post_send(request)
    }

    fn post_sends(&mut self, requests: &[SendRequest<'_>]) -> Result<(), FabricError> {
        self.doorbells.lock().push(requests.len());
        self.qp_mut().post_sends(requests)
    }

    fn post_recvs(&mut self, request: RecvRequest, count: u32) -> Result<(), FabricError> {
        self.qp_mut().post_recvs(request, count)
    }

    fn write_now(&mut self, imm: u32, bytes: &[u8], remote: RemoteSlice) -> bool {
        self.qp_mut().write_now(imm, bytes, remote)
    }
}

impl Drop for NotedQueuePair {
    fn drop(&mut self) {
        drop(self.qp.take());
        self.gone.lock().push(Gone::QueuePair);
    }
}

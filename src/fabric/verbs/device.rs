//! Devices.

use std::any::Any;
use std::sync::Arc;

use ibverbs_sys::{ibv_device_attr, ibv_port_state, ibv_query_device};

use super::address::{Address, port_attributes, query_port};
use super::completion_queue::{VerbsCompletionQueue, VerbsPoller};
use super::context::Context;
use super::diagnosis::check;
use super::memory_region::VerbsRegion;
use super::protection_domain::ProtectionDomain;
use super::queue_pair::{Limits, VerbsQueuePair, granted_inline};
use super::work_request_table::WorkRequestTable;
use crate::fabric::{
    Access, CompletionQueue, Device, DeviceLimits, FabricError, MemoryRegion, PortAttributes,
    QueueHalves, QueuePair, QueuePairInit,
};

/// One port of an RDMA device, with a protection domain.
///
/// ```no_run
/// use slimerpc::fabric::Device;
/// use slimerpc::fabric::verbs::VerbsDevice;
/// let device = VerbsDevice::open("rxe0", 1)?;
/// assert!(device.port().active);
/// # Ok::<_, slimerpc::fabric::FabricError>(())
/// ```
#[derive(Debug)]
pub struct VerbsDevice {
    domain: Arc<ProtectionDomain>,
    port: u8,
    address: Address,
    limits: DeviceLimits,
    reads: Limits,
}

impl VerbsDevice {
    /// Opens a port of the device `name`.
    ///
    /// # Errors
    /// The errors of [`open`](super::open).
    pub fn open(name: &str, port: u8) -> Result<Self, FabricError> {
        let context = Arc::new(Context::open(name)?);
        let attributes = query_device(&context)?;
        let ports = attributes.phys_port_cnt;
        if !(1..=ports).contains(&port) {
            return Err(FabricError::NoDevice {
                device: name.to_owned(),
                reason: format!("it has no port {port}, only 1 to {ports}"),
            });
        }
        let state = query_port(&context, port)?;
        if state.state != ibv_port_state::IBV_PORT_ACTIVE {
            return Err(FabricError::NoDevice {
                device: name.to_owned(),
                reason: format!(
                    "port {port} is not active; is its network interface up and its cable plugged in?"
                ),
            });
        }
        let address = Address::of_port(&context, port)?;
        let domain = Arc::new(ProtectionDomain::new(context)?);
        let count = |value: i32| u32::try_from(value).unwrap_or(0);
        let limits = DeviceLimits {
            max_qp_wr: count(attributes.max_qp_wr).min(WorkRequestTable::MAX_DEPTH),
            max_cqe: count(attributes.max_cqe),
            max_inline: granted_inline(&domain),
            max_message: state.max_msg_sz.into(),
        };
        let reads = Limits {
            initiated: count(attributes.max_qp_init_rd_atom).min(16) as u8,
            served: count(attributes.max_qp_rd_atom).min(16) as u8,
        };
        Ok(Self {
            domain,
            port,
            address,
            limits,
            reads,
        })
    }

    fn context(&self) -> &Arc<Context> {
        self.domain.context()
    }

    fn own(
        &self,
        queue: &Arc<dyn CompletionQueue>,
    ) -> Result<Arc<VerbsCompletionQueue>, FabricError> {
        let queue: Arc<dyn Any + Send + Sync> = queue.clone();
        let ours = queue.downcast::<VerbsCompletionQueue>().ok();
        let ours = ours.filter(|queue| Arc::ptr_eq(queue.context(), self.context()));
        ours.ok_or_else(|| FabricError::Foreign {
            what: "completion queue",
            device: self.name().to_owned(),
        })
    }

    fn limit(&self, what: &'static str, given: u64, most: u64) -> Result<(), FabricError> {
        if (1..=most).contains(&given) {
            return Ok(());
        }
        Err(FabricError::Limit {
            what,
            given,
            allowed: format!("1 to {most}"),
            device: self.name().to_owned(),
        })
    }
}

fn query_device(context: &Context) -> Result<ibv_device_attr, FabricError> {
    let mut attributes = ibv_device_attr::default();
    // SAFETY: the context is open and `attributes` valid for a write.
    let queried = unsafe { ibv_query_device(context.raw(), &mut attributes) };
    check("ibv_query_device", queried, || context.name().to_owned())?;
    Ok(attributes)
}

impl Device for VerbsDevice {
    fn name(&self) -> &str {
        self.context().name()
    }

    fn port(&self) -> PortAttributes {
        port_attributes(self.context(), self.port, self.address)
    }

    fn limits(&self) -> DeviceLimits {
        self.limits
    }

    fn register(
        &self,
        length: usize,
        access: Access,
    ) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        self.limit("the length of a region", length as u64, isize::MAX as u64)?;
        Ok(Arc::new(VerbsRegion::new(
            self.domain.clone(),
            length,
            access,
        )?))
    }

    fn register_too(
        &self,
        region: &Arc<dyn MemoryRegion>,
        access: Access,
    ) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        let domain = self.domain.clone();
        Ok(Arc::new(VerbsRegion::shared(
            domain,
            region.clone(),
            access,
        )?))
    }

    fn create_completion_queue(&self, depth: u32) -> Result<QueueHalves, FabricError> {
        self.limit("depth", depth.into(), self.limits.max_cqe.into())?;
        let queue = Arc::new(VerbsCompletionQueue::new(self.context(), depth)?);
        Ok((queue.clone(), Box::new(VerbsPoller(queue))))
    }

    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        let depth = u64::from(self.limits.max_qp_wr);
        self.limit("max_send_wr", init.max_send_wr.into(), depth)?;
        self.limit("max_recv_wr", init.max_recv_wr.into(), depth)?;
        if init.max_inline > 0 {
            self.limit(
                "max_inline",
                init.max_inline.into(),
                self.limits.max_inline.into(),
            )?;
        }
        init.retry.check(self.name())?;
        let queues = [self.own(&init.send_cq)?, self.own(&init.recv_cq)?];
        let local = (self.port, self.address);
        Ok(Box::new(VerbsQueuePair::new(
            self.domain.clone(),
            init,
            queues,
            local,
            self.reads,
        )?))
    }
}

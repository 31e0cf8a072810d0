//! The fabric of libibverbs: InfiniBand, RoCE and soft-RoCE devices (cargo feature `verbs`).
//!
//! Every object holds an [`Arc`] of the one it was made from, so that what the library needs is
//! destroyed in order: queue pair, completion queue and region, protection domain, device. All of
//! that happens synchronously where the last handle is dropped (DROP-1).

mod address;
mod completion_queue;
mod context;
mod device;
mod diagnosis;
mod memory_region;
mod protection_domain;
mod queue_pair;
mod work_request_table;

use std::sync::Arc;

pub use context::names;
pub use device::VerbsDevice;

use super::{Device, FabricError};

/// Opens a port of an RDMA device.
///
/// # Errors
/// The device or port does not exist, it may not be opened, the port is down, or it has no usable
/// GID.
///
/// ```no_run
/// use slimerpc::fabric::verbs;
/// let device = verbs::open("mlx5_0", 1)?;
/// println!("{:?}", device.port());
/// # Ok::<_, slimerpc::fabric::FabricError>(())
/// ```
pub fn open(name: &str, port: u8) -> Result<Arc<dyn Device>, FabricError> {
    Ok(Arc::new(VerbsDevice::open(name, port)?))
}

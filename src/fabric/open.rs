//! Opens devices by name.

use std::sync::Arc;

use super::shm::ShmDevice;
use super::{Device, FabricError};

/// Name of the shared-memory device, which every host has.
pub const SHM: &str = "shm0";

/// Opens a device by name: [`SHM`], or an RDMA device such as `mlx5_0` or `rxe0` at one of its
/// ports.
///
/// # Errors
/// [`FabricError::NoDevice`] if no device has that name or this build has no RDMA; otherwise the
/// reason why it cannot be used.
///
/// ```
/// use slimerpc::fabric;
/// let device = fabric::open("shm0", 1)?;
/// assert_eq!(device.name(), "shm0");
/// assert!(fabric::open("mlx5_77", 1).is_err());
/// # Ok::<_, fabric::FabricError>(())
/// ```
pub fn open(name: &str, port: u8) -> Result<Arc<dyn Device>, FabricError> {
    if name.eq_ignore_ascii_case(SHM) {
        return ShmDevice::open();
    }
    open_rdma(name, port)
}

#[cfg(feature = "verbs")]
fn open_rdma(name: &str, port: u8) -> Result<Arc<dyn Device>, FabricError> {
    super::verbs::open(name, port)
}

#[cfg(not(feature = "verbs"))]
fn open_rdma(name: &str, _port: u8) -> Result<Arc<dyn Device>, FabricError> {
    Err(FabricError::NoDevice {
        device: name.to_owned(),
        reason: "this build knows shm0 only; build with the feature `verbs` for RDMA devices"
            .to_owned(),
    })
}

//! Registered memory.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use ibverbs_sys::{ibv_dereg_mr, ibv_mr, ibv_reg_mr};
use memmap2::{MmapMut, MmapOptions};

use super::diagnosis::{last_failed, memory_lock_limit};
use super::protection_domain::ProtectionDomain;
use crate::fabric::{Access, FabricError, MemoryRegion};

/// An `ibv_mr` and the memory that it registers.
#[derive(Debug)]
pub(super) struct VerbsRegion {
    raw: NonNull<ibv_mr>,
    domain: Arc<ProtectionDomain>,
    /// Unmapped after `drop` has deregistered it (DROP-1).
    memory: RegisteredMemory,
}

/// The memory that is registered.
#[derive(Debug)]
enum RegisteredMemory {
    Own(MmapMut),
    /// Memory of another device.
    Shared(Arc<dyn MemoryRegion>),
}

impl RegisteredMemory {
    fn as_ptr(&self) -> *mut u8 {
        match self {
            Self::Own(mapped) => mapped.as_ptr().cast_mut(),
            Self::Shared(region) => region.as_ptr().as_ptr(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Own(mapped) => mapped.len(),
            Self::Shared(region) => region.len(),
        }
    }
}

// SAFETY: the verbs API is thread safe for every object (ibverbs(7)); the memory is only reached by
// pointer.
unsafe impl Send for VerbsRegion {}
// SAFETY: as above.
unsafe impl Sync for VerbsRegion {}

impl VerbsRegion {
    pub(super) fn new(
        domain: Arc<ProtectionDomain>,
        length: usize,
        access: Access,
    ) -> Result<Self, FabricError> {
        let mapped = MmapOptions::new().len(length).map_anon();
        let mapped = mapped.map_err(FabricError::os("allocating memory"))?;
        Self::register(domain, RegisteredMemory::Own(mapped), access)
    }

    /// Registers the memory of another device's region, which lives as long as this one.
    pub(super) fn shared(
        domain: Arc<ProtectionDomain>,
        region: Arc<dyn MemoryRegion>,
        access: Access,
    ) -> Result<Self, FabricError> {
        Self::register(domain, RegisteredMemory::Shared(region), access)
    }

    fn register(
        domain: Arc<ProtectionDomain>,
        memory: RegisteredMemory,
        access: Access,
    ) -> Result<Self, FabricError> {
        let (access, length) = (access.bits() as i32, memory.len());
        // SAFETY: `memory` is mapped for `length` bytes, by us or by the contract of
        // `MemoryRegion`, and lives in `self` until after deregistration.
        let raw = unsafe { ibv_reg_mr(domain.raw(), memory.as_ptr().cast(), length, access) };
        let Some(raw) = NonNull::new(raw) else {
            return Err(refused(&domain, length));
        };
        Ok(Self {
            raw,
            domain,
            memory,
        })
    }

    fn mr(&self) -> &ibv_mr {
        // SAFETY: registered and not yet deregistered; the library does not change it meanwhile.
        unsafe { self.raw.as_ref() }
    }
}

/// The error for a registration that failed: nearly always the limit on locked memory.
fn refused(domain: &ProtectionDomain, length: usize) -> FabricError {
    let error = io::Error::last_os_error();
    match (error.raw_os_error(), memory_lock_limit()) {
        (Some(libc::ENOMEM | libc::EAGAIN | libc::EPERM), Some(limit)) => FabricError::MemoryLock {
            needed: length as u64,
            limit,
        },
        _ => last_failed(
            "ibv_reg_mr",
            format!("{length} bytes on {}", domain.context().name()),
        ),
    }
}

// SAFETY: the mapping is `length` bytes, readable, writable, page aligned and does not move while
// `self` lives.
unsafe impl MemoryRegion for VerbsRegion {
    fn as_ptr(&self) -> NonNull<u8> {
        NonNull::new(self.memory.as_ptr()).expect("a mapping is not null")
    }

    fn len(&self) -> usize {
        self.memory.len()
    }

    fn lkey(&self) -> u32 {
        self.mr().lkey
    }

    fn rkey(&self) -> u32 {
        self.mr().rkey
    }
}

impl Drop for VerbsRegion {
    fn drop(&mut self) {
        // SAFETY: registered by us, deregistered once; the memory is unmapped afterwards.
        if unsafe { ibv_dereg_mr(self.raw.as_ptr()) } != 0 {
            tracing::warn!(
                device = self.domain.context().name(),
                "a region cannot be deregistered"
            );
        }
    }
}

//! Registered memory of this process.

use std::ptr::NonNull;
use std::sync::{Arc, LazyLock};

use super::arena::{Arena, Lot};
use super::message::RegionInfo;
use super::open_device::OpenDevice;
use super::segment::Segment;
use super::sync::{AtomicU32, Ordering};
use crate::fabric::{Access, FabricError, MemoryRegion};

/// The first page of a region's memory belongs to the fabric; the bytes that users see come behind
/// it.
#[inline]
pub(super) fn data_offset() -> usize {
    static PAGE: LazyLock<usize> = LazyLock::new(rustix::param::page_size);
    *PAGE
}

/// Whether the region is still registered: a peer that has it mapped must check this.
#[derive(Debug)]
#[repr(C, align(4))]
pub(super) struct Validity(AtomicU32);

impl Validity {
    #[inline]
    pub(super) fn is_valid(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }
}

/// The memory of a region, without the registration.
#[derive(Debug)]
pub(super) struct RegionMemory {
    lot: Arc<Lot>,
    segment: Segment,
    len: usize,
    access: Access,
}

impl RegionMemory {
    pub(super) fn create(arena: &Arena, len: usize, access: Access) -> Result<Self, FabricError> {
        let total = data_offset()
            .checked_add(len)
            .ok_or(rustix::io::Errno::NOMEM);
        let (lot, segment) = total
            .map_err(std::io::Error::from)
            .and_then(|total| arena.create(total))
            .map_err(FabricError::os("allocating memory to register"))?;
        let memory = Self {
            lot,
            segment,
            len,
            access,
        };
        memory.validity().0.store(1, Ordering::Release);
        Ok(memory)
    }

    #[inline]
    fn validity(&self) -> &Validity {
        validity(&self.segment)
    }

    #[inline]
    pub(super) fn as_ptr(&self) -> NonNull<u8> {
        self.segment.at(data_offset())
    }

    /// The pointer to `length` bytes at `addr`; `None` if they exceed the region or `access` is not
    /// allowed.
    #[inline]
    pub(super) fn locate(&self, addr: u64, length: usize, access: Access) -> Option<NonNull<u8>> {
        let offset = addr.checked_sub(self.as_ptr().as_ptr() as u64)?;
        let offset = usize::try_from(offset).ok()?;
        let fits = offset.checked_add(length)? <= self.len;
        (fits && self.access.contains(access)).then(|| self.segment.at(data_offset() + offset))
    }

    /// What a peer needs to know, and the descriptor that it needs.
    pub(super) fn info(&self, rkey: u32) -> (RegionInfo, &Arc<Lot>) {
        let info = RegionInfo {
            rkey,
            access: self.access.bits(),
            addr: self.as_ptr().as_ptr() as u64,
            len: self.len as u64,
            memory: self.lot.address(),
        };
        (info, &self.lot)
    }
}

/// The validity word of a region's memory, this side's or a peer's.
#[inline]
pub(super) fn validity(segment: &Segment) -> &Validity {
    &segment.slice(0, 1).expect("a region has a first page")[0]
}

/// A registration.
#[derive(Debug)]
pub(super) struct ShmRegion {
    memory: Arc<RegionMemory>,
    key: u32,
    device: Arc<OpenDevice>,
}

impl ShmRegion {
    pub(super) fn register(
        device: Arc<OpenDevice>,
        len: usize,
        access: Access,
    ) -> Result<Self, FabricError> {
        let memory = Arc::new(RegionMemory::create(device.regions(), len, access)?);
        let key = device.keys().insert(&memory)?;
        Ok(Self {
            memory,
            key,
            device,
        })
    }
}

// SAFETY: the mapping is readable and writable, covers `len` bytes from `as_ptr` and lives in
// `memory`, which this handle owns a share of.
unsafe impl MemoryRegion for ShmRegion {
    #[inline]
    fn as_ptr(&self) -> NonNull<u8> {
        self.memory.as_ptr()
    }

    fn len(&self) -> usize {
        self.memory.len
    }

    #[inline]
    fn lkey(&self) -> u32 {
        self.key
    }

    fn rkey(&self) -> u32 {
        self.key
    }
}

impl Drop for ShmRegion {
    /// Deregisters: peers that have the memory mapped are refused from now on (DROP-1).
    fn drop(&mut self) {
        self.device.keys().remove(self.key);
        self.memory.validity().0.store(0, Ordering::Release);
    }
}

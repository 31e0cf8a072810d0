//! Registered memory of this process, and its keys.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use memmap2::{MmapMut, MmapRaw};

use crate::fabric::{Access, FabricError, MemoryRegion, software};

/// The memory of a region, without the registration.
#[derive(Debug)]
pub(super) struct RegionMemory {
    bytes: Bytes,
    access: Access,
}

#[derive(Debug)]
enum Bytes {
    Own(MmapRaw),
    /// Of another device.
    Other(Arc<dyn MemoryRegion>),
}

impl RegionMemory {
    fn create(len: usize, access: Access) -> Result<Self, FabricError> {
        let bytes =
            MmapMut::map_anon(len).map_err(FabricError::os("allocating memory to register"))?;
        Ok(Self {
            bytes: Bytes::Own(bytes.into()),
            access,
        })
    }

    fn as_ptr(&self) -> NonNull<u8> {
        match &self.bytes {
            Bytes::Own(mapped) => NonNull::new(mapped.as_mut_ptr()).expect("it is mapped"),
            Bytes::Other(region) => region.as_ptr(),
        }
    }

    fn len(&self) -> usize {
        match &self.bytes {
            Bytes::Own(mapped) => mapped.len(),
            Bytes::Other(region) => region.len(),
        }
    }

    /// The pointer to `len` bytes at `addr`. `None` if they leave the region or `access` is not
    /// allowed.
    pub(super) fn locate(&self, addr: u64, len: usize, access: Access) -> Option<NonNull<u8>> {
        let offset = addr.checked_sub(self.as_ptr().as_ptr() as u64)?;
        let offset = usize::try_from(offset).ok()?;
        let fits = offset.checked_add(len)? <= self.len();
        // SAFETY: `offset` lies inside the memory, or is one past it.
        (fits && self.access.contains(access)).then(|| unsafe { self.as_ptr().add(offset) })
    }
}

/// Finds regions by key. Keys are drawn at random, so that a key of memory that is gone does not
/// soon name other memory.
#[derive(Debug, Default)]
pub(super) struct KeyTable(RwLock<HashMap<u32, Weak<RegionMemory>>>);

impl KeyTable {
    fn insert(&self, memory: &Arc<RegionMemory>) -> Result<u32, FabricError> {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        loop {
            let key = u32::from_ne_bytes(software::random()?);
            if key != 0 && !keys.contains_key(&key) {
                keys.insert(key, Arc::downgrade(memory));
                return Ok(key);
            }
        }
    }

    fn remove(&self, key: u32) {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.remove(&key);
    }

    /// The memory that has this key now.
    pub(super) fn find(&self, key: u32) -> Weak<RegionMemory> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(&key).cloned().unwrap_or_default()
    }
}

/// Registered bytes of this process that a frame is made of or goes to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    memory: Weak<RegionMemory>,
    access: Access,
    addr: u64,
    left: usize,
}

impl Target {
    /// No bytes.
    pub(super) fn empty() -> Self {
        Self {
            memory: Weak::new(),
            access: Access::LOCAL_READ,
            addr: 0,
            left: 0,
        }
    }

    /// `None`: the key, the bounds or the rights are wrong.
    pub(super) fn find(
        keys: &KeyTable,
        key: u32,
        addr: u64,
        len: usize,
        access: Access,
    ) -> Option<Self> {
        if len == 0 {
            return Some(Self::empty());
        }
        let memory = keys.find(key);
        memory.upgrade()?.locate(addr, len, access)?;
        Some(Self {
            memory,
            access,
            addr,
            left: len,
        })
    }

    /// Bytes that have not been moved yet.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// So many have been moved.
    pub(super) fn advance(&mut self, count: usize) {
        self.addr += count as u64;
        self.left -= count;
    }

    /// Where the rest is, and what keeps it there. `None`: it has been deregistered.
    pub(super) fn rest(&self) -> Option<(NonNull<u8>, Arc<RegionMemory>)> {
        let memory = self.memory.upgrade()?;
        let first = memory.locate(self.addr, self.left, self.access)?;
        Some((first, memory))
    }
}

/// A registration.
#[derive(Debug)]
pub(super) struct TcpRegion {
    memory: Arc<RegionMemory>,
    key: u32,
    keys: Arc<KeyTable>,
}

impl TcpRegion {
    pub(super) fn register(
        keys: &Arc<KeyTable>,
        len: usize,
        access: Access,
    ) -> Result<Self, FabricError> {
        Self::of(keys, RegionMemory::create(len, access)?)
    }

    /// Registers memory of another device.
    pub(super) fn register_too(
        keys: &Arc<KeyTable>,
        region: &Arc<dyn MemoryRegion>,
        access: Access,
    ) -> Result<Self, FabricError> {
        let bytes = Bytes::Other(region.clone());
        Self::of(keys, RegionMemory { bytes, access })
    }

    fn of(keys: &Arc<KeyTable>, memory: RegionMemory) -> Result<Self, FabricError> {
        let memory = Arc::new(memory);
        Ok(Self {
            key: keys.insert(&memory)?,
            memory,
            keys: keys.clone(),
        })
    }
}

// SAFETY: the memory is a mapping, readable and writable and initialised by the kernel, or another
// region's, which keeps this contract; either covers `len` bytes from `as_ptr` and lives in
// `memory`, which this handle owns a share of.
unsafe impl MemoryRegion for TcpRegion {
    fn as_ptr(&self) -> NonNull<u8> {
        self.memory.as_ptr()
    }

    fn len(&self) -> usize {
        self.memory.len()
    }

    fn lkey(&self) -> u32 {
        self.key
    }

    fn rkey(&self) -> u32 {
        self.key
    }
}

impl Drop for TcpRegion {
    /// Deregisters (DROP-1): whoever moves bytes at this moment keeps the memory until that is
    /// done.
    fn drop(&mut self) {
        self.keys.remove(self.key);
    }
}

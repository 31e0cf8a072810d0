//! A device with ordinary memory and nothing else, for tests of code that uses registered memory:
//! Miri can run them.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::{
    Access, Device, DeviceLimits, FabricError, Gid, LinkType, MemoryRegion, PortAttributes,
    QueueHalves, QueuePair, QueuePairInit,
};

/// A device whose regions are ordinary memory.
#[derive(Debug, Default)]
pub(crate) struct HeapDevice {
    keys: AtomicU32,
}

impl HeapDevice {
    fn has_none(&self) -> FabricError {
        FabricError::NoDevice {
            device: self.name().to_owned(),
            reason: "it has memory alone".to_owned(),
        }
    }
}

impl Device for HeapDevice {
    fn name(&self) -> &str {
        "heap"
    }

    fn port(&self) -> PortAttributes {
        PortAttributes {
            link_type: LinkType::Shm,
            active: true,
            number: 1,
            mtu: 5,
            lid: 0,
            gid_index: 0,
            gid: Gid::default(),
        }
    }

    fn limits(&self) -> DeviceLimits {
        DeviceLimits {
            max_qp_wr: 1,
            max_cqe: 1,
            max_inline: 0,
            max_message: 0,
        }
    }

    fn register(&self, length: usize, _: Access) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        let words = length.div_ceil(size_of::<usize>());
        Ok(Arc::new(HeapRegion {
            words: (0..words).map(|_| AtomicUsize::new(0)).collect(),
            len: length,
            key: self.keys.fetch_add(1, Ordering::Relaxed),
        }))
    }

    fn create_completion_queue(&self, _: u32) -> Result<QueueHalves, FabricError> {
        Err(self.has_none())
    }

    fn create_queue_pair(&self, _: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        Err(self.has_none())
    }
}

#[derive(Debug)]
struct HeapRegion {
    words: Box<[AtomicUsize]>,
    len: usize,
    key: u32,
}

// SAFETY: the words cover `len` bytes, are initialised, live and stay where they are as long as
// this, and are used by nothing but the pointer. They may be written by it, as they are atomics.
unsafe impl MemoryRegion for HeapRegion {
    fn as_ptr(&self) -> NonNull<u8> {
        NonNull::from(&*self.words).cast()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn lkey(&self) -> u32 {
        self.key
    }

    fn rkey(&self) -> u32 {
        self.key
    }
}

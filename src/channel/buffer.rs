//! Memory that an agent exports to its peers, which read and write it without asking.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::buffer_pool::{BufferPool, MemoryError, PooledBuffer};
use crate::fabric::{Access, Device, LinkType, MemoryRegion, OutOfRange};

/// The access that peers have to a [`Buffer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Rights {
    /// Peers may read it.
    Read,
    /// Peers may write it.
    Write,
    /// Peers may read and write it.
    ReadWrite,
}

impl Rights {
    /// Returns whether these rights include `other`.
    ///
    /// ```
    /// use slimerpc::channel::Rights;
    /// assert!(Rights::ReadWrite.include(Rights::Read));
    /// assert!(!Rights::Read.include(Rights::Write));
    /// ```
    pub fn include(self, other: Self) -> bool {
        self == Self::ReadWrite || self == other
    }

    fn access(self) -> Access {
        let remote = match self {
            Self::Read => Access::REMOTE_READ,
            Self::Write => Access::REMOTE_WRITE,
            Self::ReadWrite => Access::REMOTE_READ | Access::REMOTE_WRITE,
        };
        // Without the local right devices grant no remote one.
        remote | Access::LOCAL_WRITE
    }
}

/// The location of a buffer for peers on one kind of link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BufferLocation {
    /// The kind of link.
    pub link: LinkType,
    /// Address of the first byte.
    pub addr: u64,
    /// Key for the peer.
    pub rkey: u32,
}

/// Registered memory that peers may use as its rights allow, until it is dropped: its keys become
/// invalid then, and only afterwards is the memory freed (DROP-1).
///
/// A peer may write while the owner reads, and the other way round, and so may several threads of
/// the owner; as with any DMA, the bytes are then a mixture.
///
/// ```
/// use slimerpc::channel::{Buffer, BufferPool, MemoryLimits, Rights};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = BufferPool::private(slimerpc::fabric::open("shm0", 1)?, MemoryLimits::default());
/// let buffer = Buffer::new(&[memory], 1000, Rights::Read)?;
/// buffer.write(990, b"weights")?;
/// assert!(buffer.write(995, b"weights").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Buffer {
    // Dropped before the memory that they register as well (DROP-1).
    others: Vec<(LinkType, Arc<dyn MemoryRegion>)>,
    block: PooledBuffer,
    link: LinkType,
    rights: Rights,
}

impl Buffer {
    /// Allocates `len` zeroed bytes from the first memory and registers them with the devices of
    /// all.
    ///
    /// # Errors
    /// The size exceeds a limit of the first memory, or a device refuses.
    ///
    /// # Panics
    /// If `on` is empty.
    pub fn new(on: &[Arc<BufferPool>], len: usize, rights: Rights) -> Result<Self, MemoryError> {
        let (first, others) = on.split_first().expect("an agent has a device");
        let block = first.dedicate(len, rights.access())?;
        let mut shared = Vec::new();
        if let Some(region) = block.shared() {
            for memory in others {
                let region = memory.device().register_too(region, rights.access())?;
                shared.push((link(&**memory.device()), region));
            }
        }
        Ok(Self {
            others: shared,
            block,
            link: link(&**first.device()),
            rights,
        })
    }

    /// Length of the buffer in bytes.
    pub fn len(&self) -> usize {
        self.block.len()
    }

    /// Returns whether the buffer has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The access that peers have to the buffer.
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// The locations of the buffer for peers, one for each kind of link.
    pub fn places(&self) -> Vec<BufferLocation> {
        let outside = self.block.outside();
        let own = BufferLocation {
            link: self.link,
            addr: outside.addr,
            rkey: outside.rkey,
        };
        let others = self.others.iter().map(|(link, region)| BufferLocation {
            link: *link,
            addr: region.addr(),
            rkey: region.rkey(),
        });
        std::iter::once(own).chain(others).collect()
    }

    /// Copies `bytes` into the buffer, from byte `offset` on.
    ///
    /// # Errors
    /// The range exceeds the buffer; nothing is written then.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfRange> {
        self.region(offset, bytes.len())?.copy_in(offset, bytes)
    }

    /// Fills `bytes` with a copy of the buffer from byte `offset` on.
    ///
    /// # Errors
    /// The range exceeds the buffer; nothing is read then.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), OutOfRange> {
        self.region(offset, bytes.len())?.copy_out(offset, bytes)
    }

    /// The region, if it contains this range.
    fn region(&self, offset: usize, len: usize) -> Result<&dyn MemoryRegion, OutOfRange> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.len());
        let region = self.block.shared().filter(|_| fits);
        region.map(|region| &**region).ok_or_else(|| OutOfRange {
            range: offset..offset.saturating_add(len),
            len: self.len(),
        })
    }
}

fn link(device: &dyn Device) -> LinkType {
    device.port().link_type
}

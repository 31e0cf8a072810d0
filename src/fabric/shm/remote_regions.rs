//! Memory of the peer, mapped into this process.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use super::borrowed_lot::BorrowedLot;
use super::message::RegionInfo;
use super::region::{Validity, data_offset};
use super::segment::{Segment, View};
use crate::fabric::{Access, MemoryRegion, RemoteSlice};

/// The peer's regions that this queue pair has used.
#[derive(Debug, Default)]
pub(super) struct RemoteRegions {
    mapped: Vec<RemoteRegion>,
    /// Index of the region that was used last.
    last: usize,
    /// A key that the peer has declared unknown.
    unknown: Option<u32>,
}

#[derive(Debug)]
struct RemoteRegion {
    info: RegionInfo,
    validity: View<Validity>,
    segment: Arc<Segment>,
    /// Offset of its bytes in the segment.
    begin: usize,
}

impl RemoteRegion {
    #[inline]
    fn is_valid(&self) -> bool {
        self.validity.is_valid()
    }

    /// Whether it has this key, and still is what the peer grants.
    #[inline]
    fn is(&self, rkey: u32) -> bool {
        self.info.rkey == rkey && self.is_valid()
    }

    #[inline]
    fn locate(&self, addr: u64, length: usize, access: u32) -> Located {
        let info = &self.info;
        let offset = addr
            .checked_sub(info.addr)
            .and_then(|offset| usize::try_from(offset).ok());
        let end = offset.and_then(|offset| offset.checked_add(length));
        match (offset, end) {
            (Some(offset), Some(end))
                if end as u64 <= info.len && info.access & access == access =>
            {
                Located::At(self.segment.at(self.begin + offset))
            }
            _ => Located::Refused,
        }
    }
}

/// The result of looking up a remote slice.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Located {
    /// The slice is mapped at this address.
    At(NonNull<u8>),
    /// The peer has to be asked for the region.
    Ask,
    /// The region does not exist, is too short, does not grant the right, or is no longer
    /// registered.
    Refused,
}

impl RemoteRegions {
    /// Maps the region that the peer sent for a key.
    pub(super) fn add(
        &mut self,
        info: RegionInfo,
        fd: &OwnedFd,
        lot: BorrowedLot,
    ) -> io::Result<()> {
        if self.mapped.iter().any(|region| region.is(info.rkey)) {
            // It was asked for twice.
            return Ok(());
        }
        let len = usize::try_from(info.len).ok();
        let len = len.and_then(|len| len.checked_add(data_offset()));
        let len = len.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the region's length is impossible",
            )
        })?;
        let segment = Arc::new(Segment::open(fd, info.memory.offset, len, Some(lot))?);
        self.mapped.retain(RemoteRegion::is_valid);
        self.mapped.push(RemoteRegion {
            info,
            validity: View::of(&segment, 0).expect("there is a first page"),
            segment,
            begin: data_offset(),
        });
        Ok(())
    }

    /// Notes that the peer has no region with this key.
    pub(super) fn set_unknown(&mut self, rkey: u32) {
        self.unknown = Some(rkey);
    }

    /// Finds `length` bytes at `addr` of the region with `rkey`, if the peer granted `access` to
    /// it.
    // Each message asks for the region of the one before it.
    #[inline(always)]
    pub(super) fn locate(&mut self, rkey: u32, addr: u64, length: usize, access: u32) -> Located {
        match self.mapped.get(self.last) {
            Some(region) if region.is(rkey) => region.locate(addr, length, access),
            _ => self.search(rkey, addr, length, access),
        }
    }

    #[cold]
    fn search(&mut self, rkey: u32, addr: u64, length: usize, access: u32) -> Located {
        match self.mapped.iter().position(|region| region.is(rkey)) {
            Some(at) => {
                self.last = at;
                self.mapped[at].locate(addr, length, access)
            }
            None if self.unknown == Some(rkey) => Located::Refused,
            None => Located::Ask,
        }
    }

    /// Finds `len` bytes at `remote` that the peer lets be written, if they are mapped.
    pub(super) fn place(&mut self, remote: RemoteSlice, len: usize) -> Option<PlacedRegion> {
        let RemoteSlice { addr, rkey } = remote;
        match self.locate(rkey, addr, len, Access::REMOTE_WRITE.bits()) {
            Located::At(first) if len > 0 => {
                let segment = self.mapped[self.last].segment.clone();
                Some(PlacedRegion::new(segment, first, len))
            }
            _ => None,
        }
    }
}

/// Bytes of a region of the peer's. They are not registered here: their only use in a work request
/// is a WRITE to themselves.
#[derive(Debug)]
pub(super) struct PlacedRegion {
    first: NonNull<u8>,
    len: usize,
    /// Keeps the bytes mapped, whatever happens to the connection and the peer.
    _segment: Arc<Segment>,
}

impl PlacedRegion {
    /// The key of all such regions; no registered memory has it.
    pub(super) const KEY: u32 = 0;

    /// Wraps the `len` bytes of `segment` from `first` on.
    pub(super) fn new(segment: Arc<Segment>, first: NonNull<u8>, len: usize) -> Self {
        Self {
            first,
            len,
            _segment: segment,
        }
    }
}

// SAFETY: this is only an address; users of the memory keep to the contract of `MemoryRegion`.
unsafe impl Send for PlacedRegion {}
// SAFETY: as above.
unsafe impl Sync for PlacedRegion {}

// SAFETY: the `len` bytes from `first` on are part of the mapping, which is readable and writable,
// initialised by the kernel, and lives in `_segment`.
unsafe impl MemoryRegion for PlacedRegion {
    fn as_ptr(&self) -> NonNull<u8> {
        self.first
    }

    fn len(&self) -> usize {
        self.len
    }

    fn lkey(&self) -> u32 {
        Self::KEY
    }

    fn rkey(&self) -> u32 {
        Self::KEY
    }
}

//! Rings, and the one place that lends their bytes.
//!
//! A reference to lent bytes needs three things:
//! - *Valid, initialised memory.* [`MemoryRegion`] promises it for as long as the region lives, and a loan keeps that.
//! - *No other access in this process.* A slot is lent to one borrower at a time, which the ring itself enforces; a whole region
//!   belongs to one owner. Nobody else is given the region to copy to or from, and work requests that change lent bytes are
//!   posted only by who holds them, and await their end.
//! - *No change from outside.* Rust does not enforce this: another process or a device writes the memory. The protocol governs
//!   it: a peer writes a slot of a receive ring only while it holds the slot's credit (SLOT-1, RING-1), and is told of memory
//!   beyond the rings only to read it.
//!
//! A peer that breaks the protocol changes bytes under a reader, as a device could with any DMA buffer. Every bit pattern is a
//! byte, so each access gives some value, old or new. Everything in this crate that reads lent bytes validates values after
//! copying them out, and no safety rests on the bytes; who is lent them by a raw method must do so likewise, where the peer is
//! not trusted.

use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Geometry;
use crate::fabric::{Access, Device, FabricError, MemoryRegion, RemoteSlice, Sge};

/// A registered region cut into slots: a receive ring, or the send memory that mirrors one.
#[derive(Debug)]
pub(crate) struct Ring {
    region: Arc<dyn MemoryRegion>,
    base: Base,
    lkey: u32,
    geometry: Geometry,
    lent: Box<[AtomicBool]>,
}

/// Where the memory of the region beside it begins.
#[derive(Debug, Clone, Copy)]
struct Base(NonNull<u8>);

// SAFETY: only an address; what is read and written through it is governed by the ring's loans.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}

impl Ring {
    /// Registers a ring that the peer writes into.
    pub(crate) fn receive(device: &dyn Device, geometry: Geometry) -> Result<Self, FabricError> {
        Self::register(device, geometry, Access::LOCAL_WRITE | Access::REMOTE_WRITE)
    }

    /// Registers memory to send from.
    pub(crate) fn send(device: &dyn Device, geometry: Geometry) -> Result<Self, FabricError> {
        Self::register(device, geometry, Access::LOCAL_READ)
    }

    fn register(
        device: &dyn Device,
        geometry: Geometry,
        access: Access,
    ) -> Result<Self, FabricError> {
        let region = device.register(geometry.len(), access)?;
        assert!(
            region.len() >= geometry.len(),
            "a device registers what it was asked for"
        );
        Ok(Self {
            base: Base(region.as_ptr()),
            lkey: region.lkey(),
            region,
            geometry,
            lent: (0..geometry.slots())
                .map(|_| AtomicBool::new(false))
                .collect(),
        })
    }

    /// The region, to be told to the peer.
    pub(crate) fn region(&self) -> &dyn MemoryRegion {
        &*self.region
    }

    /// Some bytes of a slot, for a work request.
    #[inline]
    pub(crate) fn sge(&self, slot: u16, bytes: &Range<usize>) -> Sge {
        debug_assert!(bytes.end <= self.geometry.slot_size());
        Sge {
            addr: self.base.0.as_ptr() as u64 + (self.geometry.offset(slot) + bytes.start) as u64,
            length: bytes.len() as u32,
            lkey: self.lkey,
        }
    }

    /// Whether there is such a slot.
    #[inline]
    pub(crate) fn has(&self, slot: u16) -> bool {
        usize::from(slot) < self.geometry.slots()
    }

    /// Lends a slot until the loan is dropped. `None` if there is no such slot or it is lent already.
    #[inline]
    pub(crate) fn lend(&self, slot: u16) -> Option<Loan<'_>> {
        // Made only if the slot was free, as dropping a loan frees it.
        self.take(slot).then(|| Lent { ring: self, slot })
    }

    /// The same; the loan keeps the ring.
    pub(crate) fn lend_shared(self: &Arc<Self>, slot: u16) -> Option<Lent<Arc<Self>>> {
        self.take(slot).then(|| Lent {
            ring: self.clone(),
            slot,
        })
    }

    /// Marks a slot as lent, unless it is or does not exist.
    #[inline]
    fn take(&self, slot: u16) -> bool {
        let lent = self.lent.get(usize::from(slot));
        lent.is_some_and(|lent| !lent.swap(true, Ordering::Acquire))
    }

    #[inline]
    fn slot_ptr(&self, slot: u16) -> *mut u8 {
        // SAFETY: loans exist only for slots below `geometry.slots()`, and `register` made sure that the
        // region covers `geometry.len()` bytes, so the offset stays inside it.
        unsafe { self.base.0.as_ptr().add(self.geometry.offset(slot)) }
    }
}

/// The bytes of one slot, lent by a ring that is borrowed or shared.
#[derive(Debug)]
pub(crate) struct Lent<R: Deref<Target = Ring>> {
    ring: R,
    slot: u16,
}

/// Lent by a ring that is borrowed.
pub(crate) type Loan<'a> = Lent<&'a Ring>;

impl<R: Deref<Target = Ring>> Deref for Lent<R> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the pointer is valid for `slot_size` initialised bytes while the region lives, which the ring holds and this
        // loan borrows or shares. The `lent` flag, which was taken with Acquire and is given back with Release, excludes
        // another loan of the slot, so no `&mut` to its bytes exists in this process. The peer writes them only while it holds
        // the slot's credit; see the module about one that does not keep to that.
        unsafe {
            std::slice::from_raw_parts(
                self.ring.slot_ptr(self.slot),
                self.ring.geometry.slot_size(),
            )
        }
    }
}

impl<R: Deref<Target = Ring>> DerefMut for Lent<R> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` and the `lent` flag make this the only reference. The memory is writable by the
        // contract of `MemoryRegion`.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.ring.slot_ptr(self.slot),
                self.ring.geometry.slot_size(),
            )
        }
    }
}

impl<R: Deref<Target = Ring>> Drop for Lent<R> {
    #[inline]
    fn drop(&mut self) {
        self.ring.lent[usize::from(self.slot)].store(false, Ordering::Release);
    }
}

/// A whole region, lent to its one owner.
///
/// A peer may read it while we do; nothing writes it meanwhile but the owner, through `&mut`, a READ that the owner has
/// posted and whose end it awaits, or a peer that the owner has allowed to write, see the [module](self).
#[derive(Debug)]
pub(super) struct Whole(Arc<dyn MemoryRegion>);

impl Whole {
    /// Registers memory, with which peers may do what `access` says.
    pub(super) fn register(
        device: &dyn Device,
        len: usize,
        access: Access,
    ) -> Result<Self, FabricError> {
        Ok(Self(device.register(len, access)?))
    }

    /// The region, for work requests.
    pub(super) fn region(&self) -> &dyn MemoryRegion {
        &*self.0
    }

    /// The same, to be registered with other devices: they use it as peers do.
    pub(super) fn shared(&self) -> &Arc<dyn MemoryRegion> {
        &self.0
    }
}

impl Deref for Whole {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the region is valid for `len` initialised bytes while it lives, and it lives as long as `self`. Only this
        // makes references to its bytes, so `&self` excludes a `&mut` to the same ones. Whoever has the region by `shared`
        // registers it with other devices; a `Buffer`, which copies to and from it while peers write, makes no reference. A
        // READ into it, or an allowed peer's write, takes place only while its owner awaits that; see the type.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().as_ptr(), self.0.len()) }
    }
}

impl DerefMut for Whole {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr().as_ptr(), self.0.len()) }
    }
}

/// The peer's ring, as we write into it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RemoteRing {
    /// Address of its first byte.
    pub(crate) addr: u64,
    /// Its key.
    pub(crate) rkey: u32,
    /// Its shape; equal to ours.
    pub(crate) geometry: Geometry,
}

impl RemoteRing {
    #[inline]
    pub(crate) fn slot(&self, slot: u16) -> RemoteSlice {
        RemoteSlice {
            addr: self.addr.wrapping_add(self.geometry.offset(slot) as u64),
            rkey: self.rkey,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread;

    use super::*;
    use crate::fabric::heap::HeapDevice;

    #[test]
    fn ring_1_a_slot_is_lent_to_one_borrower_at_a_time() {
        let geometry = Geometry::new(2, 64).unwrap();
        let ring = Arc::new(Ring::receive(&HeapDevice::default(), geometry).unwrap());
        let loan = ring.lend(0).unwrap();
        for _ in 0..2 {
            assert!(ring.lend(0).is_none(), "a refusal does not free the slot");
            assert!(ring.lend_shared(0).is_none());
        }
        assert!(ring.lend(2).is_none(), "there is no such slot");
        drop(loan);
        let loan = ring.lend_shared(0).unwrap();
        assert!(ring.lend(0).is_none());
        assert!(ring.lend(1).is_some());
        drop(loan);
        assert!(ring.lend(0).is_some());
    }

    #[test]
    fn ring_1_threads_hand_a_slot_over_by_its_loan_alone() {
        let geometry = Geometry::new(2, 64).unwrap();
        let ring = Arc::new(Ring::receive(&HeapDevice::default(), geometry).unwrap());
        thread::scope(|scope| {
            for number in 1..=3 {
                let ring = &ring;
                scope.spawn(move || {
                    let mut lent = 0;
                    while lent < 20 {
                        let Some(mut loan) = ring.lend(1) else {
                            thread::yield_now();
                            continue;
                        };
                        let before = loan[0];
                        assert!(loan.iter().all(|byte| *byte == before));
                        loan.fill(number);
                        lent += 1;
                    }
                });
            }
        });
        assert!(ring.lend(0).unwrap().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_whole_region_is_read_and_written_by_its_owner() {
        let device = HeapDevice::default();
        let mut whole = Whole::register(&device, 100, Access::LOCAL_WRITE).unwrap();
        whole[99] = 7;
        assert_eq!((whole.len(), whole[0], whole[99]), (100, 0, 7));
        let mut back = [0; 2];
        whole.region().copy_out(98, &mut back).unwrap();
        assert_eq!(back, [0, 7]);
    }
}

//! Rings, and the only code that lends their bytes.
//!
//! A reference to lent bytes needs three things:
//! - *Valid, initialised memory.* [`MemoryRegion`] promises it for as long as the region lives, and
//!   a loan keeps that.
//! - *No other access in this process.* A slot has one token, which is moved and lent but never
//!   copied; a whole region belongs to one owner. Nobody else is given the region to copy to or
//!   from, and work requests that change lent bytes are posted only by who holds them, and await
//!   their end.
//! - *No change from outside.* Rust does not enforce this: another process or a device writes the
//!   memory. The protocol governs it: a peer writes a slot of a receive ring only while it holds
//!   the slot's credit (SLOT-1, RING-1), and is given memory beyond the rings only to read it. A
//!   message may be made in the peer's ring: its maker holds the slot's credit, and the peer does
//!   not look at the slot before the message arrives.
//!
//! A peer that breaks the protocol changes bytes under a reader, or under the maker of a message in
//! its ring, as a device could with any DMA buffer. It may look at such a message before it is
//! whole. Every bit pattern is a byte, so each access gives some value, old or new. All code in
//! this crate that reads lent bytes copies values out before it validates them, and no safety rests
//! on the bytes. A raw method must do the same where its peer is not trusted.

use std::num::NonZeroU64;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::registered::CountedRegion;
use super::{Geometry, RingAddress};
use crate::fabric::{Access, Device, FabricError, MemoryRegion, RemoteSlice};

/// A registered region divided into slots: a receive ring, or the send memory that mirrors one. The
/// owner of a slot's [token](SlotToken) has its bytes.
#[derive(Debug)]
pub(crate) struct Ring {
    /// The region, and, once it can be written in place, the peer's ring, of which this one is the
    /// mirror. Empty after [`release`](Self::release), when no token exists any more.
    regions: Mutex<Vec<Arc<dyn MemoryRegion>>>,
    lkey: u32,
    /// Address and key of the peer's ring. Null while it cannot be written in place.
    placed: (AtomicPtr<u8>, AtomicU32),
    geometry: Geometry,
    number: NonZeroU64,
    /// Number of tokens that have not been retired.
    tokens: usize,
    _counted: CountedRegion,
}

/// The right to the bytes of one slot of one ring. Each slot has one token, which is moved and
/// never copied, and borrowed as its bytes are: two never exist at a time.
#[derive(Debug)]
pub(crate) struct SlotToken {
    ring: NonZeroU64,
    /// Address of its bytes: in the ring's own region, or in the peer's ring.
    first: NonNull<u8>,
    /// Key of that region.
    lkey: u32,
    slot: u16,
}

// SAFETY: to it `first` is only an address; a `Ring` makes references of it, to bytes that any
// thread may use.
unsafe impl Send for SlotToken {}
// SAFETY: as above.
unsafe impl Sync for SlotToken {}

impl SlotToken {
    /// Number of the slot.
    #[inline]
    pub(crate) fn slot(&self) -> u16 {
        self.slot
    }

    /// Key of the region of its bytes, for work requests.
    #[inline]
    pub(crate) fn lkey(&self) -> u32 {
        self.lkey
    }

    /// Makes a token of no ring.
    #[cfg(test)]
    pub(crate) fn of_nothing(slot: u16) -> Self {
        Self {
            ring: NonZeroU64::MAX,
            first: NonNull::dangling(),
            lkey: 0,
            slot,
        }
    }
}

impl Ring {
    /// Registers a ring that the peer writes into.
    pub(crate) fn receive(
        device: &dyn Device,
        geometry: Geometry,
    ) -> Result<(Self, Vec<SlotToken>), FabricError> {
        Self::register(device, geometry, Access::LOCAL_WRITE | Access::REMOTE_WRITE)
    }

    /// Registers memory to send from.
    pub(crate) fn send(
        device: &dyn Device,
        geometry: Geometry,
    ) -> Result<(Self, Vec<SlotToken>), FabricError> {
        Self::register(device, geometry, Access::LOCAL_READ)
    }

    fn register(
        device: &dyn Device,
        geometry: Geometry,
        access: Access,
    ) -> Result<(Self, Vec<SlotToken>), FabricError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let region = device.register(geometry.len(), access)?;
        assert!(
            region.len() >= geometry.len(),
            "a device registers what it was asked for"
        );
        let first = region.as_ptr();
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let number = NonZeroU64::new(next).unwrap_or(NonZeroU64::MIN);
        let ring = Self {
            lkey: region.lkey(),
            placed: (AtomicPtr::default(), AtomicU32::default()),
            regions: Mutex::new(vec![region]),
            geometry,
            number,
            tokens: geometry.slots(),
            _counted: CountedRegion::new(geometry.len()),
        };
        let slots = 0..geometry.slots();
        let tokens = slots.map(|slot| ring.token(first, ring.lkey, slot as u16));
        let tokens = tokens.collect();
        Ok((ring, tokens))
    }

    /// Makes the token of a slot below `geometry.slots()`, whose bytes are in the region that
    /// begins at `first`. The region is one of `regions`, and covers the geometry.
    fn token(&self, first: NonNull<u8>, lkey: u32, slot: u16) -> SlotToken {
        // SAFETY: the slot ends inside the region, which covers `geometry.len()` bytes. It lives,
        // as there are tokens.
        let first = unsafe { first.add(self.geometry.offset(slot)) };
        SlotToken {
            ring: self.number,
            first,
            lkey,
            slot,
        }
    }

    /// From now on messages are made in `peers`, the ring that they are sent to: for each slot from
    /// its next [renewal](Self::renew) on.
    pub(crate) fn place(&self, peers: Arc<dyn MemoryRegion>) {
        let (first, lkey) = (peers.as_ptr().as_ptr(), peers.lkey());
        let mut regions = self.regions();
        // Only the first call has an effect.
        if peers.len() >= self.geometry.len() && regions.len() == 1 {
            regions.push(peers);
            self.placed.1.store(lkey, Ordering::Relaxed);
            self.placed.0.store(first, Ordering::Release);
        }
    }

    /// Prepares the slot of `token` for a new message. The one that was made there before has been
    /// sent, or never will be.
    #[inline]
    pub(crate) fn renew(&self, token: &mut SlotToken) {
        if token.lkey == self.lkey
            && let Some(first) = NonNull::new(self.placed.0.load(Ordering::Acquire))
        {
            self.check(token);
            *token = self.token(first, self.placed.1.load(Ordering::Relaxed), token.slot);
        }
    }

    #[inline]
    fn check(&self, token: &SlotToken) {
        assert_eq!(token.ring, self.number, "a token is used with its ring");
    }

    /// Location of the ring, for the peer.
    pub(crate) fn address(&self) -> RingAddress {
        let regions = self.regions();
        let region = regions.first();
        let region = region.expect("its address is told before it is used");
        RingAddress::of(&**region, self.geometry)
    }

    /// Retires tokens whose slots will not be used any more.
    pub(crate) fn retire(&mut self, tokens: Vec<SlotToken>) {
        for token in tokens {
            self.check(&token);
            self.tokens -= 1;
        }
    }

    /// Frees the memory: `tokens` are all that exist, so nobody can reach its bytes any more. No
    /// queue pair may use it (DROP-1).
    pub(crate) fn release(&self, tokens: Vec<SlotToken>) {
        tokens.iter().for_each(|token| self.check(token));
        assert_eq!(tokens.len(), self.tokens, "nobody has a token any more");
        self.regions().clear();
    }

    fn regions(&self) -> MutexGuard<'_, Vec<Arc<dyn MemoryRegion>>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Borrows the bytes of a slot.
    #[inline]
    pub(crate) fn bytes<'a>(&'a self, token: &'a SlotToken) -> &'a [u8] {
        self.check(token);
        // SAFETY: the pointer of a token of this ring is valid for the initialised bytes of its
        // slot while their region lives, see `token`. The result borrows the ring, which holds its
        // regions until it is given all tokens, and the one token of the slot; so until then the
        // region lives, and no `&mut` to the bytes exists in this process. The peer writes them
        // only while it holds the slot's credit; see the module about one that does not keep to
        // that.
        unsafe { std::slice::from_raw_parts(token.first.as_ptr(), self.geometry.slot_size()) }
    }

    /// Borrows the bytes of a slot mutably.
    #[inline]
    pub(crate) fn bytes_mut<'a>(&'a self, token: &'a mut SlotToken) -> &'a mut [u8] {
        self.check(token);
        // SAFETY: as in `bytes`; the one token of the slot is borrowed mutably, so this is the only
        // reference. The memory is writable by the contract of `MemoryRegion`.
        unsafe { std::slice::from_raw_parts_mut(token.first.as_ptr(), self.geometry.slot_size()) }
    }
}

/// A whole region that belongs to one owner.
///
/// A peer may read it at the same time. Only the owner writes it, through `&mut`; or a READ that
/// the owner has posted and whose end it awaits; or a peer that the owner has allowed to write, as
/// the [module](self) describes.
#[derive(Debug)]
pub(super) struct OwnedRegion {
    region: Arc<dyn MemoryRegion>,
    _counted: CountedRegion,
}

impl OwnedRegion {
    /// Registers memory that peers may use as `access` allows.
    pub(super) fn register(
        device: &dyn Device,
        len: usize,
        access: Access,
    ) -> Result<Self, FabricError> {
        let region = device.register(len, access)?;
        Ok(Self {
            region,
            _counted: CountedRegion::new(len),
        })
    }

    /// The region, for work requests.
    pub(super) fn region(&self) -> &dyn MemoryRegion {
        &*self.region
    }

    /// The region, to register it with other devices: they use it as peers do.
    pub(super) fn shared(&self) -> &Arc<dyn MemoryRegion> {
        &self.region
    }
}

impl Deref for OwnedRegion {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the region is valid for `len` initialised bytes while it lives, and it lives as
        // long as `self`. Only this makes references to its bytes, so `&self` excludes a `&mut` to
        // the same ones. A user of `shared` registers the region with other devices; a `Buffer`,
        // which copies to and from it while peers write, makes no reference. A READ into it, or an
        // allowed peer's write, takes place only while its owner awaits that; see the type.
        unsafe { std::slice::from_raw_parts(self.region.as_ptr().as_ptr(), self.region.len()) }
    }
}

impl DerefMut for OwnedRegion {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.region.as_ptr().as_ptr(), self.region.len()) }
    }
}

/// The peer's ring, as this side writes into it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RemoteRing {
    /// Address of the first byte.
    pub(crate) addr: u64,
    /// Key of the ring.
    pub(crate) rkey: u32,
    /// Shape of the ring; equal to this side's.
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

    fn ring() -> (Ring, Vec<SlotToken>) {
        let geometry = Geometry::new(2, 64).unwrap();
        Ring::receive(&HeapDevice::default(), geometry).unwrap()
    }

    #[test]
    fn ring_1_a_slot_has_one_token_and_no_other_ring_takes_it() {
        let ((ring, mut tokens), (other, _)) = (ring(), ring());
        assert_eq!(
            tokens.iter().map(SlotToken::slot).collect::<Vec<_>>(),
            [0, 1]
        );
        ring.bytes_mut(&mut tokens[1]).fill(7);
        assert!(ring.bytes(&tokens[0]).iter().all(|byte| *byte == 0));
        assert!(ring.bytes(&tokens[1]).iter().all(|byte| *byte == 7));
        let foreign = || other.bytes(&tokens[0]).len();
        assert!(crate::panics::contain(foreign).is_err());
    }

    #[test]
    fn ring_1_threads_hand_a_slot_over_by_its_token_alone() {
        let (ring, mut tokens) = ring();
        let token = Mutex::new(tokens.remove(1));
        thread::scope(|scope| {
            for number in 1..=3 {
                let (ring, token) = (&ring, &token);
                scope.spawn(move || {
                    for _ in 0..20 {
                        let mut token = token.lock().unwrap();
                        let bytes = ring.bytes_mut(&mut token);
                        let before = bytes[0];
                        assert!(bytes.iter().all(|byte| *byte == before));
                        bytes.fill(number);
                    }
                });
            }
        });
        assert!(ring.bytes(&tokens[0]).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_message_is_made_in_the_ring_that_it_is_sent_to_once_that_is_placed() {
        let device = HeapDevice::default();
        let geometry = Geometry::new(2, 64).unwrap();
        let (ring, mut tokens) = Ring::send(&device, geometry).unwrap();
        let peers = device.register(geometry.len(), Access::ALL).unwrap();
        let first = |slot: u16| {
            let mut byte = [0];
            let offset = geometry.offset(slot);
            peers.copy_out(offset, &mut byte).unwrap();
            byte[0]
        };
        ring.renew(&mut tokens[0]);
        ring.bytes_mut(&mut tokens[0])[0] = 1;
        // One that is too small would be left.
        ring.place(device.register(geometry.len() - 1, Access::ALL).unwrap());
        ring.renew(&mut tokens[1]);
        assert_eq!(tokens[1].lkey(), ring.lkey);
        ring.place(peers.clone());
        // What has yet to be sent stays where it is.
        assert_eq!((ring.bytes(&tokens[0])[0], first(0)), (1, 0));
        assert_eq!(tokens[0].lkey(), ring.lkey);
        for (slot, token) in (0..).zip(&mut tokens) {
            ring.renew(token);
            let bytes = ring.bytes_mut(token);
            bytes[0] = 7;
            assert_eq!(bytes.len(), 64);
            assert_eq!(first(slot), 7);
            assert_eq!((token.slot(), token.lkey()), (slot, peers.lkey()));
        }
        // Of another device, where keys are the same.
        let (_other, mut foreign) = Ring::send(&HeapDevice::default(), geometry).unwrap();
        assert_eq!(foreign[0].lkey(), ring.lkey);
        assert!(crate::panics::contain(|| ring.renew(&mut foreign[0])).is_err());
        // DROP-1: they are all given back.
        let held = Arc::downgrade(&peers);
        drop(peers);
        assert_eq!(held.strong_count(), 1);
        ring.release(tokens);
        assert_eq!(held.strong_count(), 0);
    }

    #[test]
    fn a_whole_region_is_read_and_written_by_its_owner() {
        let device = HeapDevice::default();
        let mut whole = OwnedRegion::register(&device, 100, Access::LOCAL_WRITE).unwrap();
        whole[99] = 7;
        assert_eq!((whole.len(), whole[0], whole[99]), (100, 0, 7));
        let mut back = [0; 2];
        whole.region().copy_out(98, &mut back).unwrap();
        assert_eq!(back, [0, 7]);
    }
}

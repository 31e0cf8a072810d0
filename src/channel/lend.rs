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
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::geometry::RingShape;
use super::registered::CountedRegion;
use super::{Geometry, RingAddress};
use crate::fabric::{Access, Device, FabricError, MemoryRegion, RemoteSlice};

/// Registered memory divided into slots: a receive ring, or the send memory that mirrors one. The
/// owner of a slot's [token](SlotToken) has its bytes.
#[derive(Debug)]
pub(crate) struct Ring {
    /// What its slots lie in. Empty after [`release`](Self::release), when no token exists any
    /// more.
    regions: Mutex<Vec<HeldRegion>>,
    /// Its slots at the beginning, and once it has [grown](Self::grow).
    slots: [OnceLock<Slots>; 2],
    /// Sizes of the slots at the beginning, and once it has grown.
    slot_sizes: [usize; 2],
    shape: RingShape,
    number: NonZeroU64,
    /// Number of tokens that have not been retired.
    tokens: usize,
}

/// A region that slots of a ring lie in.
#[derive(Debug)]
struct HeldRegion {
    _region: Arc<dyn MemoryRegion>,
    /// `None` if it is the peer's.
    _counted: Option<CountedRegion>,
}

/// Large slots that were registered for a ring.
#[derive(Debug)]
pub(super) struct Growing(Option<(Slots, HeldRegion)>);

/// Slots of one size.
#[derive(Debug)]
struct Slots {
    first: NonNull<u8>,
    lkey: u32,
    address: RingAddress,
    geometry: Geometry,
    /// Address and key of the peer's ring, of which these are the mirror. Null while that cannot be
    /// written in place.
    placed: (AtomicPtr<u8>, AtomicU32),
}

// SAFETY: `first` is only an address here; a `Ring` makes references of it, to bytes that any
// thread may use.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

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
    /// Whether it is one of the large slots of a ring that has grown.
    is_large: bool,
    /// Whether its bytes are in the peer's ring.
    is_placed: bool,
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

    /// Whether it is one of the large slots of a ring that has grown.
    #[inline]
    pub(crate) fn is_large(&self) -> bool {
        self.is_large
    }

    /// Makes a token of no ring.
    #[cfg(test)]
    pub(crate) fn of_nothing(slot: u16) -> Self {
        Self {
            ring: NonZeroU64::MAX,
            first: NonNull::dangling(),
            lkey: 0,
            slot,
            is_large: false,
            is_placed: false,
        }
    }
}

impl Slots {
    /// The token of a slot of the ring with this `number`, below `geometry.slots()`.
    fn token(&self, number: NonZeroU64, slot: u16) -> SlotToken {
        SlotToken {
            ring: number,
            // SAFETY: the slot ends inside the region, which covers `geometry.len()` bytes. It
            // lives: the ring holds it until it is given all tokens.
            first: unsafe { self.first.add(self.geometry.offset(slot)) },
            lkey: self.lkey,
            slot,
            is_large: false,
            is_placed: false,
        }
    }
}

impl Ring {
    /// Registers a ring that the peer writes into.
    pub(crate) fn receive(
        device: &dyn Device,
        shape: RingShape,
    ) -> Result<(Self, Vec<SlotToken>), FabricError> {
        Self::register(device, shape, Access::LOCAL_WRITE | Access::REMOTE_WRITE)
    }

    /// Registers memory to send from.
    pub(crate) fn send(
        device: &dyn Device,
        shape: RingShape,
    ) -> Result<(Self, Vec<SlotToken>), FabricError> {
        Self::register(device, shape, Access::LOCAL_READ)
    }

    fn register(
        device: &dyn Device,
        shape: RingShape,
        access: Access,
    ) -> Result<(Self, Vec<SlotToken>), FabricError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (slots, region) = Self::slots(device, shape.first, access)?;
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let number = NonZeroU64::new(next).unwrap_or(NonZeroU64::MIN);
        let tokens = 0..shape.first.slots();
        let tokens = tokens.map(|slot| slots.token(number, slot as u16));
        let tokens = tokens.collect();
        let large = shape.grown.map_or(0, |grown| grown.slot_size());
        let ring = Self {
            regions: Mutex::new(vec![region]),
            slots: [slots.into(), OnceLock::new()],
            slot_sizes: [shape.first.slot_size(), large],
            shape,
            number,
            tokens: shape.first.slots(),
        };
        Ok((ring, tokens))
    }

    fn slots(
        device: &dyn Device,
        geometry: Geometry,
        access: Access,
    ) -> Result<(Slots, HeldRegion), FabricError> {
        let region = device.register(geometry.len(), access)?;
        assert!(
            region.len() >= geometry.len(),
            "a device registers what it was asked for"
        );
        let slots = Slots {
            first: region.as_ptr(),
            lkey: region.lkey(),
            address: RingAddress::of(&*region, geometry),
            geometry,
            placed: (AtomicPtr::default(), AtomicU32::default()),
        };
        let held = HeldRegion {
            _region: region,
            _counted: Some(CountedRegion::new(geometry.len())),
        };
        Ok((slots, held))
    }

    /// Registers large slots for a ring that the peer writes into, to [grow](Self::grow) by.
    pub(super) fn prepare_receive(&self, device: &dyn Device) -> Result<Growing, FabricError> {
        self.prepare(device, Access::LOCAL_WRITE | Access::REMOTE_WRITE)
    }

    /// Registers large slots to send from, to [grow](Self::grow) by.
    pub(super) fn prepare_send(&self, device: &dyn Device) -> Result<Growing, FabricError> {
        self.prepare(device, Access::LOCAL_READ)
    }

    fn prepare(&self, device: &dyn Device, access: Access) -> Result<Growing, FabricError> {
        let grown = self.shape.grown;
        let slots = grown.map(|grown| Self::slots(device, grown, access));
        slots.transpose().map(Growing)
    }

    /// Has large slots from now on, which its tokens are moved to [one by one](Self::enlarge). Only
    /// the first call has an effect.
    pub(super) fn grow(&self, growing: Growing) {
        let Some((slots, region)) = growing.0 else {
            return;
        };
        let mut regions = self.regions();
        // Not after the ring's release: nobody would free it. They are of the ring's own shape, as
        // nobody else is given the parts of it.
        let is_of_this = self.shape.grown == Some(slots.geometry);
        if is_of_this && !regions.is_empty() && self.slots[1].set(slots).is_ok() {
            regions.push(region);
        }
    }

    /// Where its large slots are, for the peer; `None` while it has none.
    pub(crate) fn grown_address(&self) -> Option<RingAddress> {
        Some(self.slots[1].get()?.address)
    }

    /// Moves `token` to the large slot of its number. What stands in its slot is not needed any
    /// more. Returns whether there is one.
    #[cold]
    pub(crate) fn enlarge(&self, token: &mut SlotToken) -> bool {
        self.check(token);
        let grown = self.slots[1].get();
        let grown = grown.filter(|it| usize::from(token.slot) < it.geometry.slots());
        if let (Some(grown), false) = (grown, token.is_large) {
            *token = SlotToken {
                is_large: true,
                ..grown.token(self.number, token.slot)
            };
        }
        token.is_large
    }

    /// From now on messages are made in `peers`, the ring that they are sent to, of large slots or
    /// of those of the beginning: for each slot from its next [renewal](Self::renew) on.
    pub(crate) fn place(&self, peers: Arc<dyn MemoryRegion>, is_large: bool) {
        let (first, lkey) = (peers.as_ptr().as_ptr(), peers.lkey());
        let mut regions = self.regions();
        let Some(slots) = self.slots[usize::from(is_large)].get() else {
            return;
        };
        let is_placed = !slots.placed.0.load(Ordering::Relaxed).is_null();
        // A peer may say that both of its rings are at one place, and then two tokens would reach
        // the same bytes.
        let other = self.slots[usize::from(!is_large)].get();
        let overlaps = other.is_some_and(|other| {
            let begin = other.placed.0.load(Ordering::Relaxed).addr();
            let end = begin + other.geometry.len();
            begin != 0 && first.addr() < end && begin < first.addr() + peers.len()
        });
        let is_free = !is_placed && !overlaps;
        // Only the first call has an effect.
        if peers.len() >= slots.geometry.len() && is_free && !regions.is_empty() {
            regions.push(HeldRegion {
                _region: peers,
                _counted: None,
            });
            slots.placed.1.store(lkey, Ordering::Relaxed);
            slots.placed.0.store(first, Ordering::Release);
        }
    }

    /// Returns whether messages for these slots are made in the peer's ring, or there are no such
    /// slots.
    pub(crate) fn is_placed(&self, is_large: bool) -> bool {
        let slots = self.slots[usize::from(is_large)].get();
        slots.is_none_or(|slots| !slots.placed.0.load(Ordering::Relaxed).is_null())
    }

    /// Prepares the slot of `token` for a new message. The one that was made there before has been
    /// sent, or never will be.
    #[inline]
    pub(crate) fn renew(&self, token: &mut SlotToken) {
        if !token.is_placed
            && let Some(slots) = self.slots[usize::from(token.is_large)].get()
            && let Some(first) = NonNull::new(slots.placed.0.load(Ordering::Acquire))
        {
            self.check(token);
            // SAFETY: the peer's region covers `geometry.len()` bytes, and the slot, which is one
            // of that geometry, ends inside. The ring holds the region as its own.
            token.first = unsafe { first.add(slots.geometry.offset(token.slot)) };
            token.lkey = slots.placed.1.load(Ordering::Relaxed);
            token.is_placed = true;
        }
    }

    #[inline]
    fn check(&self, token: &SlotToken) {
        assert_eq!(token.ring, self.number, "a token is used with its ring");
    }

    /// Location of the ring at the beginning, for the peer.
    pub(crate) fn address(&self) -> RingAddress {
        let slots = self.slots[0].get();
        slots.expect("a ring begins with slots").address
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

    fn regions(&self) -> MutexGuard<'_, Vec<HeldRegion>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn slot_size(&self, token: &SlotToken) -> usize {
        self.slot_sizes[usize::from(token.is_large)]
    }

    /// Borrows the bytes of a slot.
    #[inline]
    pub(crate) fn bytes<'a>(&'a self, token: &'a SlotToken) -> &'a [u8] {
        self.check(token);
        // SAFETY: the pointer of a token of this ring is valid for the initialised bytes of its
        // slot while their region lives, see `Slots::token` and `renew`. The result borrows the
        // ring, which holds its regions until it is given all tokens, and the one token of the
        // slot, which no other slot's bytes overlap, see `place`; so until then the region lives,
        // and no `&mut` to the bytes exists in this process. The peer writes them only while it
        // holds the slot's credit; see the module about one that does not keep to that.
        unsafe { std::slice::from_raw_parts(token.first.as_ptr(), self.slot_size(token)) }
    }

    /// Borrows the bytes of a slot mutably.
    #[inline]
    pub(crate) fn bytes_mut<'a>(&'a self, token: &'a mut SlotToken) -> &'a mut [u8] {
        self.check(token);
        // SAFETY: as in `bytes`; the one token of the slot is borrowed mutably, so this is the only
        // reference. The memory is writable by the contract of `MemoryRegion`.
        unsafe { std::slice::from_raw_parts_mut(token.first.as_ptr(), self.slot_size(token)) }
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

/// The peer's ring at the beginning, and once it has grown.
#[derive(Debug, Clone, Copy)]
pub(super) struct RemoteRings {
    rings: [RemoteRing; 2],
    has_grown: bool,
}

impl RemoteRings {
    pub(super) fn new(first: RemoteRing) -> Self {
        Self {
            rings: [first; 2],
            has_grown: false,
        }
    }

    /// The ring at the beginning.
    pub(super) fn first(&self) -> &RemoteRing {
        &self.rings[0]
    }

    /// The ring of large slots, once the peer has said where it is.
    pub(super) fn grown(&self) -> Option<&RemoteRing> {
        self.has_grown.then_some(&self.rings[1])
    }

    pub(super) fn set_grown(&mut self, grown: RemoteRing) {
        self.rings[1] = grown;
        self.has_grown = true;
    }

    /// Where the message in the slot of `token` goes. A slot is large only once the peer has grown.
    #[inline]
    pub(super) fn to(&self, token: &SlotToken) -> RemoteSlice {
        self.rings[usize::from(token.is_large)].slot(token.slot)
    }
}

impl RemoteRing {
    /// Returns whether some bytes are in both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let end = |ring: &Self| ring.addr.saturating_add(ring.geometry.len() as u64);
        self.rkey == other.rkey && self.addr < end(other) && other.addr < end(self)
    }

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
    use crate::channel::Profile;
    use crate::fabric::heap::HeapDevice;

    fn ring() -> (Ring, Vec<SlotToken>) {
        Ring::receive(&HeapDevice::default(), of(2, 64)).unwrap()
    }

    /// The shape of rings that do not grow.
    fn of(slots: usize, slot_size: usize) -> RingShape {
        RingShape::of(Geometry::new(slots, slot_size).unwrap(), Profile::Native)
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
        let (ring, mut tokens) = Ring::send(&device, of(2, 64)).unwrap();
        let own = tokens[0].lkey();
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
        ring.place(
            device.register(geometry.len() - 1, Access::ALL).unwrap(),
            false,
        );
        ring.renew(&mut tokens[1]);
        assert_eq!(tokens[1].lkey(), own);
        assert!(!ring.is_placed(false));
        ring.place(peers.clone(), false);
        assert!(ring.is_placed(false));
        // What has yet to be sent stays where it is.
        assert_eq!((ring.bytes(&tokens[0])[0], first(0)), (1, 0));
        assert_eq!(tokens[0].lkey(), own);
        for (slot, token) in (0..).zip(&mut tokens) {
            ring.renew(token);
            let bytes = ring.bytes_mut(token);
            bytes[0] = 7;
            assert_eq!(bytes.len(), 64);
            assert_eq!(first(slot), 7);
            assert_eq!((token.slot(), token.lkey()), (slot, peers.lkey()));
        }
        // Of another device, where keys are the same.
        let (_other, mut foreign) = Ring::send(&HeapDevice::default(), of(2, 64)).unwrap();
        assert_eq!(foreign[0].lkey(), own);
        assert!(crate::panics::contain(|| ring.renew(&mut foreign[0])).is_err());
        // DROP-1: they are all given back.
        let held = Arc::downgrade(&peers);
        drop(peers);
        assert_eq!(held.strong_count(), 1);
        ring.release(tokens);
        assert_eq!(held.strong_count(), 0);
    }

    #[test]
    fn ring_1_the_token_of_a_slot_moves_to_the_large_slot_of_its_number() {
        let device = HeapDevice::default();
        let shape = of(2, 4 << 20);
        let (ring, mut tokens) = Ring::receive(&device, shape).unwrap();
        let first = ring.address();
        assert!(!ring.enlarge(&mut tokens[0]), "there is none yet");
        assert!(ring.is_placed(true) && ring.grown_address().is_none());
        ring.bytes_mut(&mut tokens[0]).fill(1);
        ring.grow(ring.prepare_receive(&device).unwrap());
        let grown = ring.grown_address().unwrap();
        // Once is enough.
        ring.grow(ring.prepare_receive(&device).unwrap());
        assert_eq!((ring.address(), ring.grown_address()), (first, Some(grown)));
        assert_eq!(grown.length, 8 << 20);
        assert!(ring.enlarge(&mut tokens[0]) && ring.enlarge(&mut tokens[0]));
        let bytes = ring.bytes_mut(&mut tokens[0]);
        assert_eq!(bytes.len(), 4 << 20);
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes.fill(2);
        assert_eq!(bytes.as_ptr() as u64, grown.addr);
        assert_eq!(tokens[0].slot(), 0);
        // The others are where they were, and the last has no large one.
        assert!(tokens[1..].iter().all(|it| !it.is_large()));
        assert!(ring.bytes(&tokens[1]).iter().all(|byte| *byte == 0));
        assert!(!ring.enlarge(&mut tokens[2]));
        // Messages for large slots are made in the peer's large ring.
        let peers = device.register(8 << 20, Access::ALL).unwrap();
        // Not in one that small slots are in already: no bytes have two tokens.
        let both = device.register(8 << 20, Access::ALL).unwrap();
        ring.place(both.clone(), false);
        ring.place(both, true);
        assert!(!ring.is_placed(true));
        ring.place(peers.clone(), true);
        for token in &mut tokens {
            ring.renew(token);
        }
        assert_eq!(ring.bytes(&tokens[0]).as_ptr(), peers.as_ptr().as_ptr());
        assert_eq!(ring.bytes(&tokens[1]).len(), shape.first.slot_size());
        assert_ne!(
            ring.bytes(&tokens[1]).as_ptr(),
            ring.bytes(&tokens[0]).as_ptr()
        );
        let held = Arc::downgrade(&peers);
        drop(peers);
        ring.release(tokens);
        assert_eq!(held.strong_count(), 0, "DROP-1");
        ring.grow(ring.prepare_receive(&device).unwrap());
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

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
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::core::slot::SlotTokens;
use super::{Geometry, RingAddress};
use crate::fabric::{Access, Device, FabricError, MemoryRegion, RemoteSlice};
use crate::wire::Signal;

/// Registered memory divided into slots: a receive ring, or the send memory that mirrors one. The
/// owner of a slot's [token](SlotToken) has its bytes. It may [grow](Self::grow): each slot has a
/// second token then, of a larger place, until it [shrinks](Self::shrink).
#[derive(Debug)]
pub(crate) struct Ring {
    held: Mutex<Held>,
    /// Where messages are made in place: in the peer's ring, and in its grown one.
    placed: [Placed; 2],
    geometry: Geometry,
    number: NonZeroU64,
}

/// The memory of a ring, and of what it has grown to.
#[derive(Debug, Default)]
struct Held {
    memories: [Memory; 2],
    /// Number of tokens that exist.
    tokens: usize,
}

#[derive(Debug, Default)]
struct Memory {
    /// The region, and, once it can be written in place, the peer's ring, of which this one is the
    /// mirror. Empty once no token of it exists any more.
    regions: Vec<Arc<dyn MemoryRegion>>,
    /// Bytes of its slots.
    len: usize,
    /// Number of its tokens at first.
    tokens: usize,
}

/// Address and key of the peer's ring. Null while it cannot be written in place.
#[derive(Debug, Default)]
struct Placed {
    first: AtomicPtr<u8>,
    lkey: AtomicU32,
}

/// The right to the bytes of one slot of one ring. Each slot has one token, and one more of what
/// the ring has grown to, which is moved and never copied, and borrowed as its bytes are: two of
/// the same bytes never exist at a time.
#[derive(Debug)]
pub(crate) struct SlotToken {
    ring: NonZeroU64,
    /// Address of its bytes: in the ring's own region, or in the peer's ring.
    first: NonNull<u8>,
    /// Key of that region.
    lkey: u32,
    /// Number of its bytes.
    len: u32,
    /// Number of the slot in 16 bits, and what is true of it above: a token is moved often, and one
    /// word is moved as one.
    tag: u32,
}

/// The bytes are of what the ring has grown to.
const GROWN: u32 = 1 << 16;
/// They are the peer's.
const PLACED: u32 = 1 << 17;
/// The peer has yet to be told that the slot is this one.
const NEW: u32 = 1 << 18;

// SAFETY: to it `first` is only an address; a `Ring` makes references of it, to bytes that any
// thread may use.
unsafe impl Send for SlotToken {}
// SAFETY: as above.
unsafe impl Sync for SlotToken {}

impl SlotToken {
    /// Number of the slot.
    #[inline]
    pub(crate) fn slot(&self) -> u16 {
        self.tag as u16
    }

    /// Key of the region of its bytes, for work requests.
    #[inline]
    pub(crate) fn lkey(&self) -> u32 {
        self.lkey
    }

    /// Whether its bytes are of what the ring has grown to.
    #[inline]
    pub(crate) fn is_grown(&self) -> bool {
        self.tag & GROWN != 0
    }

    /// Number of its bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// The signal of a message in the slot, which says so if it is the first in the grown one.
    #[inline]
    pub(crate) fn signal(&self) -> Signal {
        match self.tag & NEW {
            0 => Signal::Message,
            _ => Signal::Grown,
        }
    }

    /// Notes that a message with its signal has been sent.
    #[inline]
    pub(crate) fn has_signalled(&mut self) {
        self.tag &= !NEW;
    }

    /// Makes a token of no ring.
    #[cfg(test)]
    pub(crate) fn of_nothing(slot: u16) -> Self {
        Self {
            ring: NonZeroU64::MAX,
            first: NonNull::dangling(),
            lkey: 0,
            len: 0,
            tag: slot.into(),
        }
    }

    /// Makes a token of no ring, for a slot that has grown.
    #[cfg(test)]
    pub(crate) fn of_nothing_grown(slot: u16) -> Self {
        Self {
            tag: u32::from(slot) | GROWN | NEW,
            ..Self::of_nothing(slot)
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
        let region = register(device, geometry, access)?;
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let ring = Self {
            held: Mutex::default(),
            placed: Default::default(),
            geometry,
            number: NonZeroU64::new(next).unwrap_or(NonZeroU64::MIN),
        };
        let tokens = ring.add(region, geometry, false);
        Ok((ring, tokens))
    }

    /// Grows by what was [registered](LargerRings::register) for it. Each slot, as many as before,
    /// has a larger place, whose token this gives. A ring that has grown has to
    /// [shrink](Self::shrink) before it grows again.
    pub(crate) fn grow(&self, larger: RegisteredRing) -> (RingAddress, Vec<SlotToken>) {
        let RegisteredRing { region, geometry } = larger;
        let address = RingAddress::of(&*region, geometry);
        (address, self.add(region, geometry, true))
    }

    /// Gives up what it has grown to: `tokens` are all of that, so nobody can reach its bytes any
    /// more. No queue pair may use it (DROP-1). Dropping the result deregisters it.
    pub(crate) fn shrink(&self, tokens: Vec<SlotToken>) -> Vec<Arc<dyn MemoryRegion>> {
        for token in &tokens {
            self.check(token);
            assert!(token.is_grown(), "it is of what was added last");
        }
        let mut held = self.held();
        let memory = std::mem::take(&mut held.memories[1]);
        assert_eq!(tokens.len(), memory.tokens, "nobody has another");
        held.tokens -= tokens.len();
        // What it grows to next is not in that place.
        self.placed[1]
            .first
            .store(ptr::null_mut(), Ordering::Release);
        memory.regions
    }

    fn add(
        &self,
        region: Arc<dyn MemoryRegion>,
        geometry: Geometry,
        is_grown: bool,
    ) -> Vec<SlotToken> {
        let (first, lkey) = (region.as_ptr(), region.lkey());
        let mut held = self.held();
        let memory = &mut held.memories[usize::from(is_grown)];
        assert!(memory.regions.is_empty(), "a ring grows once");
        assert!(region.len() >= geometry.len(), "see `register`");
        memory.regions.push(region);
        (memory.len, memory.tokens) = (geometry.len(), geometry.slots());
        held.tokens += geometry.slots();
        let flags = if is_grown { GROWN | NEW } else { 0 };
        let token = |slot| {
            let at = geometry.offset(slot);
            SlotToken {
                ring: self.number,
                // SAFETY: the slot ends inside the region, which covers `geometry.len()` bytes. It
                // lives, as `held` has it while there are tokens.
                first: unsafe { first.add(at) },
                lkey,
                len: geometry.slot_size() as u32,
                tag: u32::from(slot) | flags,
            }
        };
        (0..geometry.slots())
            .map(|slot| token(slot as u16))
            .collect()
    }

    /// From now on messages are made in `peers`, the ring that they are sent to, or what it
    /// `is_grown` to: for each slot from its next [renewal](Self::renew) on. A peer that says that
    /// the two are the same bytes does not get messages made there.
    pub(crate) fn place(&self, peers: Arc<dyn MemoryRegion>, is_grown: bool) {
        let (first, lkey) = (peers.as_ptr().as_ptr(), peers.lkey());
        let mut held = self.held();
        let others = &held.memories[usize::from(!is_grown)].regions;
        if others.iter().any(|other| overlap(&**other, &*peers)) {
            return;
        }
        let memory = &mut held.memories[usize::from(is_grown)];
        // Only the first call has an effect.
        if peers.len() >= memory.len && memory.regions.len() == 1 {
            memory.regions.push(peers);
            let placed = &self.placed[usize::from(is_grown)];
            placed.lkey.store(lkey, Ordering::Relaxed);
            placed.first.store(first, Ordering::Release);
        }
    }

    /// Prepares the slot of `token` for a new message. The one that was made there before has been
    /// sent, or never will be.
    #[inline]
    pub(crate) fn renew(&self, token: &mut SlotToken) {
        if token.tag & PLACED != 0 {
            return;
        }
        let placed = &self.placed[usize::from(token.is_grown())];
        if let Some(first) = NonNull::new(placed.first.load(Ordering::Acquire)) {
            self.check(token);
            let at = usize::from(token.slot()) * token.len as usize;
            // SAFETY: the slot ends inside the peer's ring, which is as long as the token's own
            // region at least, and lives as that does; see `place`.
            token.first = unsafe { first.add(at) };
            token.lkey = placed.lkey.load(Ordering::Relaxed);
            token.tag |= PLACED;
        }
    }

    #[inline]
    fn check(&self, token: &SlotToken) {
        assert_eq!(token.ring, self.number, "a token is used with its ring");
    }

    /// Location of the ring, for the peer.
    pub(crate) fn address(&self) -> RingAddress {
        let held = self.held();
        let region = held.memories[0].regions.first();
        let region = region.expect("its address is told before it is used");
        RingAddress::of(&**region, self.geometry)
    }

    /// Retires tokens whose slots will not be used any more.
    pub(crate) fn retire(&mut self, tokens: Vec<SlotToken>) {
        for token in tokens {
            self.check(&token);
            self.held().tokens -= 1;
        }
    }

    /// Frees the memory: `tokens` are all that exist, so nobody can reach its bytes any more. No
    /// queue pair may use it (DROP-1).
    pub(crate) fn release(&self, tokens: Vec<SlotToken>) {
        tokens.iter().for_each(|token| self.check(token));
        let mut held = self.held();
        assert_eq!(tokens.len(), held.tokens, "nobody has a token any more");
        let given_up = std::mem::take(&mut *held);
        drop(held);
        drop(given_up);
    }

    /// Returns whether it has memory that it has grown to.
    #[cfg(test)]
    pub(crate) fn has_grown(&self) -> bool {
        !self.held().memories[1].regions.is_empty()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Borrows the bytes of a slot.
    #[inline]
    pub(crate) fn bytes<'a>(&'a self, token: &'a SlotToken) -> &'a [u8] {
        self.check(token);
        // SAFETY: the pointer of a token of this ring is valid for the `len` initialised bytes of
        // its slot while their region lives, see `add` and `renew`. The result borrows the ring, which holds its
        // regions until it is given all tokens, and the one token of the slot; so until then the
        // region lives, and no `&mut` to the bytes exists in this process. The peer writes them
        // only while it holds the slot's credit; see the module about one that does not keep to
        // that.
        unsafe { std::slice::from_raw_parts(token.first.as_ptr(), token.len as usize) }
    }

    /// Borrows the bytes of a slot mutably.
    #[inline]
    pub(crate) fn bytes_mut<'a>(&'a self, token: &'a mut SlotToken) -> &'a mut [u8] {
        self.check(token);
        // SAFETY: as in `bytes`; the one token of the slot is borrowed mutably, so this is the only
        // reference. The memory is writable by the contract of `MemoryRegion`.
        unsafe { std::slice::from_raw_parts_mut(token.first.as_ptr(), token.len as usize) }
    }
}

/// Registered memory that a ring can [grow](Ring::grow) by.
#[derive(Debug)]
pub(crate) struct RegisteredRing {
    region: Arc<dyn MemoryRegion>,
    geometry: Geometry,
}

/// What both rings of one end can grow by.
#[derive(Debug)]
pub(crate) struct LargerRings {
    /// For the ring that the peer writes into.
    pub(crate) receive: RegisteredRing,
    /// For the memory to send from.
    pub(crate) send: RegisteredRing,
}

impl LargerRings {
    /// Registers them.
    pub(crate) fn register(device: &dyn Device, geometry: Geometry) -> Result<Self, FabricError> {
        let ring = |access| {
            let region = register(device, geometry, access)?;
            Ok::<_, FabricError>(RegisteredRing { region, geometry })
        };
        Ok(Self {
            receive: ring(Access::LOCAL_WRITE | Access::REMOTE_WRITE)?,
            send: ring(Access::LOCAL_READ)?,
        })
    }

    /// Has these two rings grow by them. Gives the location of what the peer writes into, and the
    /// tokens of each slot.
    pub(crate) fn add_to(self, receive: &Ring, send: &Ring) -> (RingAddress, Vec<SlotTokens>) {
        let (address, receives) = receive.grow(self.receive);
        let (_, sends) = send.grow(self.send);
        let tokens = receives.into_iter().zip(sends);
        let tokens = tokens.map(|(receive, send)| SlotTokens { receive, send });
        (address, tokens.collect())
    }
}

fn register(
    device: &dyn Device,
    geometry: Geometry,
    access: Access,
) -> Result<Arc<dyn MemoryRegion>, FabricError> {
    let region = device.register(geometry.len(), access)?;
    assert!(
        region.len() >= geometry.len(),
        "a device registers what it was asked for"
    );
    Ok(region)
}

/// Returns whether two regions have bytes in common.
fn overlap(one: &dyn MemoryRegion, other: &dyn MemoryRegion) -> bool {
    let begin = |region: &dyn MemoryRegion| region.as_ptr().addr().get();
    begin(one) < begin(other).saturating_add(other.len())
        && begin(other) < begin(one).saturating_add(one.len())
}

/// A whole region that belongs to one owner.
///
/// A peer may read it at the same time. Only the owner writes it, through `&mut`; or a READ that
/// the owner has posted and whose end it awaits; or a peer that the owner has allowed to write, as
/// the [module](self) describes.
#[derive(Debug)]
pub(super) struct OwnedRegion(Arc<dyn MemoryRegion>);

impl OwnedRegion {
    /// Registers memory that peers may use as `access` allows.
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

    /// The region, to register it with other devices: they use it as peers do.
    pub(super) fn shared(&self) -> &Arc<dyn MemoryRegion> {
        &self.0
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
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().as_ptr(), self.0.len()) }
    }
}

impl DerefMut for OwnedRegion {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr().as_ptr(), self.0.len()) }
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

/// The peer's ring, and what it has grown to, as this side writes into them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RemoteRings {
    /// Twice the same until it has grown.
    rings: [RemoteRing; 2],
    has_grown: bool,
}

impl RemoteRings {
    /// Starts with the peer's ring.
    pub(crate) fn new(ring: RemoteRing) -> Self {
        Self {
            rings: [ring; 2],
            has_grown: false,
        }
    }

    /// Checks where the peer says that its larger ring is, which has this shape. Memory of its
    /// first ring is refused: two slots would be the same bytes (RING-1).
    pub(crate) fn larger(&self, bytes: &[u8], geometry: Geometry) -> Option<RemoteRing> {
        let ring = RingAddress::from_bytes(bytes)?.native_ring(geometry).ok()?;
        (ring.rkey != self.rings[0].rkey).then_some(ring)
    }

    /// Notes what the peer's ring has grown to.
    pub(crate) fn grow(&mut self, ring: RemoteRing) {
        self.rings[1] = ring;
        self.has_grown = true;
    }

    /// Notes that the peer's ring is what it was at first. Returns the key of what it had grown to.
    pub(crate) fn shrink(&mut self) -> u32 {
        let first = self.rings[0];
        let unused = std::mem::replace(&mut self.rings[1], first);
        self.has_grown = false;
        unused.rkey
    }

    pub(crate) fn has_grown(&self) -> bool {
        self.has_grown
    }

    /// What new messages are written into.
    pub(crate) fn newest(&self) -> &RemoteRing {
        &self.rings[1]
    }

    /// Where a message in a slot that has grown, or has not, is written to.
    #[inline]
    pub(crate) fn slot(&self, is_grown: bool, slot: u16) -> RemoteSlice {
        let ring = if is_grown {
            &self.rings[1]
        } else {
            &self.rings[0]
        };
        ring.slot(slot)
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
        ring.place(
            device.register(geometry.len() - 1, Access::ALL).unwrap(),
            false,
        );
        ring.renew(&mut tokens[1]);
        assert!(tokens[1].tag & PLACED == 0);
        ring.place(peers.clone(), false);
        // What has yet to be sent stays where it is.
        assert_eq!((ring.bytes(&tokens[0])[0], first(0)), (1, 0));
        assert!(tokens[0].tag & PLACED == 0);
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
        assert!(crate::panics::contain(|| ring.renew(&mut foreign[0])).is_err());
        // DROP-1: they are all given back.
        let held = Arc::downgrade(&peers);
        drop(peers);
        assert_eq!(held.strong_count(), 1);
        ring.release(tokens);
        assert_eq!(held.strong_count(), 0);
    }

    #[test]
    fn ring_1_what_a_ring_has_grown_to_is_not_placed_where_the_ring_is() {
        let device = HeapDevice::default();
        let geometry = Geometry::new(2, 64).unwrap();
        let (ring, _tokens) = Ring::send(&device, geometry).unwrap();
        let region = register(&device, geometry, Access::LOCAL_READ).unwrap();
        let (_, mut larger) = ring.grow(RegisteredRing { region, geometry });
        let peers = device.register(geometry.len(), Access::ALL).unwrap();
        ring.place(peers.clone(), false);
        ring.place(peers, true);
        ring.renew(&mut larger[0]);
        assert!(larger[0].tag & PLACED == 0);
        let others = device.register(geometry.len(), Access::ALL).unwrap();
        ring.place(others, true);
        ring.renew(&mut larger[0]);
        assert!(larger[0].tag & PLACED != 0);
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

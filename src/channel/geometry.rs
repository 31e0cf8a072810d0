//! The shape of a ring.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BufferPool, MemoryError, PooledBuffer, Profile};
use crate::wire::Header;

/// `slots` x `slot_size` bytes: one slot for each call in flight.
///
/// ```
/// use slimerpc::channel::Geometry;
/// let ring = Geometry::new(16, 32 * 1024).unwrap();
/// assert_eq!(ring.len(), 512 * 1024);
/// assert_eq!(ring.max_payload(), 32 * 1024 - 16);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    slots: u32,
    slot_size: u32,
}

/// The numbers make no valid ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a ring of {slots} slots of {slot_size} bytes is not possible: slots may be 1 to {max_slots}, \
     a slot {min_size} bytes to {max_size} bytes in multiples of 8",
    max_slots = Geometry::MAX_SLOTS,
    min_size = Geometry::MIN_SLOT_SIZE,
    max_size = Geometry::MAX_SLOT_SIZE
)]
pub struct BadGeometry {
    slots: usize,
    slot_size: usize,
}

impl Geometry {
    /// Most slots: as many as an immediate can number.
    pub const MAX_SLOTS: usize = 1 << 16;
    /// Smallest slot: room for a header, an extension block and a few bytes.
    pub const MIN_SLOT_SIZE: usize = 64;
    /// Largest slot: the largest message that DLSlime peers send in one write.
    pub const MAX_SLOT_SIZE: usize = 1 << 30;

    /// Makes the geometry of a ring of `slots` slots of `slot_size` bytes.
    ///
    /// # Errors
    /// A number is out of range; the error says what is allowed.
    pub fn new(slots: usize, slot_size: usize) -> Result<Self, BadGeometry> {
        let sound = (1..=Self::MAX_SLOTS).contains(&slots)
            && (Self::MIN_SLOT_SIZE..=Self::MAX_SLOT_SIZE).contains(&slot_size)
            && slot_size.is_multiple_of(8);
        if !sound {
            return Err(BadGeometry { slots, slot_size });
        }
        Ok(Self {
            slots: slots as u32,
            slot_size: slot_size as u32,
        })
    }

    /// Number of slots, which is the number of calls in flight.
    #[inline]
    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// Size of a slot in bytes.
    #[inline]
    pub fn slot_size(&self) -> usize {
        self.slot_size as usize
    }

    /// Size of the ring in bytes.
    #[allow(clippy::len_without_is_empty)] // it has at least one slot
    pub fn len(&self) -> usize {
        self.slots() * self.slot_size()
    }

    /// Size of the largest payload that a slot carries, in bytes.
    pub fn max_payload(&self) -> usize {
        self.slot_size() - Header::LEN
    }

    /// Offset of a slot in the ring.
    #[inline]
    pub(crate) fn offset(&self, slot: u16) -> usize {
        usize::from(slot) * self.slot_size()
    }

    /// Checks numbers that were received from a peer; serde does not.
    pub(crate) fn checked(self) -> Result<Self, BadGeometry> {
        Self::new(self.slots(), self.slot_size())
    }
}

/// The shapes that a ring has one after the other. It begins with small slots: most callers send
/// little, and an idle one pins what it has registered. It gets large ones once a message does not
/// fit, unless the device refuses (see [`growth`](super::growth)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RingShape {
    /// The shape at the beginning. If the ring can grow, the last slot is for no call: in it each
    /// end tells the other that it has grown.
    pub(super) first: Geometry,
    /// The shape that was agreed on, if it is not the first.
    pub(super) grown: Option<Geometry>,
}

impl RingShape {
    /// Bytes of a ring at the beginning, unless its slots are many: the two rings of an end then
    /// take 64 KiB.
    const FIRST: usize = 32 << 10;
    /// Smallest first slot: room for whatever a message carries beside a payload, and for a few
    /// numbers.
    const LEAST: usize = 256;

    /// Returns whether a payload of this size fits the large slots of rings that can grow.
    pub(super) fn fits_grown(self, size: usize) -> bool {
        self.grown.is_some_and(|grown| size <= grown.max_payload())
    }

    /// Takes memory for a payload that does not fit its slot. If it fits what was agreed on, that
    /// does not depend on what the setting `payload_memory` leaves.
    ///
    /// # Errors
    /// The errors of [`BufferPool::take`].
    pub(super) fn take(
        self,
        memory: &Arc<BufferPool>,
        size: usize,
    ) -> Result<PooledBuffer, MemoryError> {
        match self.fits_grown(size) {
            true => memory.take_for_slot(size),
            false => memory.take(size),
        }
    }

    /// The shapes of rings towards peers of this profile, for which `geometry` was agreed on. Those
    /// towards DLSlime peers are as they are.
    pub(super) fn of(geometry: Geometry, profile: Profile) -> Self {
        let slots = geometry.slots + 1;
        let slot_size = ((Self::FIRST as u32 / slots) & !63).max(Self::LEAST as u32);
        let is_large = slot_size < geometry.slot_size && slots as usize <= Geometry::MAX_SLOTS;
        if profile == Profile::Compatible || !is_large {
            return Self {
                first: geometry,
                grown: None,
            };
        }
        Self {
            first: Geometry { slots, slot_size },
            grown: Some(geometry),
        }
    }
}

/// The shapes of a mailbox's rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometries {
    /// Shape of the rings towards native callers.
    pub native: Geometry,
    /// Shape of the rings towards DLSlime callers, which cannot read payloads beyond a slot.
    pub compatible: Geometry,
}

impl Geometries {
    /// The shape of the rings towards callers of this profile.
    pub(crate) fn of(self, profile: Profile) -> Geometry {
        match profile {
            Profile::Native => self.native,
            Profile::Compatible => self.compatible,
        }
    }
}

impl From<Geometry> for Geometries {
    /// Uses one shape for all callers.
    fn from(geometry: Geometry) -> Self {
        Self {
            native: geometry,
            compatible: geometry,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_rings_of_an_end_take_64_kib_at_most() {
        for (slots, slot_size) in [(1, 32 << 10), (16, 32 << 10), (16, 1 << 20), (100, 4096)] {
            let agreed = Geometry::new(slots, slot_size).unwrap();
            let shape = RingShape::of(agreed, Profile::Native);
            assert_eq!(shape.grown, Some(agreed));
            assert!(2 * shape.first.len() <= 64 << 10, "{shape:?}");
            assert!(shape.first.checked().is_ok());
            assert_eq!(shape.first.slots(), slots + 1);
        }
    }

    #[test]
    fn what_is_small_or_agreed_with_a_dlslime_peer_does_not_grow() {
        let small = Geometry::new(16, 1024).unwrap();
        let large = Geometry::new(16, 32 << 10).unwrap();
        let many = Geometry::new(Geometry::MAX_SLOTS, 1024).unwrap();
        for (agreed, profile) in [
            (small, Profile::Native),
            (large, Profile::Compatible),
            (many, Profile::Native),
        ] {
            let shape = RingShape::of(agreed, profile);
            assert_eq!((shape.first, shape.grown), (agreed, None));
        }
    }
}

//! The shape of a ring.

use serde::{Deserialize, Serialize};

use super::Profile;
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

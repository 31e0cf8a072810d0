//! Keys of registered memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::region::RegionMemory;
use crate::fabric::FabricError;

const GENERATION_BITS: u32 = 8;
/// Most regions of one device at a time.
const MAX_REGIONS: usize = 1 << (32 - GENERATION_BITS);

/// Finds regions by key. A key is an index and a generation, so that the key of a dropped region
/// does not soon name another one.
#[derive(Debug, Default)]
pub(super) struct KeyTable {
    places: Mutex<KeyEntries>,
}

#[derive(Debug, Default)]
struct KeyEntries {
    all: Vec<KeyEntry>,
    free: Vec<usize>,
}

#[derive(Debug, Default)]
struct KeyEntry {
    generation: u8,
    memory: Weak<RegionMemory>,
}

impl KeyTable {
    /// Gives `memory` a key.
    pub(super) fn insert(&self, memory: &Arc<RegionMemory>) -> Result<u32, FabricError> {
        let mut places = self.lock();
        let index = match places.free.pop() {
            Some(index) => index,
            None if places.all.len() < MAX_REGIONS => {
                places.all.push(KeyEntry::default());
                places.all.len() - 1
            }
            None => {
                return Err(FabricError::Limit {
                    what: "the number of memory regions",
                    given: MAX_REGIONS as u64 + 1,
                    allowed: format!("at most {MAX_REGIONS}"),
                    device: crate::fabric::SHM.to_owned(),
                });
            }
        };
        let place = &mut places.all[index];
        // Generation 0 is not used, so that key 0 is never valid.
        place.generation = place.generation.checked_add(1).unwrap_or(1);
        place.memory = Arc::downgrade(memory);
        Ok((index as u32) << GENERATION_BITS | u32::from(place.generation))
    }

    /// Removes a key.
    pub(super) fn remove(&self, key: u32) {
        let mut places = self.lock();
        let index = (key >> GENERATION_BITS) as usize;
        if let Some(place) = places.all.get_mut(index) {
            place.memory = Weak::new();
            places.free.push(index);
        }
    }

    /// The memory that has this key now.
    pub(super) fn find(&self, key: u32) -> Weak<RegionMemory> {
        let places = self.lock();
        places
            .all
            .get((key >> GENERATION_BITS) as usize)
            .filter(|place| u32::from(place.generation) == key & ((1 << GENERATION_BITS) - 1))
            .map(|place| place.memory.clone())
            .unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, KeyEntries> {
        // Nothing panics while it is held.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Registered memory for payloads that do not fit a slot. Registering is slow, so returned buffers
//! are reused.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::lend::OwnedRegion;
use crate::fabric::{Access, Device, FabricError, MemoryRegion};
use crate::wire::RendezvousDescriptor;

/// Sizes are rounded up to this many bytes, so that buffers can be reused.
const SMALL: usize = 64 << 10;
const LARGE: usize = 1 << 20;

/// How much memory payloads beyond a slot may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Most bytes of one payload.
    pub payload: usize,
    /// Most bytes of all buffers that are registered at the same time.
    pub total: usize,
    /// Most bytes that stay registered without a user.
    pub idle: usize,
}

impl Default for MemoryLimits {
    /// 1 GiB for a payload, 4 GiB in all, 1 GiB idle.
    fn default() -> Self {
        Self {
            payload: 1 << 30,
            total: 4 << 30,
            idle: 1 << 30,
        }
    }
}

/// The bytes that a [`BufferPool`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryAccount {
    /// Bytes of payloads that are being sent, received or handled.
    pub lent: usize,
    /// Bytes that are kept for later payloads.
    pub idle: usize,
}

/// No memory is available for a payload that is larger than a slot, or for a buffer that peers
/// access. Such memory is registered with the device, and the limits are settings of the agent.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The payload exceeds the limit of one payload, the setting `max_payload`.
    #[error("a payload of {size} bytes, and {limit} are allowed")]
    TooLarge {
        /// Size of the payload in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Other payloads and buffers leave too little of what the setting `payload_memory` allows.
    #[error("{size} bytes for a payload, while others hold {lent} and all may hold {limit}")]
    Exhausted {
        /// Size of the payload in bytes.
        size: usize,
        /// Bytes that the others use.
        lent: usize,
        /// The limit of all together in bytes.
        limit: usize,
    },
    /// The device refuses to register more.
    #[error(transparent)]
    Fabric(#[from] FabricError),
}

/// One for each device of an agent, shared by its channels.
///
/// ```
/// use slimerpc::channel::{BufferPool, MemoryLimits};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = BufferPool::new(slimerpc::fabric::open("shm0", 1)?, MemoryLimits::default());
/// let mut block = memory.take(100_000)?;
/// block[99_999] = 7;
/// assert!(memory.account().lent >= 100_000);
/// drop(block);
/// assert_eq!(memory.account().lent, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BufferPool {
    device: Arc<dyn Device>,
    /// What peers may do with memory from [`take`](Self::take).
    access: Access,
    limits: MemoryLimits,
    held: Mutex<PoolState>,
}

#[derive(Debug, Default)]
struct PoolState {
    /// The most recently used region comes last.
    idle: Vec<OwnedRegion>,
    account: MemoryAccount,
}

impl BufferPool {
    /// Makes a pool whose buffers peers may read. Nothing is registered yet.
    pub fn new(device: Arc<dyn Device>, limits: MemoryLimits) -> Arc<Self> {
        Self::with_access(device, limits, Access::REMOTE_READ)
    }

    /// Makes a pool whose buffers from [`take`](Self::take) peers may not use.
    pub fn private(device: Arc<dyn Device>, limits: MemoryLimits) -> Arc<Self> {
        Self::with_access(device, limits, Access::LOCAL_READ)
    }

    fn with_access(device: Arc<dyn Device>, limits: MemoryLimits, access: Access) -> Arc<Self> {
        Arc::new(Self {
            device,
            access: access | Access::LOCAL_WRITE,
            limits,
            held: Mutex::default(),
        })
    }

    /// The device that the memory is registered with.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// The limits of the pool.
    pub fn limits(&self) -> MemoryLimits {
        self.limits
    }

    /// The bytes that the pool holds.
    pub fn account(&self) -> MemoryAccount {
        self.lock().account
    }

    /// Takes a registered buffer of `len` bytes with arbitrary contents.
    ///
    /// # Errors
    /// The size exceeds a limit, or the device refuses.
    pub fn take(self: &Arc<Self>, len: usize) -> Result<PooledBuffer, MemoryError> {
        let limit = self.limits.payload;
        if len > limit {
            return Err(MemoryError::TooLarge { size: len, limit });
        }
        let step = if len <= LARGE { SMALL } else { LARGE };
        let size = len.max(1).next_multiple_of(step);
        let mut held = self.lock();
        if let Some(whole) = held.reuse(size) {
            return Ok(self.lend(&mut held, whole, len, true));
        }
        drop(held);
        let whole = self.register(size, len, self.access)?;
        Ok(self.lend(&mut self.lock(), whole, len, true))
    }

    /// Takes a buffer as [`take`](Self::take) does, also beyond the limits: for a message that fits
    /// a slot, of which there are so many as slots.
    ///
    /// # Errors
    /// The device refuses.
    pub(super) fn take_for_slot(self: &Arc<Self>, len: usize) -> Result<PooledBuffer, MemoryError> {
        match self.take(len) {
            Err(MemoryError::TooLarge { .. } | MemoryError::Exhausted { .. }) => {
                let size = len.max(1).next_multiple_of(SMALL);
                let whole = OwnedRegion::register(&*self.device, size, self.access)?;
                Ok(self.lend(&mut self.lock(), whole, len, false))
            }
            taken => taken,
        }
    }

    /// Takes a zeroed buffer of `len` bytes that peers may use as `access` allows, registered for
    /// this use alone: when it is dropped, its key becomes invalid.
    ///
    /// # Errors
    /// The errors of [`take`](Self::take).
    pub fn dedicate(
        self: &Arc<Self>,
        len: usize,
        access: Access,
    ) -> Result<PooledBuffer, MemoryError> {
        let limit = self.limits.payload;
        if len > limit {
            return Err(MemoryError::TooLarge { size: len, limit });
        }
        let size = len.max(1);
        let whole = self.register(size, len, access)?;
        Ok(self.lend(&mut self.lock(), whole, len, false))
    }

    /// Registers `size` bytes for a payload of `len`, as far as the limits allow.
    fn register(
        &self,
        size: usize,
        len: usize,
        access: Access,
    ) -> Result<OwnedRegion, MemoryError> {
        let total = self.limits.total;
        let mut held = self.lock();
        if held.account.lent.saturating_add(size) > total {
            return Err(MemoryError::Exhausted {
                size: len,
                lent: held.account.lent,
                limit: total,
            });
        }
        let room = total - held.account.lent - size;
        let given_up = held.trim(room);
        // Counted while it is being registered, because registering takes long, and so does freeing
        // memory for it.
        held.account.lent += size;
        drop(held);
        drop(given_up);
        let registered = OwnedRegion::register(&*self.device, size, access).or_else(|_| {
            let given_up = self.lock().trim(0);
            drop(given_up);
            OwnedRegion::register(&*self.device, size, access)
        });
        self.lock().account.lent -= size;
        Ok(registered?)
    }

    fn lend(
        self: &Arc<Self>,
        held: &mut PoolState,
        whole: OwnedRegion,
        len: usize,
        is_kept: bool,
    ) -> PooledBuffer {
        held.account.lent += whole.len();
        PooledBuffer {
            whole: Some(whole),
            len,
            is_kept,
            memory: self.clone(),
        }
    }

    fn take_back(&self, whole: OwnedRegion, is_kept: bool) {
        let mut held = self.lock();
        held.account.lent -= whole.len();
        let Some(room) = self.limits.idle.checked_sub(whole.len()) else {
            return;
        };
        if is_kept {
            // Sizes change: a region that fitted recent payloads is more likely to fit the next.
            let given_up = held.trim(room);
            held.account.idle += whole.len();
            held.idle.push(whole);
            drop(held);
            drop(given_up);
        }
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolState {
    /// The smallest idle region of at least `size` bytes that is not much too large.
    fn reuse(&mut self, size: usize) -> Option<OwnedRegion> {
        let fits =
            |whole: &OwnedRegion| (size..=size.saturating_add(size / 2)).contains(&whole.len());
        let idle = self.idle.iter().enumerate();
        let best = idle
            .filter(|(_, whole)| fits(whole))
            .min_by_key(|(_, whole)| whole.len());
        let at = best.map(|(at, _)| at)?;
        let whole = self.idle.remove(at);
        self.account.idle -= whole.len();
        Some(whole)
    }

    /// Takes idle regions out, least recently used first, until at most `limit` bytes are left.
    /// Deregistering them takes long: drop them after the lock is released.
    #[must_use]
    fn trim(&mut self, limit: usize) -> Vec<OwnedRegion> {
        let mut given_up = Vec::new();
        while self.account.idle > limit && !self.idle.is_empty() {
            let whole = self.idle.remove(0);
            self.account.idle -= whole.len();
            given_up.push(whole);
        }
        given_up
    }
}

/// A registered buffer of one owner. It goes back to its [`BufferPool`] when it is dropped.
pub struct PooledBuffer {
    /// `Some` until it is dropped.
    whole: Option<OwnedRegion>,
    len: usize,
    /// Whether it stays registered for later payloads.
    is_kept: bool,
    memory: Arc<BufferPool>,
}

impl PooledBuffer {
    /// The region, to register it with other devices as well.
    pub(super) fn shared(&self) -> Option<&Arc<dyn MemoryRegion>> {
        self.whole.as_ref().map(OwnedRegion::shared)
    }

    fn region(&self) -> Option<&dyn MemoryRegion> {
        self.whole.as_ref().map(OwnedRegion::region)
    }

    /// The location of the bytes, for a peer.
    pub(super) fn outside(&self) -> RendezvousDescriptor {
        let region = self.region();
        RendezvousDescriptor {
            addr: region.map_or(0, MemoryRegion::addr),
            len: self.len as u64,
            rkey: region.map_or(0, MemoryRegion::rkey),
        }
    }

    /// Key for local use.
    pub(super) fn lkey(&self) -> u32 {
        self.region().map_or(0, MemoryRegion::lkey)
    }

    /// Keeps only the first `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.whole.as_ref().map_or(&[], |whole| &whole[..self.len])
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.whole
            .as_mut()
            .map_or(&mut [], |whole| &mut whole[..len])
    }
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuffer")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(whole) = self.whole.take() {
            self.memory.take_back(whole, self.is_kept);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fabric::heap::HeapDevice;

    fn memory(limits: MemoryLimits) -> Arc<BufferPool> {
        BufferPool::new(Arc::new(HeapDevice::default()), limits)
    }

    #[test]
    fn blocks_are_used_again_and_every_byte_is_accounted_for() {
        let memory = memory(MemoryLimits {
            idle: 3 * LARGE,
            ..MemoryLimits::default()
        });
        let block = memory.take(LARGE + 1).unwrap();
        let (key, lent) = (block.outside().rkey, memory.account().lent);
        assert_eq!((block.len(), lent), (LARGE + 1, 2 * LARGE));
        drop(block);
        assert_eq!(
            memory.account(),
            MemoryAccount {
                lent: 0,
                idle: lent
            }
        );
        let again = memory.take(2 * LARGE).unwrap();
        assert_eq!(again.outside().rkey, key, "the same region");
        // Another while it is lent is another region, and only so much stays.
        let other = memory.take(2 * LARGE).unwrap();
        assert_ne!(other.outside().rkey, key);
        drop((again, other));
        assert_eq!(
            memory.account(),
            MemoryAccount {
                lent: 0,
                idle: lent
            }
        );
        let small = memory.take(10).unwrap();
        assert_eq!(
            memory.account().lent,
            SMALL,
            "a large one is not for few bytes"
        );
        drop(small);
    }

    #[test]
    fn what_was_used_last_stays_registered() {
        let memory = memory(MemoryLimits {
            idle: 4 * LARGE,
            ..MemoryLimits::default()
        });
        drop((
            memory.take(2 * LARGE).unwrap(),
            memory.take(2 * LARGE).unwrap(),
        ));
        assert_eq!(memory.account().idle, 4 * LARGE);
        // Payloads have become larger: of the others there is no need any more.
        let block = memory.take(4 * LARGE).unwrap();
        let key = block.outside().rkey;
        drop(block);
        assert_eq!(memory.account().idle, 4 * LARGE);
        assert_eq!(memory.take(4 * LARGE).unwrap().outside().rkey, key);
        // What is more than may stay is no reason to give the others up.
        drop(memory.take(8 * LARGE).unwrap());
        assert_eq!(memory.account().idle, 4 * LARGE);
        assert_eq!(memory.account().lent, 0);
    }

    #[test]
    fn input_1_limits_hold_and_idle_memory_gives_way() {
        let memory = memory(MemoryLimits {
            payload: 2 * LARGE,
            total: 3 * LARGE,
            idle: 3 * LARGE,
        });
        let error = memory.take(2 * LARGE + 1).unwrap_err();
        assert!(matches!(error, MemoryError::TooLarge { .. }), "{error}");
        drop(memory.take(2 * LARGE).unwrap());
        assert_eq!(memory.account().idle, 2 * LARGE);
        let many: Vec<_> = (0..3).map(|_| memory.take(LARGE).unwrap()).collect();
        let account = memory.account();
        assert!(account.lent + account.idle <= 3 * LARGE, "{account:?}");
        let error = memory.take(1).unwrap_err();
        assert!(matches!(error, MemoryError::Exhausted { .. }), "{error}");
        drop(many);
        assert_eq!(memory.account().lent, 0);
        assert!(memory.take(1).is_ok());
    }
}

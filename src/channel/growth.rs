//! The growth of a channel's rings.
//!
//! A channel begins with small slots ([`RingShape`]); a message that
//! does not fit travels beside them, as payloads beyond any slot do. At the first one that would
//! fit a slot of the shape that was agreed on, the end that sends or receives it registers rings of
//! that shape, and tells the other, which does the same. All that was begun ends where it began:
//!
//! 1. An end that has grown writes the address of its new receive ring into the last small slot of
//!    the peer's ring, which no call uses, and says [`Grown`](crate::wire::Signal::Grown). It does
//!    so once.
//! 2. The caller that has told that, and was told, makes each further request in the large slot of
//!    its number ([`Large`](crate::wire::Signal::Large)). Messages arrive in order, so the service
//!    knows the caller's ring by then, and answers in the large slot, too.
//!
//! Thus both ends agree on where each slot is at any time, and credits are as they were (SLOT-1,
//! SLOT-2, RING-1). An end that cannot register more stays as it is and says nothing.

#[cfg(test)]
mod tests;

use super::geometry::RingShape;
use super::lend::{RemoteRing, RemoteRings, Ring, SlotToken};
use super::queue_pair_group::{QueuePairGroup, WriteRequest};
use super::{RingAddress, Violation};
use crate::fabric::{Device, FabricError};
use crate::wire::{Immediate, Signal};

/// Bytes of the message that says where the new ring is.
const LEN: usize = 24;

/// How far the rings of one end have grown.
#[derive(Debug)]
pub(super) struct Growth {
    stage: Stage,
    /// The tokens of the last small slots, to send the address from and to find the peer's in;
    /// `None` if the rings cannot grow.
    told: Option<[SlotToken; 2]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Small,
    /// The new rings are being registered, without a lock.
    Growing,
    /// The peer is to be told.
    Due,
    /// The peer has been told.
    Told,
    /// The device has refused, or the channel cannot grow.
    Never,
}

impl Growth {
    /// Takes the tokens of the last slots of send memory and of the receive ring, if they can grow.
    pub(super) fn new(
        shape: RingShape,
        sends: &mut Vec<SlotToken>,
        received: &mut Vec<SlotToken>,
    ) -> Self {
        let last = shape.grown.and_then(|_| sends.pop().zip(received.pop()));
        Self {
            stage: match last {
                Some(_) => Stage::Small,
                None => Stage::Never,
            },
            told: last.map(|(send, received)| [send, received]),
        }
    }

    /// Returns whether the rings are to be [registered](register) now, which is then up to the one
    /// who asked.
    pub(super) fn begin(&mut self) -> bool {
        let is_small = self.stage == Stage::Small;
        if is_small {
            self.stage = Stage::Growing;
        }
        is_small
    }

    /// Returns whether nothing has begun yet.
    pub(super) fn is_small(&self) -> bool {
        self.stage == Stage::Small
    }

    /// Notes that the rings have been [registered](register), or could not be.
    pub(super) fn registered(&mut self, are_there: bool) {
        self.stage = match are_there {
            true => Stage::Due,
            false => Stage::Never,
        };
    }

    /// Returns whether the peer has been told of the new ring.
    pub(super) fn is_told(&self) -> bool {
        self.stage == Stage::Told
    }

    /// Tells the peer where the new ring is, if it is there and was not told: the last slot of
    /// `sends` goes into that of the peer's ring at the beginning. Returns whether it has been told
    /// by this call; without room in the send queue, call again after the next completion.
    ///
    /// # Errors
    /// The device refuses.
    pub(super) fn tell(
        &mut self,
        queue_pairs: &mut QueuePairGroup,
        (sends, received): (&Ring, &Ring),
        remote: &RemoteRings,
    ) -> Result<bool, FabricError> {
        let (Stage::Due, Some(address), Some([send, _])) =
            (self.stage, received.grown_address(), &mut self.told)
        else {
            return Ok(false);
        };
        let mut message = [0; LEN];
        let words = [address.addr, address.length, address.rkey.into()];
        for (place, word) in message.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        sends.bytes_mut(send)[..LEN].copy_from_slice(&message);
        let (slot, signal) = (send.slot(), Signal::Grown);
        let is_told = queue_pairs.write(&WriteRequest {
            imm: Immediate { slot, signal }.to_bits(),
            bytes: &sends.bytes(send)[..LEN],
            lkey: send.lkey(),
            to: remote.first().slot(slot),
        })?;
        if is_told {
            self.stage = Stage::Told;
        }
        Ok(is_told)
    }

    /// Notes where the peer's new ring is, which it says in the last slot of `received`. It may do
    /// that once.
    pub(super) fn learn(
        &self,
        shape: RingShape,
        received: &Ring,
        remote: &mut RemoteRings,
    ) -> Result<(), Violation> {
        let (grown, [_, told]) = shape
            .grown
            .zip(self.told.as_ref())
            .ok_or(Violation::BadRing)?;
        if remote.grown().is_some() {
            return Err(Violation::BadRing);
        }
        let ring = address_in(received.bytes(told)).ok_or(Violation::BadRing)?;
        let ring: RemoteRing = ring.native_ring(grown).map_err(|_| Violation::BadRing)?;
        if ring.overlaps(remote.first()) {
            return Err(Violation::BadRing);
        }
        remote.set_grown(ring);
        Ok(())
    }

    /// The tokens of the last slots, once nothing is sent or received any more.
    pub(super) fn take_tokens(&mut self) -> Option<[SlotToken; 2]> {
        self.stage = Stage::Never;
        self.told.take()
    }
}

/// Registers the new rings. Not under a lock: it takes long.
pub(super) fn register(device: &dyn Device, sends: &Ring, received: &Ring) -> bool {
    let registered = sends.prepare_send(device).and_then(|to_send| {
        received.grow(received.prepare_receive(device)?);
        sends.grow(to_send);
        Ok::<_, FabricError>(())
    });
    if let Err(error) = &registered {
        tracing::warn!(
            %error,
            "a channel keeps its small slots, so that larger messages take longer; \
             see the locked memory that a process may have (`ulimit -l`)"
        );
    }
    registered.is_ok()
}

/// Reads the address of a peer's new ring. Each word is read once: the peer may change it.
fn address_in(bytes: &[u8]) -> Option<RingAddress> {
    let message: [u8; LEN] = *bytes.first_chunk()?;
    let mut words = message.chunks_exact(8);
    let mut next = || Some(u64::from_le_bytes(*words.next()?.first_chunk()?));
    Some(RingAddress {
        addr: next()?,
        length: next()?,
        rkey: u32::try_from(next()?).ok()?,
    })
}

//! A worker's part in an all-reduce around a ring: reduce-scatter, then all-gather.
//!
//! The sum is cut into as many chunks as there are ranks. In each of 2 (ranks - 1) phases a rank
//! sends one chunk to the next rank and receives another from the one before. In the first half of
//! them what is received is added to what the rank has: of each chunk one rank has the sum then. In
//! the second half these go around, and are taken as they are.
//!
//! Chunks arrive as calls, which wait here until it is their turn, with their bytes where they
//! arrived: nobody is asked to wait for somebody who waits for him, as these calls are answered
//! while the step that needs them is under way.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::vector::{self, NUMBER, add, chunk};

/// See the [module](self). Rounds have numbers, each higher than the last, so that what is left of
/// a round that came to nothing is told from the next.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    round: Mutex<Round>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Round {
    number: u64,
    state: RingState,
    rank: usize,
    ranks: usize,
    sum: Vec<f32>,
    /// Chunks that have come in.
    received: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum RingState {
    Running,
    /// It is done, or has come to nothing.
    #[default]
    Over,
}

/// Where a chunk belongs; stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) round: u64,
    pub(crate) phase: usize,
}

/// A round came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum RingError {
    #[error("round {round} is over")]
    Over { round: u64 },
    #[error("a chunk of {found} bytes came out of turn, or in another size than expected")]
    Chunk { found: u64 },
}

impl Label {
    pub(crate) const LEN: usize = 16;

    fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.round.to_le_bytes());
        bytes[8..].copy_from_slice(&(self.phase as u64).to_le_bytes());
        bytes
    }

    fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (round, rest) = bytes.split_first_chunk()?;
        let (phase, rest) = rest.split_first_chunk()?;
        let label = Self {
            round: u64::from_le_bytes(*round),
            phase: usize::try_from(u64::from_le_bytes(*phase)).ok()?,
        };
        Some((label, rest))
    }
}

impl Ring {
    /// Begins a round with what this rank adds to the sum.
    pub(crate) fn begin(
        &self,
        number: u64,
        rank: usize,
        ranks: usize,
        sum: Vec<f32>,
    ) -> Result<(), RingError> {
        let mut round = self.lock();
        if number <= round.number {
            return Err(RingError::Over { round: number });
        }
        *round = Round {
            number,
            state: RingState::Running,
            rank,
            ranks,
            sum,
            received: 0,
        };
        self.changed.notify_waiters();
        Ok(())
    }

    /// Writes the chunk that is sent in a phase, behind its label, and says how many bytes that is.
    /// If they are more than there is room for, nothing is written.
    pub(crate) fn write(&self, label: Label, room: &mut [u8]) -> usize {
        let round = self.lock();
        let chunk = round.chunk(round.sent_in(label.phase));
        let len = Label::LEN + NUMBER * chunk.len();
        if let Some(room) = room.get_mut(..len) {
            let (head, body) = room.split_at_mut(Label::LEN);
            head.copy_from_slice(&label.to_bytes());
            vector::write(&round.sum[chunk], body);
        }
        len
    }

    /// Waits until it is the turn of a chunk, and takes it in.
    pub(crate) async fn receive(&self, bytes: &[u8]) -> Result<(), RingError> {
        let found = bytes.len() as u64;
        let (label, bytes) = Label::split(bytes).ok_or(RingError::Chunk { found })?;
        self.until(|round| {
            if label.round > round.number {
                return Ok(false);
            }
            round.check(label.round)?;
            if label.phase > round.received {
                return Ok(false);
            }
            round.take_in(label.phase, bytes).map(|()| true)
        })
        .await?;
        self.changed.notify_waiters();
        Ok(())
    }

    /// Waits until so many chunks have come in.
    pub(crate) async fn received(&self, number: u64, chunks: usize) -> Result<(), RingError> {
        self.until(|round| {
            round.check(number)?;
            Ok(round.received >= chunks)
        })
        .await
    }

    /// Gives the sum of a round out, which is over then.
    pub(crate) fn end(&self, number: u64) -> Result<Vec<f32>, RingError> {
        let mut round = self.lock();
        round.check(number)?;
        round.state = RingState::Over;
        Ok(std::mem::take(&mut round.sum))
    }

    /// Ends a round, begun or not, and tells its waiters.
    pub(crate) fn abort(&self, number: u64) {
        let mut round = self.lock();
        if number >= round.number {
            round.number = number;
            round.state = RingState::Over;
        }
        self.changed.notify_waiters();
    }

    /// Waits until it `is` so.
    async fn until(
        &self,
        mut is: impl FnMut(&mut Round) -> Result<bool, RingError>,
    ) -> Result<(), RingError> {
        loop {
            let changed = self.changed.notified();
            // What changes from here on, `changed` has seen.
            if is(&mut self.lock())? {
                return Ok(());
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    fn check(&self, number: u64) -> Result<(), RingError> {
        if self.number != number || self.state == RingState::Over {
            return Err(RingError::Over { round: number });
        }
        Ok(())
    }

    fn take_in(&mut self, phase: usize, bytes: &[u8]) -> Result<(), RingError> {
        // What the rank before sends, this one receives.
        let number = (self.sent_in(phase) + self.ranks - 1) % self.ranks;
        let chunk = self.chunk(number);
        let is_in_turn = phase == self.received && phase < 2 * (self.ranks - 1);
        if !is_in_turn || bytes.len() != NUMBER * chunk.len() {
            let found = bytes.len() as u64;
            return Err(RingError::Chunk { found });
        }
        let sum = &mut self.sum[chunk];
        if phase < self.ranks - 1 {
            add(sum, vector::numbers(bytes));
        } else {
            vector::read(bytes, sum);
        }
        self.received += 1;
        Ok(())
    }

    /// The number of the chunk that this rank sends in a phase: first its own, and then what it
    /// received last.
    fn sent_in(&self, phase: usize) -> usize {
        (self.rank + 2 * self.ranks - phase % self.ranks) % self.ranks
    }

    fn chunk(&self, number: usize) -> std::ops::Range<usize> {
        chunk(number, self.ranks, self.sum.len())
    }
}

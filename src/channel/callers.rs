//! The callers of a mailbox, each in a place of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use super::peer_channel::PeerChannel;
use super::work_id::WorkId;
use super::{Delivery, LossCause};
use crate::fabric::Completion;

/// The callers of a mailbox.
#[derive(Debug)]
pub(super) struct Callers {
    entries: Vec<CallerEntry>,
    /// Entries of the completion queue that can still be given to callers.
    pub(super) completions_left: u32,
}

/// A place for a caller. The generation distinguishes the completions of its earlier occupants.
#[derive(Debug, Default)]
struct CallerEntry {
    generation: u32,
    channel: Option<Arc<PeerChannel>>,
    /// Completion queue entries that the place has.
    completions: u32,
}

impl Callers {
    /// Starts without callers, and with this many entries of the completion queue to give away.
    pub(super) fn new(completions: u32) -> Self {
        Self {
            entries: Vec::new(),
            completions_left: completions,
        }
    }

    /// The channels of all callers.
    pub(super) fn channels(&self) -> impl Iterator<Item = &Arc<PeerChannel>> {
        self.entries
            .iter()
            .filter_map(|entry| entry.channel.as_ref())
    }

    /// Returns a place that is free.
    pub(super) fn free(&mut self) -> Key {
        let is_free = |entry: &CallerEntry| entry.channel.is_none() && entry.completions == 0;
        let free = self.entries.iter().position(is_free);
        let at = free.unwrap_or_else(|| {
            self.entries.push(CallerEntry::default());
            self.entries.len() - 1
        });
        self.key(at)
    }

    /// Gives entries of the completion queue to a place; at least as many must be left.
    pub(super) fn reserve(&mut self, key: Key, completions: u32) {
        self.completions_left -= completions;
        self.entries[key.at].completions = completions;
    }

    /// Puts a channel into the place.
    pub(super) fn occupy(&mut self, key: Key, channel: Arc<PeerChannel>) {
        self.entries[key.at].channel = Some(channel);
    }

    /// Begins a new generation of the place: completions of earlier work no longer count. Returns
    /// its new key.
    pub(super) fn renew(&mut self, key: Key) -> Key {
        let entry = &mut self.entries[key.at];
        entry.generation = (entry.generation + 1) & GENERATION;
        self.key(key.at)
    }

    /// Frees a place without an occupant.
    pub(super) fn vacate(&mut self, key: Key) {
        self.renew(key);
        self.completions_left += std::mem::take(&mut self.entries[key.at].completions);
    }

    /// The places of the channels that `is_meant` selects.
    pub(super) fn find(&self, is_meant: impl Fn(&PeerChannel) -> bool) -> Vec<Key> {
        let is_meant = |at: &usize| {
            let channel = self.entries[*at].channel.as_ref();
            channel.is_some_and(|channel| is_meant(channel))
        };
        let meant = (0..self.entries.len()).filter(is_meant);
        meant.map(|at| self.key(at)).collect()
    }

    /// Takes a channel out of its place, which stays reserved.
    pub(super) fn take(&mut self, key: Key) -> Option<Arc<PeerChannel>> {
        self.entries[key.at].channel.take()
    }

    /// Closes a channel, which frees its place.
    pub(super) fn close(&mut self, key: Key, cause: &LossCause) -> Option<Arc<PeerChannel>> {
        let channel = self.take(key)?;
        self.vacate(key);
        channel.close(cause.clone());
        Some(channel)
    }

    /// Handles completions that differ in their immediates at most.
    #[inline]
    pub(super) fn complete(&mut self, run: &[Completion], deliveries: &mut VecDeque<Delivery>) {
        let Some(&Completion { wr_id, status, .. }) = run.first() else {
            return;
        };
        let id = WorkId::from_bits(wr_id);
        let Some(channel) = self.occupant(Key::of(id.owner)) else {
            return;
        };
        let completed = if !status.is_success() {
            Err(status.into())
        } else if id.receive {
            channel.receive(id, run, deliveries)
        } else {
            run.iter()
                .try_for_each(|_| channel.complete(id, deliveries))
        };
        if let Err(cause) = completed {
            self.lose(Key::of(id.owner), cause, deliveries);
        }
    }

    #[cold]
    fn lose(&mut self, key: Key, cause: LossCause, deliveries: &mut VecDeque<Delivery>) {
        if let Some(channel) = self.close(key, &cause) {
            let peer = channel.peer.clone();
            deliveries.push_back(Delivery::Lost { peer, cause });
        }
    }

    /// The channel that a work request belongs to.
    #[inline]
    fn occupant(&self, key: Key) -> Option<&Arc<PeerChannel>> {
        let entry = self.entries.get(key.at)?;
        let channel = entry.channel.as_ref();
        channel.filter(|_| entry.generation == key.generation)
    }

    fn key(&self, at: usize) -> Key {
        let generation = self.entries[at].generation;
        Key { at, generation }
    }
}

/// A place and its generation: the owner of a work request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    at: usize,
    generation: u32,
}

const PLACE_BITS: u32 = 16;
const GENERATION: u32 = (1 << (WorkId::OWNER_BITS - PLACE_BITS)) - 1;

impl Key {
    #[inline]
    fn of(owner: u64) -> Self {
        Self {
            at: owner as usize & ((1 << PLACE_BITS) - 1),
            generation: (owner >> PLACE_BITS) as u32,
        }
    }

    pub(super) fn to_owner(self) -> u64 {
        u64::from(self.generation) << PLACE_BITS | self.at as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::loopback::{DRIVER, Loopback};
    use crate::fabric::{CompletionStatus, Opcode};

    #[test]
    fn fence_1_completions_of_an_earlier_caller_in_a_place_do_nothing() {
        let mut ends = Loopback::new(2);
        ends.mailbox.dismiss(DRIVER, Some(1), &LossCause::Gone);
        let second = ends.dial(2);
        assert_eq!(
            ends.mailbox.callers.entries.len(),
            1,
            "the place is used again"
        );
        let completion = |generation, queue_pair, status| {
            let id = WorkId {
                receive: queue_pair == 0,
                owner: Key { at: 0, generation }.to_owner(),
                queue_pair,
                retires: 0,
            };
            Completion {
                wr_id: id.to_bits(),
                status,
                opcode: Opcode::RecvWriteWithImm,
                imm: Some(0),
                ..Completion::EMPTY
            }
        };
        let mut deliveries = VecDeque::new();
        for queue_pair in [0, WorkId::BULK] {
            for status in [CompletionStatus::Success, CompletionStatus::Flushed] {
                let early = completion(0, queue_pair, status);
                ends.mailbox.callers.complete(&[early], &mut deliveries);
                assert!(deliveries.is_empty(), "{deliveries:?}");
                let [(_, violations)] = &ends.mailbox.violations()[..] else {
                    panic!("the caller of now is gone")
                };
                assert_eq!(violations.total(), 0);
            }
        }
        ends.serve(&second);
        // Those of now count.
        let generation = ends.mailbox.callers.entries[0].generation;
        let lost = completion(generation, 0, CompletionStatus::Flushed);
        ends.mailbox.callers.complete(&[lost], &mut deliveries);
        assert!(matches!(
            deliveries.pop_front(),
            Some(Delivery::Lost { .. })
        ));
    }

    #[test]
    fn a_key_survives_its_owner_number() {
        for (at, generation) in [(0, 0), (1, 2), ((1 << PLACE_BITS) - 1, GENERATION)] {
            let key = Key { at, generation };
            assert_eq!(Key::of(key.to_owner()), key);
            assert!(key.to_owner() < 1 << WorkId::OWNER_BITS);
        }
    }
}

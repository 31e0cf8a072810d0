//! How the slots of a channel become larger, and small again.
//!
//! A channel whose ends both know how begins with [small](crate::channel::Geometry::first) slots,
//! as many as it may have calls in flight. A message that fits a full slot, and not a small one,
//! waits until slots are larger. To a program that makes no difference: requests wait in their
//! order, as for a credit, and nothing travels outside of a slot that fits a full one.
//!
//! 1. The caller registers larger rings, and tells the service where it wants answers, in a request
//!    of its own ([`Signal::Grow`]). Calls that fit go on meanwhile.
//! 2. The service registers larger rings, and answers where it wants requests.
//! 3. From then on the next call in each slot uses the larger place, and says so
//!    ([`Signal::Grown`]). Whoever has a slot's credit is alone with the slot at both ends
//!    (SLOT-1), so nothing of the smaller place is in use then (RING-1), and slots change one by
//!    one, however busy the others are.
//!
//! An answer that does not fit its slot is kept by the service. The caller is told, asks for larger
//! slots if there are none yet, and has the answer written into the larger place of its slot
//! ([`Signal::Fetch`]).
//!
//! If an end has no memory for larger rings, messages that need them travel outside of slots; if
//! there is no memory for that either, they fail with the reason. The peer is asked again at the
//! next such message [a second](RETRY) later.
//! After [a minute](IDLE) without calls the caller uses larger slots no more, and tells the service
//! ([`Signal::Shrink`]); both free them.

use std::time::{Duration, Instant};

use crate::channel::client::ClientState;
use crate::channel::core::caller::{CallId, Prepared, PreparedPayload};
use crate::channel::core::slot::SlotTokens;
use crate::channel::lend::LargerRings;
use crate::channel::{CallError, ClientChannel, RingAddress, Violation};
use crate::wire::{Header, Immediate, MessageKind, Signal};

/// How long after a refusal the peer is not asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a channel is idle before its slots become small.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// How far the growth of a channel's slots is.
#[derive(Debug)]
pub(in crate::channel) enum Growth {
    /// They are small.
    Small,
    /// They are small, since memory was missing. Until this time that is not tried again.
    Refused { until: Instant, reason: String },
    /// Larger rings are to be registered, without the lock.
    Wanted,
    /// A thread registers larger rings.
    Registering,
    /// The peer is to be asked as soon as there is a credit; this is where it shall write answers.
    Ready(RingAddress),
    /// The peer has been asked.
    Asked,
    /// They are as large as they will be. So many calls had been made at this time, if they can
    /// become small again.
    Full { seen: Option<(u64, Instant)> },
}

impl Growth {
    /// Returns whether larger rings are to be registered by whoever asks.
    pub(super) fn begin(&mut self) -> bool {
        let is_wanted = matches!(self, Self::Wanted);
        if is_wanted {
            *self = Self::Registering;
        }
        is_wanted
    }

    /// Returns whether arrivals are awaited that no call may wait for.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(
            self,
            Self::Wanted | Self::Registering | Self::Ready(_) | Self::Asked
        )
    }

    fn refused(reason: String) -> Self {
        let until = Instant::now() + RETRY;
        Self::Refused { until, reason }
    }
}

impl ClientChannel {
    /// Registers larger rings, to ask the peer for such. There are effects then.
    #[cold]
    pub(super) fn register_larger(&self) {
        let Some(memory) = &self.memory else {
            return; // Only with a native peer.
        };
        let larger = LargerRings::register(&**memory.device(), self.geometry);
        let mut core = self.lock();
        match larger {
            // What was registered for a closed channel is dropped.
            Ok(_) if core.caller.closed().is_some() => {}
            Ok(larger) => {
                let (address, tokens) = larger.add_to(&self.replies, &self.sends);
                core.caller.set_larger(tokens);
                core.growth = Growth::Ready(address);
            }
            Err(error) => {
                core.growth = Growth::refused(error.to_string());
                core.caller.want_growth();
            }
        }
    }

    /// Lines up a request that fits larger slots only, outside of them if there is memory.
    #[cold]
    pub(super) fn line_up_large(&self, id: CallId, request: Prepared, error: CallError) {
        let block = match (&request.payload, &self.memory) {
            (PreparedPayload::Here(payload), Some(memory)) => {
                let block = memory.take(payload.len()).ok();
                block.map(|mut block| {
                    block[..payload.len()].copy_from_slice(payload);
                    block.truncate(payload.len());
                    block
                })
            }
            _ => None,
        };
        let mut core = self.lock();
        match block.map(PreparedPayload::Pooled) {
            Some(payload) => core.caller.line_up(id, Prepared { payload, ..request }),
            None => core.caller.fail_waiting(id, error),
        }
        self.wake(core);
    }

    /// Gives larger slots back if no call was made, nor is in flight, for so long before `now`.
    /// Returns whether it did. To be asked from time to time.
    pub(in crate::channel) fn shrink_if_idle(&self, now: Instant, idle: Duration) -> bool {
        let mut core = self.lock();
        let made = core.caller.made();
        let is_idle = core.caller.is_idle() && !core.caller.has_unsent();
        let Growth::Full { seen: Some(seen) } = &mut core.growth else {
            return false;
        };
        if !is_idle || seen.0 != made {
            *seen = (made, now);
        }
        if now.saturating_duration_since(seen.1) < idle || !is_idle {
            return false;
        }
        let unused = core.shrink(self);
        self.wake(core);
        unused
    }
}

impl ClientState {
    /// Does what is to be done for messages that need larger slots: has such registered, asks for
    /// them, fetches answers that are kept for them, or fails those messages.
    #[cold]
    pub(super) fn attend_growth(&mut self, channel: &ClientChannel) {
        if self.is_full_size(channel) && !self.caller.wants_growth() {
            return;
        }
        let is_wanted = self.caller.wants_growth() || !self.next_fits(channel);
        if !is_wanted || self.caller.closed().is_some() {
            if let Growth::Ready(_) = self.growth {
                // Nobody wants them any more.
                self.growth = Growth::Small;
                let larger = self.caller.take_larger();
                self.give_up(channel, larger);
            }
            return;
        }
        match &self.growth {
            Growth::Refused { until, reason } if Instant::now() < *until => {
                let reason = reason.clone();
                self.send_large_outside(channel, &reason);
            }
            Growth::Small | Growth::Refused { .. } => self.growth = Growth::Wanted,
            Growth::Wanted | Growth::Registering | Growth::Asked => {}
            Growth::Ready(address) => {
                let address = *address;
                self.ask_for_growth(channel, address);
            }
            Growth::Full { .. } => self.fetch_withheld(),
        }
    }

    /// Has messages that need larger slots, which cannot be had, travel outside.
    fn send_large_outside(&mut self, channel: &ClientChannel, reason: &str) {
        self.fetch_withheld();
        while let Some(size) = self.next_too_large(channel) {
            self.caller.take_large(CallError::NoMemory {
                size,
                reason: reason.to_owned(),
                is_answer: false,
            });
        }
    }

    /// Fetches answers that the peer keeps.
    fn fetch_withheld(&mut self) {
        self.caller.leave_small();
        while self.queue_pairs.has_room()
            && let Some(slot) = self.caller.fetch()
        {
            let signal = Signal::Fetch;
            self.write_nothing(Immediate { slot, signal });
        }
    }

    /// Asks the peer for larger slots, if there is a credit.
    fn ask_for_growth(&mut self, channel: &ClientChannel, address: RingAddress) {
        if !self.queue_pairs.has_room() {
            return;
        }
        let Some((id, mut send)) = self.caller.claim_for_growth() else {
            return;
        };
        self.growth = Growth::Asked;
        self.renew(channel, &mut send);
        let header = Header {
            kind: MessageKind::Request,
            method: 0,
            request_id: id.0,
            payload_len: RingAddress::LEN as u32,
            extension: None,
        };
        let message = channel.sends.bytes_mut(&mut send);
        message[Header::LEN..][..RingAddress::LEN].copy_from_slice(&address.to_bytes());
        let (slot, signal) = (send.slot(), Signal::Grow);
        self.post_as(channel, &header, send, Immediate { slot, signal });
    }

    /// Handles the answer in `slot` to the request for larger slots.
    pub(super) fn conclude_growth(&mut self, channel: &ClientChannel, slot: u16) {
        let replied = self.caller.replied(slot).ok();
        let answer = replied.and_then(|replied| {
            let bytes = channel.replies.bytes(replied);
            let (header, payload) = channel.profile.decode(bytes).ok()?;
            let payload = &bytes[payload];
            Some(match header.kind {
                MessageKind::Reply => Ok(self.remotes.larger(payload, channel.geometry)),
                _ => Err(channel.profile.decode_fault(payload).ok()),
            })
        });
        self.caller.conclude_growth(slot);
        let reason = match &answer {
            Some(Ok(Some(ring))) => {
                self.remotes.grow(*ring);
                self.queue_pairs.remote_has_changed();
                self.caller.grow();
                let seen = Some((self.caller.made(), Instant::now()));
                self.growth = Growth::Full { seen };
                return;
            }
            Some(Err(Some(fault))) => format!("at the peer: {fault}"),
            _ => "the peer's larger ring is none".to_owned(),
        };
        // DROP-1: nothing was sent from the one, and the peer was refused the other.
        let larger = self.caller.take_larger();
        self.give_up(channel, larger);
        self.caller.want_growth();
        self.growth = Growth::refused(reason);
        if !matches!(answer, Some(Err(Some(_)))) {
            self.violations.record(Violation::BadGrowth, &channel.peer);
        }
    }

    /// Has the first slots used again, and tells the peer. No call is in flight. Returns whether that
    /// was possible yet.
    fn shrink(&mut self, channel: &ClientChannel) -> bool {
        // What was sent from the larger slots has arrived, but the device may still read it (DROP-1).
        self.progress(channel);
        let to = self.remotes.slot(false, 0);
        let is_flushed = matches!(self.queue_pairs.flush(to), Ok(true));
        if !is_flushed || !self.queue_pairs.has_room() || !self.caller.is_idle() {
            return false;
        }
        let signal = Signal::Shrink;
        self.write_nothing(Immediate { slot: 0, signal });
        let unused = self.remotes.shrink();
        self.queue_pairs.remote_has_shrunk(unused);
        self.growth = Growth::Small;
        let larger = self.caller.shrink();
        self.give_up(channel, larger);
        true
    }

    fn give_up(&mut self, channel: &ClientChannel, larger: Vec<SlotTokens>) {
        let unwanted = SlotTokens::give_up(larger, &channel.replies, &channel.sends);
        self.caller.give_up(unwanted);
    }

    /// Returns the size of the slots that calls are made in from now on, in bytes.
    #[inline]
    pub(super) fn slot_size(&self) -> usize {
        self.remotes.newest().geometry.slot_size()
    }

    /// Returns whether they are as large as they will be.
    pub(super) fn is_full_size(&self, channel: &ClientChannel) -> bool {
        self.slot_size() == channel.geometry.slot_size()
    }

    /// Returns whether the request that is to be sent next, if there is one, fits a slot.
    pub(super) fn next_fits(&self, channel: &ClientChannel) -> bool {
        self.is_full_size(channel) || self.next_too_large(channel).is_none()
    }

    /// The size of the payload of the request that is to be sent next, if it needs a larger slot.
    fn next_too_large(&self, channel: &ClientChannel) -> Option<usize> {
        let (request, deadline) = self.caller.next_waiting()?;
        let PreparedPayload::Here(payload) = &request.payload else {
            return None;
        };
        let left = deadline.map(|_| Duration::ZERO);
        let header = channel.request(CallId(0), request.method, left, request.stream);
        (header.encoded_len() + payload.len() > self.slot_size()).then_some(payload.len())
    }
}

#[cfg(test)]
mod tests;

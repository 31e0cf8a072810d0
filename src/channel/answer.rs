//! What came of a call.

use std::ops::{Deref, Range};
use std::sync::Arc;

use super::caller::CallId;
use super::client::Landed;
use super::lend::{Lent, Loan, Ring};
use super::{Block, CallError, ClientChannel};
use crate::wire::{DecodeError, Fault};

/// An answer: lent from the ring, whose credit goes back when this is dropped, or from this process.
#[derive(Debug)]
pub struct Answer<'a>(Source<'a>);

#[derive(Debug)]
enum Source<'a> {
    Ring(RingAnswer<'a>),
    /// `None`: the stream that was asked for an item has no more.
    Here(Result<Option<Vec<u8>>, Fault>),
}

#[derive(Debug)]
struct RingAnswer<'a> {
    channel: &'a Arc<ClientChannel>,
    id: CallId,
    slot: u16,
    loan: Option<Loan<'a>>,
    /// The payload, if it did not travel through the ring.
    outside: Option<Block>,
    landed: Landed,
}

impl<'a> RingAnswer<'a> {
    #[inline]
    fn read(
        channel: &'a Arc<ClientChannel>,
        id: CallId,
        slot: u16,
        landed: Landed,
    ) -> Result<Self, CallError> {
        let mut answer = Self {
            channel,
            id,
            slot,
            loan: Some(channel.lend_answer(slot)),
            outside: None,
            landed,
        };
        if landed.is_outside {
            answer.outside = channel.take_read(slot)?;
        }
        Ok(answer)
    }

    #[inline]
    fn payload(&self) -> &[u8] {
        match (&self.outside, &self.loan) {
            (Some(block), _) => block,
            (None, Some(loan)) => &loan[self.landed.payload()],
            (None, None) => &[],
        }
    }

    fn keep(mut self) -> Kept {
        if let Some(block) = self.outside.take() {
            return Kept::Outside(block);
        }
        self.loan = None;
        // Nobody else is lent the slot of an answered call.
        let kept = InRing {
            channel: self.channel.clone(),
            id: self.id,
            slot: self.slot,
            loan: self.channel.lend_answer_shared(self.slot),
            payload: self.landed.payload(),
        };
        // It goes on as the owner of the slot.
        std::mem::forget(self);
        Kept::InRing(kept)
    }
}

impl Drop for RingAnswer<'_> {
    fn drop(&mut self) {
        self.loan = None;
        self.channel.finish(self.id, self.slot);
    }
}

impl<'a> Answer<'a> {
    pub(super) fn read(
        channel: &'a Arc<ClientChannel>,
        id: CallId,
        slot: u16,
        landed: Landed,
    ) -> Result<Self, CallError> {
        let answer = RingAnswer::read(channel, id, slot, landed)?;
        Ok(Self(Source::Ring(answer)))
    }

    pub(super) fn local(outcome: Result<Option<Vec<u8>>, Fault>) -> Self {
        Self(Source::Here(outcome))
    }

    /// The failure of the call, if it has one instead of a result.
    ///
    /// # Errors
    /// It does not decode.
    pub fn fault(&self) -> Result<Option<Fault>, DecodeError> {
        match &self.0 {
            Source::Ring(answer) if answer.landed.is_exception => {
                let profile = answer.channel.profile();
                profile.decode_fault(answer.payload()).map(Some)
            }
            Source::Here(Err(fault)) => Ok(Some(fault.clone())),
            Source::Ring(_) | Source::Here(Ok(_)) => Ok(None),
        }
    }

    /// Whether the stream that was asked for an item has no more.
    pub fn is_end(&self) -> bool {
        match &self.0 {
            Source::Ring(answer) => answer.landed.is_end,
            Source::Here(outcome) => matches!(outcome, Ok(None)),
        }
    }

    /// The payload, still in the ring, or in the memory that it was read into if it does not fit a slot.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        match &self.0 {
            Source::Ring(answer) => answer.payload(),
            Source::Here(Ok(Some(bytes))) => bytes,
            Source::Here(Ok(None) | Err(_)) => &[],
        }
    }

    /// Keeps the payload where it is, without the borrow of the call.
    pub fn keep(self) -> ReplyBytes {
        ReplyBytes(match self.0 {
            Source::Ring(answer) => answer.keep(),
            Source::Here(outcome) => Kept::Here(outcome.ok().flatten().unwrap_or_default()),
        })
    }
}

/// The payload of an answer, lent for as long as one likes: from the ring, whose credit goes back when this is dropped, or
/// from the memory that it was read into if it does not fit a slot.
#[derive(Debug)]
pub struct ReplyBytes(Kept);

#[derive(Debug)]
enum Kept {
    InRing(InRing),
    Outside(Block),
    Here(Vec<u8>),
}

#[derive(Debug)]
struct InRing {
    channel: Arc<ClientChannel>,
    id: CallId,
    slot: u16,
    loan: Option<Lent<Arc<Ring>>>,
    payload: Range<usize>,
}

impl Deref for ReplyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kept::Outside(block) => block,
            Kept::Here(bytes) => bytes,
            Kept::InRing(kept) => {
                let loan = kept.loan.as_ref();
                loan.map_or(&[], |loan| &loan[kept.payload.clone()])
            }
        }
    }
}

impl AsRef<[u8]> for ReplyBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for InRing {
    fn drop(&mut self) {
        self.loan = None;
        self.channel.finish(self.id, self.slot);
    }
}

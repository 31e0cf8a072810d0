//! The answer to a call.

use std::borrow::Borrow;
use std::ops::Deref;
use std::sync::Arc;

use super::core::caller::CallId;
use super::core::slot::ReplyMeta;
use super::lend::SlotToken;
use super::{CallError, ClientChannel, PooledBuffer, Profile};
use crate::wire::{DecodeError, Fault};

/// An answer whose bytes are lent from the ring. Dropping it returns the credit.
#[derive(Debug)]
pub struct Answer<'a> {
    ring: InRing<&'a Arc<ClientChannel>>,
    /// The payload, if it did not travel through the ring.
    outside: Option<PooledBuffer>,
}

impl<'a> Answer<'a> {
    pub(super) fn read(
        channel: &'a Arc<ClientChannel>,
        id: CallId,
        replied: SlotToken,
        reply: ReplyMeta,
    ) -> Result<Self, CallError> {
        Self::of(InRing::new(channel, id, replied, reply))
    }

    fn of(ring: InRing<&'a Arc<ClientChannel>>) -> Result<Self, CallError> {
        let outside = match &ring.replied {
            Some(replied) if ring.reply.is_outside => ring.channel.take_read(replied.slot())?,
            _ => None,
        };
        Ok(Self { ring, outside })
    }

    /// Lets `read` read the answer, and returns its credit then.
    #[inline]
    pub(super) fn read_with<T>(
        channel: &'a Arc<ClientChannel>,
        id: CallId,
        replied: SlotToken,
        reply: ReplyMeta,
        read: impl FnOnce(AnswerView<'_>) -> T,
    ) -> Result<T, CallError> {
        let ring = InRing::new(channel, id, replied, reply);
        if reply.is_outside {
            return Self::of(ring).map(|answer| read(answer.view()));
        }
        Ok(read(ring.view()))
    }

    /// A view of the answer.
    #[inline]
    pub fn view(&self) -> AnswerView<'_> {
        match &self.outside {
            Some(block) => AnswerView::new(block, self.ring.reply, self.ring.channel.profile()),
            None => self.ring.view(),
        }
    }

    /// The failure of the call, if the answer is one.
    ///
    /// # Errors
    /// The failure does not decode.
    pub fn fault(&self) -> Result<Option<Fault>, DecodeError> {
        self.view().fault()
    }

    /// Returns whether the stream that was asked for an item has no more.
    pub fn is_end(&self) -> bool {
        self.view().is_end()
    }

    /// The payload, still in the ring, or in the memory that it was read into if it does not fit a
    /// slot.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.view().payload()
    }

    /// Keeps the payload where it is, without the borrow of the call.
    pub fn keep(self) -> ReplyBytes {
        ReplyBytes(match self.outside {
            Some(block) => AnswerMemory::Pooled(block),
            None => AnswerMemory::InRing(self.ring.keep()),
        })
    }
}

/// An answer, viewed where its bytes lie.
#[derive(Debug, Clone, Copy)]
pub struct AnswerView<'a> {
    payload: &'a [u8],
    content: AnswerContent,
}

#[derive(Debug, Clone, Copy)]
enum AnswerContent {
    Result,
    /// The payload is a failure.
    Exception(Profile),
    End,
}

impl<'a> AnswerView<'a> {
    /// Views an answer whose header says this.
    #[inline]
    pub(super) fn new(payload: &'a [u8], reply: ReplyMeta, profile: Profile) -> Self {
        let content = if reply.is_exception {
            AnswerContent::Exception(profile)
        } else if reply.is_end {
            AnswerContent::End
        } else {
            AnswerContent::Result
        };
        Self { payload, content }
    }

    /// The failure of the call, if the answer is one.
    ///
    /// # Errors
    /// The failure does not decode.
    #[inline]
    pub fn fault(&self) -> Result<Option<Fault>, DecodeError> {
        match self.content {
            AnswerContent::Result | AnswerContent::End => Ok(None),
            AnswerContent::Exception(profile) => self.read_fault(profile),
        }
    }

    #[cold]
    fn read_fault(&self, profile: Profile) -> Result<Option<Fault>, DecodeError> {
        profile.decode_fault(self.payload).map(Some)
    }

    /// Returns whether the stream that was asked for an item has no more.
    #[inline]
    pub fn is_end(&self) -> bool {
        matches!(self.content, AnswerContent::End)
    }

    /// The payload of the answer.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The payload of an answer, kept as long as needed: in the ring, whose credit goes back when this
/// is dropped, or in the memory that it was read into if it does not fit a slot.
#[derive(Debug)]
pub struct ReplyBytes(AnswerMemory);

#[derive(Debug)]
enum AnswerMemory {
    InRing(InRing<Arc<ClientChannel>>),
    Pooled(PooledBuffer),
}

/// An answer in the ring, whose credit goes back when this is dropped.
#[derive(Debug)]
struct InRing<C: Borrow<Arc<ClientChannel>>> {
    channel: C,
    id: CallId,
    /// The right to its bytes, until this is dropped.
    replied: Option<SlotToken>,
    reply: ReplyMeta,
}

impl<C: Borrow<Arc<ClientChannel>>> InRing<C> {
    #[inline]
    fn new(channel: C, id: CallId, replied: SlotToken, reply: ReplyMeta) -> Self {
        Self {
            channel,
            id,
            replied: Some(replied),
            reply,
        }
    }

    /// The payload.
    #[inline]
    fn payload(&self) -> &[u8] {
        let bytes = |replied| self.channel.borrow().replies.bytes(replied);
        let replied = self.replied.as_ref();
        replied.map_or(&[], |replied| &bytes(replied)[self.reply.payload()])
    }

    #[inline]
    fn view(&self) -> AnswerView<'_> {
        AnswerView::new(self.payload(), self.reply, self.channel.borrow().profile())
    }

    /// The same, without the borrow of the channel.
    fn keep(mut self) -> InRing<Arc<ClientChannel>> {
        InRing {
            channel: self.channel.borrow().clone(),
            id: self.id,
            replied: self.replied.take(),
            reply: self.reply,
        }
    }
}

impl ReplyBytes {
    /// The payload of the answer, if `check` finds nothing wrong with that.
    #[inline]
    pub(super) fn read<E>(
        channel: &Arc<ClientChannel>,
        id: CallId,
        replied: SlotToken,
        reply: ReplyMeta,
        check: impl FnOnce(AnswerView<'_>) -> Result<(), E>,
    ) -> Result<Result<Self, E>, CallError> {
        if reply.is_outside {
            let answer = Answer::read(channel, id, replied, reply)?;
            return Ok(check(answer.view()).map(|()| answer.keep()));
        }
        let ring = InRing::new(channel.clone(), id, replied, reply);
        Ok(check(ring.view()).map(|()| Self(AnswerMemory::InRing(ring))))
    }
}

impl Deref for ReplyBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            AnswerMemory::Pooled(block) => block,
            AnswerMemory::InRing(kept) => kept.payload(),
        }
    }
}

impl AsRef<[u8]> for ReplyBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<C: Borrow<Arc<ClientChannel>>> Drop for InRing<C> {
    #[inline]
    fn drop(&mut self) {
        if let Some(replied) = self.replied.take() {
            self.channel.borrow().finish(self.id, replied);
        }
    }
}

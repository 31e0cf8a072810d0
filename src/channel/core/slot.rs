//! One slot of the calling side, with the state of its call.

use std::ops::Range;
use std::task::Waker;

use super::caller::CallId;
use crate::channel::lend::SlotToken;
use crate::channel::{CallError, PooledBuffer};
use crate::wire::{Header, MessageKind, RendezvousDescriptor, StreamPart};

/// A slot of the calling side. A free slot keeps the number of its last call.
#[derive(Debug)]
pub(super) struct Slot {
    /// The call in the slot; the number distinguishes it from earlier calls.
    pub(super) id: CallId,
    pub(super) phase: Phase,
    /// Description of the answer in the reply ring, once the call is answered.
    pub(super) reply: ReplyMeta,
    /// Wakes the waiter of the answer.
    pub(super) waker: Option<Waker>,
    /// The token of its send memory, unless that is being written.
    pub(super) send: Option<SlotToken>,
    /// The token of its place in the reply ring, unless that is being read.
    pub(super) replied: Option<SlotToken>,
    /// `None` for a plain call.
    pub(super) rare: Option<Box<Rare>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Free,
    /// Its request is being written.
    Claimed,
    /// Its request has been posted.
    Pending,
    /// Its answer is there.
    Answered,
    /// Its call has ended without an answer.
    Orphaned,
}

/// The parts that only some calls have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// The method of a call that nobody waits for.
    pub(super) one_way: Option<u32>,
    /// The payload of the request, which the peer reads from here.
    pub(super) exported: Option<PooledBuffer>,
    /// Whether the payload of the answer, which lies at the peer, is requested or being read.
    pub(super) is_reading: bool,
    /// The payload of the answer, once it has been read.
    pub(super) read: Option<Result<PooledBuffer, CallError>>,
}

/// What the header of an answer says about the bytes of its slot.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ReplyMeta {
    pub(crate) is_exception: bool,
    /// The stream has no more items.
    pub(crate) is_end: bool,
    /// The payload did not travel through the ring.
    pub(crate) is_outside: bool,
    begin: u32,
    end: u32,
}

impl Slot {
    pub(super) fn new(send: SlotToken, replied: SlotToken) -> Self {
        Self {
            id: CallId(0),
            phase: Phase::Free,
            reply: ReplyMeta::default(),
            waker: None,
            send: Some(send),
            replied: Some(replied),
            rare: None,
        }
    }

    /// Gives the slot to `id`, and takes the token of its send memory.
    #[inline]
    pub(super) fn claim(&mut self, id: CallId) -> SlotToken {
        self.id = id;
        self.phase = Phase::Claimed;
        self.send.take().expect("nobody writes a free slot")
    }

    /// Returns whether `id` is the call in the slot.
    #[inline]
    pub(super) fn is_of(&self, id: CallId) -> bool {
        self.id == id && self.phase != Phase::Free
    }

    #[inline]
    pub(super) fn is(&self, id: CallId, phase: Phase) -> bool {
        self.id == id && self.phase == phase
    }

    /// Returns whether the slot's memory is neither read nor written any more, on a closed channel.
    pub(super) fn is_unused(&self) -> bool {
        self.phase != Phase::Answered && self.send.is_some() && self.replied.is_some()
    }

    /// Its rare parts, made if there are none.
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

impl ReplyMeta {
    /// Describes an answer with this header, whose payload stands there in its slot; also returns
    /// where the payload lies if it does not.
    #[inline]
    pub(crate) fn of(
        header: &Header,
        payload: Range<usize>,
    ) -> (Self, Option<RendezvousDescriptor>) {
        let mut meta = Self {
            is_exception: header.kind == MessageKind::Exception,
            is_end: false,
            is_outside: false,
            begin: payload.start as u32,
            end: payload.end as u32,
        };
        let Some(extension) = &header.extension else {
            return (meta, None);
        };
        meta.is_end = matches!(extension.stream, Some(StreamPart::End(_)));
        meta.is_outside = extension.outside.is_some();
        (meta, extension.outside)
    }

    /// Range of the payload in its slot.
    #[inline]
    pub(crate) fn payload(self) -> Range<usize> {
        self.begin as usize..self.end as usize
    }
}

//! One slot of the calling side: everything that is known of the call in it.

use std::ops::Range;
use std::task::Waker;

use super::caller::CallId;
use crate::channel::lend::SlotToken;
use crate::channel::{CallError, PooledBuffer};
use crate::wire::{Header, MessageKind, RendezvousDescriptor, StreamPart};

/// See the [module](self). A free slot keeps the number of its last call.
#[derive(Debug)]
pub(super) struct Slot {
    /// The call in it: also what tells it from earlier ones.
    pub(super) id: CallId,
    pub(super) phase: Phase,
    /// What stands in the reply ring, once the call is answered.
    pub(super) reply: ReplyMeta,
    /// Wakes whoever waits for the answer.
    pub(super) waker: Option<Waker>,
    /// The right to its send memory, unless that is being written.
    pub(super) send: Option<SlotToken>,
    /// The right to its place in the reply ring, unless that is being read.
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

/// What only some calls have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// The method of a call that nobody waits for.
    pub(super) one_way: Option<u32>,
    /// The payload of the request, which the peer reads from here.
    pub(super) exported: Option<PooledBuffer>,
    /// Whether the payload of the answer, which lies at the peer, is asked for or being read.
    pub(super) is_reading: bool,
    /// The payload of the answer, once it has been read.
    pub(super) read: Option<Result<PooledBuffer, CallError>>,
}

/// What the header of an answer says about the bytes of its slot.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ReplyMeta {
    pub(crate) is_exception: bool,
    /// The stream that was asked for an item has no more.
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

    /// It is that of `id` now. Gives the right to its send memory away.
    #[inline]
    pub(super) fn claim(&mut self, id: CallId) -> SlotToken {
        self.id = id;
        self.phase = Phase::Claimed;
        self.send.take().expect("nobody writes a free slot")
    }

    /// Whether `id` is the call in it.
    #[inline]
    pub(super) fn is_of(&self, id: CallId) -> bool {
        self.id == id && self.phase != Phase::Free
    }

    #[inline]
    pub(super) fn is(&self, id: CallId, phase: Phase) -> bool {
        self.id == id && self.phase == phase
    }

    /// Whether nobody reads or writes its memory, nor will, as its channel is closed.
    pub(super) fn is_unused(&self) -> bool {
        self.phase != Phase::Answered && self.send.is_some() && self.replied.is_some()
    }

    /// What is rare about it, from now on.
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

impl ReplyMeta {
    /// An answer with this header, whose payload stands there in its slot; and where the payload
    /// lies if it does not.
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

    /// Where in its slot the payload is.
    #[inline]
    pub(crate) fn payload(self) -> Range<usize> {
        self.begin as usize..self.end as usize
    }
}

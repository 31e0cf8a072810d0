//! Frames as they come from the socket.

use std::io;
use std::ptr::NonNull;

use super::frame::{HEADER, Header};
use super::region::Target;
use super::stream::{Piece, Stream};

/// Bytes that are received before it is known what they are.
const STAGING: usize = 8 * 1024;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Input {
    staging: Box<[u8]>,
    /// Those in `staging` that have not been looked at.
    start: usize,
    end: usize,
    /// Number of the next frame.
    pub(super) sequence: u32,
    /// The frame whose bytes are being received.
    payload: Option<(Header, Target)>,
}

/// What became of a look at the socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// There is nothing more at the moment.
    Emptied,
    /// There may be more.
    Full,
    /// The peer has closed, or the connection is lost.
    End,
    /// Somebody has changed what the peer encrypted.
    Forged,
    /// The memory that the bytes belong to is not registered any more.
    Deregistered(Header),
}

/// How far the payload of a frame has come.
pub(super) enum Payload {
    /// There is no such frame.
    None,
    /// More of it has to come.
    Incomplete,
    /// The memory that it belongs to is not registered any more.
    Deregistered(Header),
    /// All has been received.
    Complete(Header),
}

impl Default for Input {
    fn default() -> Self {
        Self {
            staging: vec![0; STAGING].into(),
            start: 0,
            end: 0,
            sequence: 0,
            payload: None,
        }
    }
}

impl Input {
    /// The next header, if it has come. It stays the next until it is [taken](Self::take_header).
    pub(super) fn header(&self) -> Option<Result<Header, &'static str>> {
        let staged = &self.staging[self.start..self.end];
        let header = Header::decode(staged.first_chunk::<HEADER>()?);
        Some(header.and_then(|header| match header.sequence {
            sequence if sequence == self.sequence => Ok(header),
            _ => Err("a frame out of sequence"),
        }))
    }

    /// Goes on behind the header.
    pub(super) fn take_header(&mut self) {
        self.start += HEADER;
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// The bytes that follow belong to `target`.
    pub(super) fn expect(&mut self, header: Header, target: Target) {
        self.payload = Some((header, target));
    }

    /// Moves what has come of the payload to where it belongs.
    pub(super) fn payload(&mut self) -> Payload {
        let Some((header, target)) = &mut self.payload else {
            return Payload::None;
        };
        let count = target.left().min(self.end - self.start);
        if count > 0 {
            let Some((to, _held)) = target.rest() else {
                return Payload::Deregistered(*header);
            };
            let from = &self.staging[self.start..self.start + count];
            // SAFETY: `to` is at least `count` bytes of a region that `_held` keeps, and no part of
            // the staging buffer. This plays the device, whose part it is to move bytes that others
            // use: by the contract of `post_send` nobody here has a reference to those that change,
            // and bytes that are changed meanwhile arrive as some mixture, as by DMA.
            unsafe { to.as_ptr().copy_from_nonoverlapping(from.as_ptr(), count) };
            target.advance(count);
            self.start += count;
        }
        if target.left() > 0 {
            return Payload::Incomplete;
        }
        let header = *header;
        self.payload = None;
        Payload::Complete(header)
    }

    /// Receives: first the rest of the payload, into its memory, then whatever follows; nothing
    /// from the socket unless `reads`.
    pub(super) fn fill(&mut self, stream: &mut Stream, reads: bool) -> Filled {
        if self.start < self.end {
            self.staging.copy_within(self.start..self.end, 0);
        }
        self.end -= self.start;
        self.start = 0;
        let mut pieces = [Piece::EMPTY; 2];
        let (mut count, mut direct, mut held) = (0, 0, None);
        if let Some((header, target)) = &self.payload
            && target.left() > 0
        {
            let Some((first, memory)) = target.rest() else {
                return Filled::Deregistered(*header);
            };
            direct = target.left();
            pieces[0] = Piece::new(first, direct);
            held = Some(memory);
            count = 1;
        }
        let free = &mut self.staging[self.end..];
        let room = free.len();
        pieces[count] = Piece::new(NonNull::from(free).cast(), room);
        // SAFETY: the pieces are bytes of a region that `held` keeps, and of the staging buffer, to
        // which this has the only reference. For the former see `payload`.
        let received = unsafe { stream.receive(&mut pieces[..=count], reads) };
        drop(held);
        let received = match received {
            Ok(0) => return Filled::End,
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Filled::Emptied,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Filled::Forged,
            Err(_) => return Filled::End,
        };
        let moved = received.min(direct);
        if let Some((_, target)) = &mut self.payload {
            target.advance(moved);
        }
        self.end += received - moved;
        if received == direct + room {
            Filled::Full
        } else {
            Filled::Emptied
        }
    }
}

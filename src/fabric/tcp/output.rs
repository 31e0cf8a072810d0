//! Frames on their way to the socket.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::frame::Header;
use super::region::{RegionMemory, Target};
use super::stream::{Piece, Stream};

/// Frames that leave in one system call, if the socket takes them.
const AT_ONCE: usize = 16;
/// Bytes of registered memory that are copied behind their header: that takes less time than to
/// have the system gather them from a place of their own.
const COPIED: usize = 1024;
/// Sent bytes that are kept at least before those behind them are moved to the front, and bytes
/// that wait while more are copied to them.
const KEPT: usize = 64 * 1024;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Headers and inline data, of which those before `at` have been sent.
    bytes: Vec<u8>,
    at: usize,
    segments: VecDeque<Segment>,
    /// Number of the next frame.
    pub(super) sequence: u32,
    /// Answers to READs among the segments.
    pub(super) responses: u32,
}

/// Frames without registered memory, or the end of such and one with it.
#[derive(Debug)]
struct Segment {
    /// Bytes of `bytes`, which come first.
    buffered: usize,
    target: Target,
    is_response: bool,
}

/// Why nothing more can be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// The connection is gone.
    Lost,
    /// The memory that is to be sent is not registered any more.
    Deregistered,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether what waits is less than so many bytes, none of them in registered memory.
    pub(super) fn is_below(&self, bytes: usize) -> bool {
        let is_buffered = |segment: &Segment| segment.target.left() == 0;
        self.bytes.len() - self.at < bytes && self.segments.iter().all(is_buffered)
    }

    #[cfg(test)]
    pub(super) fn unsent(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Appends a frame: the header, then `inline`, then the bytes of `target`.
    pub(super) fn push(
        &mut self,
        mut header: Header,
        inline: &[u8],
        mut target: Target,
        is_response: bool,
    ) {
        header.sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        self.responses += u32::from(is_response);
        let header = header.encode();
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(inline);
        let mut buffered = header.len() + inline.len();
        // An answer is not: the peer may ask for as many as it likes before it reads one.
        let is_kept = !is_response && self.bytes.len() - self.at < KEPT;
        if is_kept
            && (1..=COPIED).contains(&target.left())
            && let Some((first, _held)) = target.rest()
        {
            let count = target.left();
            let end = self.bytes.len();
            self.bytes.reserve(count);
            // SAFETY: the target is `count` bytes of a region that `_held` keeps, which may be read
            // at any time by whoever plays the device; they go to as many bytes behind the
            // vector's, which were reserved for them and are initialised with that.
            unsafe {
                let to = self.bytes.as_mut_ptr().add(end);
                to.copy_from_nonoverlapping(first.as_ptr(), count);
                self.bytes.set_len(end + count);
            }
            target.advance(count);
            buffered += count;
        }
        match self.segments.back_mut() {
            Some(last) if last.target.left() == 0 && !last.is_response => {
                last.buffered += buffered;
                last.target = target;
                last.is_response = is_response;
            }
            _ => self.segments.push_back(Segment {
                buffered,
                target,
                is_response,
            }),
        }
    }

    /// Forgets what has not been sent.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.at = 0;
        self.segments.clear();
        self.responses = 0;
    }

    /// Sends as much as the socket takes.
    pub(super) fn flush(&mut self, stream: &mut Stream) -> Result<(), Unsent> {
        while let Some(first) = self.segments.front() {
            if self.segments.len() == 1 && first.target.left() == 0 {
                let piece = Piece::of(&self.bytes[self.at..self.at + first.buffered]);
                let total = first.buffered;
                // SAFETY: the piece is bytes of `self.bytes`, which nobody changes meanwhile.
                if self.sent(unsafe { stream.send(&[piece]) })? < total {
                    return Ok(());
                }
                continue;
            }
            let mut pieces = [Piece::EMPTY; 2 * AT_ONCE];
            let mut held: [Option<Arc<RegionMemory>>; AT_ONCE] = Default::default();
            let (mut count, mut total, mut at) = (0, 0, self.at);
            for (segment, held) in self.segments.iter().zip(&mut held) {
                let left = segment.target.left();
                let rest = match left {
                    0 => None,
                    _ => match segment.target.rest() {
                        Some(rest) => Some(rest),
                        // Those before it can be sent.
                        None if count > 0 => break,
                        None => return Err(Unsent::Deregistered),
                    },
                };
                let buffered = segment.buffered;
                if buffered > 0 {
                    pieces[count] = Piece::of(&self.bytes[at..at + buffered]);
                    count += 1;
                }
                if let Some((first, memory)) = rest {
                    pieces[count] = Piece::new(first, left);
                    count += 1;
                    *held = Some(memory);
                }
                at += buffered;
                total += buffered + left;
            }
            // SAFETY: the pieces are bytes of `self.bytes`, which nobody changes meanwhile, and of
            // regions that `held` keeps; those may be read at any time by whoever plays the device.
            if self.sent(unsafe { stream.send(&pieces[..count]) })? < total {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Accounts for what the socket has taken. How much that was.
    fn sent(&mut self, sent: io::Result<usize>) -> Result<usize, Unsent> {
        match sent {
            Ok(sent) => {
                self.advance(sent);
                Ok(sent)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(_) => Err(Unsent::Lost),
        }
    }

    fn advance(&mut self, mut sent: usize) {
        while let Some(segment) = self.segments.front_mut() {
            let buffered = sent.min(segment.buffered);
            segment.buffered -= buffered;
            self.at += buffered;
            sent -= buffered;
            let moved = sent.min(segment.target.left());
            segment.target.advance(moved);
            sent -= moved;
            if segment.buffered + segment.target.left() > 0 {
                break;
            }
            self.responses -= u32::from(segment.is_response);
            self.segments.pop_front();
        }
        if self.segments.is_empty() {
            self.bytes.clear();
            self.at = 0;
            if self.bytes.capacity() > 4 * KEPT {
                self.bytes.shrink_to(KEPT);
            }
        } else if self.at >= KEPT.max(self.bytes.len() / 2) {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
    }
}

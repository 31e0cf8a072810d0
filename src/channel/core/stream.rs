//! The streams of one caller, as the answering side sees them.
//!
//! Each item is the answer to a request of its own: the first to the request that opens the stream,
//! the others to requests for the next item, of which a caller has several under way. So every item
//! is one write into a slot that is free for it, and a caller that does not read gets no more than
//! it has asked for.

use std::collections::{HashMap, VecDeque};
use std::task::{Poll, Waker};

use super::responder::{Effects, SlotRequest};
use crate::wire::Fault;

/// Most streams that one caller may have open.
const MAX_STREAMS: usize = 1024;

/// The streams of a caller, each under the id of the request that opened it. One of which no more
/// items are wanted is not among them.
#[derive(Debug, Default)]
pub(crate) struct Streams(HashMap<u64, Stream>);

/// A stream of which items are wanted.
#[derive(Debug, Default)]
struct Stream {
    /// Requests for items, in the order in which they came. Boxed, as they are handed out.
    #[allow(clippy::vec_box)]
    asked: VecDeque<Box<SlotRequest>>,
    /// Why there are no more items, if the caller does not know it yet.
    failure: Option<Fault>,
    /// Wakes the task that makes the items.
    waker: Option<Waker>,
}

impl Streams {
    /// Opens a stream. Returns whether it did: not if there are too many, or if it is open.
    pub(super) fn open(&mut self, id: u64) -> bool {
        let is_new = self.0.len() < MAX_STREAMS && !self.0.contains_key(&id);
        if is_new {
            self.0.insert(id, Stream::default());
        }
        is_new
    }

    /// Adds a request for an item, or has it answered that there are no more.
    pub(super) fn ask(&mut self, id: u64, request: Box<SlotRequest>, effects: &mut Effects) {
        match self.0.get_mut(&id) {
            Some(stream) if stream.failure.is_none() => {
                stream.asked.push_back(request);
                effects.wakers.extend(stream.waker.take());
            }
            _ => {
                let over = self.0.remove(&id);
                let failure = over.and_then(|stream| stream.failure);
                effects.ended.push((request, failure));
            }
        }
    }

    /// Ends a stream, because the caller wants no more items.
    pub(super) fn cancel(&mut self, id: u64, effects: &mut Effects) {
        if let Some(stream) = self.0.remove(&id) {
            stream.end(effects);
        }
    }

    /// Ends the stream whose request for an item stands in `slot`. Returns whether there is one.
    pub(super) fn cancel_request(&mut self, slot: u16, effects: &mut Effects) -> bool {
        let mut asked = self.0.iter().filter(|(_, stream)| {
            let mut asked = stream.asked.iter();
            asked.any(|request| request.slot() == slot)
        });
        let Some((&id, _)) = asked.next() else {
            return false;
        };
        self.cancel(id, effects);
        true
    }

    /// The next request for an item; `None` once no item is wanted any more. If there is none yet,
    /// sets the waker, as [`poll_unwanted`](Self::poll_unwanted) does.
    pub(crate) fn poll_asked(
        &mut self,
        id: u64,
        waker: &Waker,
        before: &mut Option<Waker>,
    ) -> Poll<Option<Box<SlotRequest>>> {
        let stream = self.0.get_mut(&id);
        match stream.and_then(|stream| stream.asked.pop_front()) {
            Some(request) => Poll::Ready(Some(request)),
            None => self.poll_unwanted(id, waker, before).map(|()| None),
        }
    }

    /// Ready once no item is wanted any more. Until then `waker` is woken when a request for an
    /// item comes, or the end, in place of the waker `before`, which is to be dropped once the lock
    /// is released.
    pub(crate) fn poll_unwanted(
        &mut self,
        id: u64,
        waker: &Waker,
        before: &mut Option<Waker>,
    ) -> Poll<()> {
        match self.0.get_mut(&id) {
            Some(stream) if stream.failure.is_none() => {
                *before = stream.waker.replace(waker.clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Ends a stream, because there are no more items, or because of `failure`. The caller learns
    /// of the failure once, with its next request for an item if it has none here.
    pub(super) fn complete(&mut self, id: u64, failure: Option<Fault>, effects: &mut Effects) {
        let Some(stream) = self.0.get_mut(&id) else {
            return; // Nobody will ask for the reason.
        };
        match stream.asked.pop_front() {
            None if failure.is_some() => {
                stream.failure = failure;
                effects.wakers.extend(stream.waker.take());
            }
            None => self.cancel(id, effects),
            Some(first) => {
                effects.ended.push((first, failure));
                self.cancel(id, effects);
            }
        }
    }

    /// Ends all streams.
    pub(super) fn close(&mut self, effects: &mut Effects) {
        for (_, stream) in self.0.drain() {
            stream.end(effects);
        }
    }

    /// Returns whether no stream is open.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Stream {
    /// Has its requests for items answered that there are no more.
    fn end(self, effects: &mut Effects) {
        let asked = self.asked.into_iter().map(|request| (request, None));
        effects.ended.extend(asked);
        effects.wakers.extend(self.waker);
    }
}

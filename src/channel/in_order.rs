//! Requests in the order in which their caller made them, although the payload of some has to be
//! read first.
//!
//! A request that fits the slots that were agreed on is not overtaken by later ones (ORDER-1), also
//! before the rings have [grown](super::growth) and it does fit.

use std::collections::VecDeque;

use super::core::responder::SlotRequest;

/// Requests that wait for an earlier one, whose payload is being read. Mostly there are none.
#[derive(Debug, Default)]
pub(super) struct InOrder {
    /// The first one is being read.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
enum Waiting {
    /// The payload of the request in this slot is being read.
    Reading(u16),
    Ready(Ready),
}

/// What waits for nothing of its own.
#[derive(Debug)]
pub(super) enum Ready {
    Request(Box<SlotRequest>),
    /// The caller does not want the answer to the request in this slot, with this id, any more.
    Cancel(u16, u64),
}

impl InOrder {
    /// Returns whether what arrives is to be [added](Self::push), as something is being read.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Has all that comes wait until the payload of the request in `slot` is [read](Self::read).
    #[cold]
    pub(super) fn await_payload(&mut self, slot: u16) {
        self.waiting.push_back(Waiting::Reading(slot));
    }

    /// Adds what has arrived.
    #[cold]
    pub(super) fn push(&mut self, ready: Ready) {
        self.waiting.push_back(Waiting::Ready(ready));
    }

    /// Adds that the caller does not want the answer to a request any more, if that waits here.
    /// Returns whether it does.
    pub(super) fn cancel(&mut self, slot: u16, request_id: u64) -> bool {
        let is_of = |it: &Waiting| match it {
            Waiting::Ready(Ready::Request(it)) => it.slot() == slot && it.request_id == request_id,
            _ => false,
        };
        let is_cancel = |it: &Waiting| matches!(it, Waiting::Ready(Ready::Cancel(of, id)) if (*of, *id) == (slot, request_id));
        let waits = self.waiting.iter().any(is_of);
        // A hostile caller may say it for ever.
        if waits && !self.waiting.iter().any(is_cancel) {
            self.push(Ready::Cancel(slot, request_id));
        }
        waits
    }

    /// Notes that the payload in `slot` was read: its `request` can be delivered, if it still is to
    /// be. Returns it if nothing has waited for that.
    pub(super) fn read(
        &mut self,
        slot: u16,
        request: Option<Box<SlotRequest>>,
    ) -> Option<Box<SlotRequest>> {
        let is_of = |it: &Waiting| matches!(it, Waiting::Reading(of) if *of == slot);
        let Some(at) = self.waiting.iter().position(is_of) else {
            return request;
        };
        match request {
            Some(request) => self.waiting[at] = Waiting::Ready(Ready::Request(request)),
            None => drop(self.waiting.remove(at)),
        }
        None
    }

    /// The next one to be delivered, unless it is being read.
    pub(super) fn next(&mut self) -> Option<Ready> {
        match self.waiting.pop_front()? {
            Waiting::Ready(ready) => Some(ready),
            reading @ Waiting::Reading(_) => {
                self.waiting.push_front(reading);
                None
            }
        }
    }

    /// Takes the requests that wait, which are not to be delivered any more.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = Box<SlotRequest>> {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        waiting.filter_map(|waiting| match waiting {
            Waiting::Ready(Ready::Request(request)) => Some(request),
            Waiting::Ready(Ready::Cancel(..)) | Waiting::Reading(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::channel::core::responder::{Arrival, Responder};
    use crate::wire::{Header, Immediate, MessageKind, Signal};

    fn request(responder: &mut Responder, slot: u16) -> Box<SlotRequest> {
        let signal = Signal::Message;
        let header = Header {
            kind: MessageKind::Request,
            method: 0,
            request_id: 1,
            payload_len: 0,
            extension: None,
        };
        match responder.receive(Immediate { slot, signal }, Some((&header, 0..0))) {
            Arrival::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn order_1_what_is_read_first_is_delivered_first() {
        let mut responder = Responder::of(6);
        let mut requests: Vec<_> = (0..6).map(|slot| request(&mut responder, slot)).collect();
        let mut take = || requests.remove(0);
        let [a, b, c, d] = [take(), take(), take(), take()];
        let (mut order, mut slots) = (InOrder::default(), Vec::new());
        let mut drain = |order: &mut InOrder| {
            slots.clear();
            while let Some(ready) = order.next() {
                slots.push(match ready {
                    Ready::Request(request) => request.slot(),
                    Ready::Cancel(slot, _) => 100 + slot,
                });
            }
            slots.clone()
        };
        // One that nobody waits for is not held.
        assert_eq!(order.read(4, Some(take())).unwrap().slot(), 4);
        order.await_payload(0);
        order.push(Ready::Request(b));
        order.await_payload(2);
        order.push(Ready::Request(d));
        for _ in 0..3 {
            assert!(order.cancel(1, 1), "it waits");
        }
        assert!(!order.cancel(1, 2) && !order.cancel(4, 1));
        order.await_payload(5);
        assert!(order.is_waiting() && drain(&mut order).is_empty());
        assert!(order.read(2, Some(c)).is_none());
        assert!(drain(&mut order).is_empty());
        assert!(order.read(0, Some(a)).is_none());
        assert_eq!(drain(&mut order), [0, 1, 2, 3, 101]);
        // One that is not to be delivered any more holds nothing up.
        assert!(order.is_waiting());
        assert!(order.read(5, None).is_none());
        assert!(!order.is_waiting());
        order.await_payload(0);
        order.push(Ready::Request(take()));
        assert_eq!(order.give_up().count(), 1);
        assert!(!order.is_waiting());
    }
}

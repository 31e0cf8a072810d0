//! The poller of a completion queue of the shm fabric.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::completion_queue::ShmCompletionQueue;
use super::receive_ring::{Arrival, Entry, Taker};
use super::receiver::Receiver;
use super::segment::View;
use crate::fabric::{Completion, CompletionStatus, FabricError, Opcode, Poller, QueuePairState};

/// Polls the receive queues that peers write into, and the other entries of its queue when there
/// are any.
#[derive(Debug)]
pub(super) struct ShmPoller {
    queue: Arc<ShmCompletionQueue>,
    watched: Vec<Watched>,
    /// Index of the receive queue that the next poll begins with.
    turn: usize,
}

/// A receive queue. It may be gone already, if the queue has news.
#[derive(Debug)]
struct Watched {
    entries: View<Entry>,
    taker: Taker,
    receiver: Arc<Receiver>,
}

impl Watched {
    fn new(receiver: &Arc<Receiver>) -> Self {
        Self {
            entries: receiver.entries(),
            taker: Taker::new(receiver.consumer()),
            receiver: receiver.clone(),
        }
    }

    #[inline]
    fn take(&mut self) -> Option<(u64, Arrival)> {
        self.taker.take(&self.entries, self.receiver.consumer())
    }

    /// Takes a message from before the error, and after those the receives that are left.
    fn take_or_flush(&mut self) -> Option<(u64, Option<Arrival>)> {
        match self.take() {
            Some((wr_id, arrival)) => Some((wr_id, Some(arrival))),
            None => Some((self.taker.flush(self.receiver.consumer())?, None)),
        }
    }

    fn completion(&self, wr_id: u64, arrival: Option<Arrival>) -> Completion {
        Completion {
            wr_id,
            status: arrival.map_or(CompletionStatus::Flushed, |_| CompletionStatus::Success),
            opcode: Opcode::RecvWriteWithImm,
            byte_len: arrival.map_or(0, |arrival| arrival.byte_len),
            imm: arrival.map(|arrival| arrival.imm),
            qp_num: self.receiver.number(),
        }
    }
}

impl ShmPoller {
    pub(super) fn new(queue: Arc<ShmCompletionQueue>) -> Self {
        Self {
            queue,
            watched: Vec::new(),
            turn: 0,
        }
    }

    /// Takes the other entries of the queue. Returns how many completions they gave.
    #[cold]
    fn take_news(&mut self, out: &mut [Completion]) -> usize {
        let mut news = self.queue.news();
        let mut count = out.len().min(news.sent.len());
        for (completion, sent) in out.iter_mut().zip(news.sent.drain(..count)) {
            sent.retired.fetch_add(sent.retires, Ordering::Relaxed);
            *completion = sent.completion;
        }
        if std::mem::take(&mut news.are_others) {
            self.watched = news.receivers.iter().map(Watched::new).collect();
            self.turn = 0;
        }
        let mut is_more = !news.sent.is_empty();
        if news.has_failed {
            count += flush(&mut self.watched, &mut out[count..]);
            news.has_failed = count == out.len();
            is_more |= news.has_failed;
        }
        drop(news);
        if is_more {
            self.queue.tell(|_| {});
        }
        count
    }

    /// Moves arrived messages to the front of `out`; returns their number.
    #[inline]
    fn take(&mut self, out: &mut [Completion]) -> usize {
        let mut count = 0;
        for _ in 0..self.watched.len() {
            let watched = &mut self.watched[self.turn];
            while let Some(completion) = out.get_mut(count)
                && let Some((wr_id, arrival)) = watched.take()
            {
                *completion = watched.completion(wr_id, Some(arrival));
                count += 1;
            }
            self.turn += 1;
            if self.turn == self.watched.len() {
                self.turn = 0;
            }
            // The next poll begins after the queue that filled `out`, so that none starves.
            if count == out.len() {
                break;
            }
        }
        count
    }
}

/// Moves what is left of receive queues in error to the front of `out`; returns the number.
fn flush(watched: &mut [Watched], out: &mut [Completion]) -> usize {
    let mut count = 0;
    for watched in watched {
        if watched.receiver.state() == QueuePairState::Error {
            while count < out.len()
                && let Some((wr_id, arrival)) = watched.take_or_flush()
            {
                out[count] = watched.completion(wr_id, arrival);
                count += 1;
            }
        }
    }
    count
}

impl Poller for ShmPoller {
    fn poll(&mut self, out: &mut [Completion]) -> Result<usize, FabricError> {
        let mut count = 0;
        if self.queue.has_news() {
            count = self.take_news(out);
        }
        count += self.take(&mut out[count..]);
        Ok(count)
    }

    fn is_quiet(&self) -> bool {
        !self.queue.has_news()
            && self
                .watched
                .iter()
                .all(|watched| !watched.taker.has_arrival(&watched.entries))
    }
}

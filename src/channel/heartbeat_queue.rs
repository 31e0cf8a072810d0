//! The completion queues that the heartbeats of an agent share.
//!
//! A peer that has nothing to say costs no descriptor and no fence of its own here: one task waits
//! for the events of all peers of a queue, which stays armed while nothing happens.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::{ConnectError, LossCause};
use crate::fabric::{Completion, CompletionEvents, CompletionQueue, Device, FabricError, Poller};

/// Ends of an agent's first queue. Each further one has room for twice as many, up to the most.
const FIRST_ENDS: usize = 8;
const MOST_ENDS: usize = 256;
/// Completions that are polled in a row.
const BATCH: usize = 64;

/// The queues that the heartbeats of an agent complete into. They grow in number with its peers.
///
/// It must be used within one tokio runtime, which waits for their events.
#[derive(Debug, Default)]
pub struct HeartbeatQueues(Mutex<Vec<Weak<HeartbeatQueue>>>);

impl HeartbeatQueues {
    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        let queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues.iter().filter(|it| it.strong_count() > 0).count()
    }

    /// Hands out what has arrived for all ends. Those that [listen to
    /// that](super::Heartbeat::listen_to_polled) need no look of their own.
    pub fn poll(&self) {
        // Nothing panics while it is held.
        let queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for queue in queues.iter().filter_map(Weak::upgrade) {
            queue.lock().poll(None);
        }
    }

    /// Takes a place in a queue of `device` for an end that completes at most `entries` requests at
    /// a time. `listener` is notified of what it [waits for](Place::wait_for_all).
    pub(super) fn place(
        &self,
        device: &Arc<dyn Device>,
        entries: u32,
        listener: Arc<Notify>,
    ) -> Result<Place, ConnectError> {
        // Nothing panics while it is held.
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|queue| queue.strong_count() > 0);
        let mut alive = queues.iter().filter_map(Weak::upgrade);
        let is_free = |queue: &Arc<HeartbeatQueue>| {
            queue.entries == entries && queue.is_of(device) && queue.lock().take_room()
        };
        let queue = match alive.find(is_free) {
            Some(queue) => queue,
            None => {
                let ends = FIRST_ENDS << queues.len().min(16);
                let queue = HeartbeatQueue::create(device, entries, ends.min(MOST_ENDS))?;
                queue.lock().take_room();
                queues.push(Arc::downgrade(&queue));
                queue
            }
        };
        let number = None;
        Ok(Place {
            queue,
            number,
            listener,
            waits_for_all: Cell::default(),
        })
    }
}

/// One queue, and what has arrived for its ends and was not taken yet.
#[derive(Debug)]
struct HeartbeatQueue {
    cq: Arc<dyn CompletionQueue>,
    state: Mutex<QueueState>,
    device: Arc<dyn Device>,
    /// Most completions of one end at a time.
    entries: u32,
    /// Notified when the queue is dropped.
    closing: Arc<Notify>,
}

#[derive(Debug)]
struct QueueState {
    poller: Box<dyn Poller>,
    inboxes: HashMap<u32, Inbox>,
    /// Ends for which there is room.
    room: usize,
    /// Ends that wait for everything.
    waiting_for_all: usize,
    /// Why nothing arrives any more.
    failed: Option<LossCause>,
    batch: Box<[Completion; BATCH]>,
}

/// What has arrived for one end.
#[derive(Debug)]
struct Inbox {
    arrived: VecDeque<Completion>,
    listener: Arc<Notify>,
    waits_for_all: bool,
}

impl HeartbeatQueue {
    fn create(
        device: &Arc<dyn Device>,
        entries: u32,
        ends: usize,
    ) -> Result<Arc<Self>, ConnectError> {
        let most = device.limits().max_cqe / entries.max(1);
        let ends = ends.clamp(1, most.max(1) as usize);
        let (cq, poller) = device.create_quiet_completion_queue(entries * ends as u32)?;
        let events = CompletionEvents::new(cq.clone());
        let events = events.map_err(FabricError::os("waiting for heartbeats"))?;
        let queue = Arc::new(Self {
            device: device.clone(),
            entries,
            cq,
            state: Mutex::new(QueueState {
                poller,
                inboxes: HashMap::new(),
                room: ends,
                waiting_for_all: 0,
                failed: None,
                batch: Box::new([Completion::EMPTY; BATCH]),
            }),
            closing: Arc::default(),
        });
        tokio::spawn(watch(Arc::downgrade(&queue), queue.closing.clone(), events));
        Ok(queue)
    }

    fn is_of(&self, device: &Arc<dyn Device>) -> bool {
        ptr::addr_eq(Arc::as_ptr(&self.device), Arc::as_ptr(device))
    }

    /// Arms the queue for what its ends wait for, and hands out what has arrived before.
    fn arm(&self) {
        let mut state = self.lock();
        let armed = match state.waiting_for_all {
            0 => self.cq.arm_solicited(),
            _ => self.cq.arm(),
        };
        match armed {
            Ok(()) => state.poll(None),
            Err(error) => state.fail(&error),
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HeartbeatQueue {
    fn drop(&mut self) {
        self.closing.notify_one();
    }
}

/// Waits for the events of a queue until it is dropped.
async fn watch(queue: Weak<HeartbeatQueue>, closing: Arc<Notify>, events: CompletionEvents) {
    while let Some(armed) = queue.upgrade() {
        armed.arm();
        drop(armed);
        tokio::select! {
            () = closing.notified() => return,
            raised = events.raised() => if let Err(error) = raised {
                let error = FabricError::os("waiting for heartbeats")(error);
                if let Some(queue) = queue.upgrade() {
                    queue.lock().fail(&error);
                }
                return;
            },
        }
    }
}

impl QueueState {
    fn take_room(&mut self) -> bool {
        let has_room = self.room > 0 && self.failed.is_none();
        self.room -= usize::from(has_room);
        has_room
    }

    /// Hands out what has arrived, and notifies the ends that wait for it. `own` is looked at by
    /// its listener at this moment.
    fn poll(&mut self, own: Option<u32>) {
        loop {
            let count = match self.poller.poll(&mut *self.batch) {
                Ok(count) => count,
                Err(error) => return self.fail(&error),
            };
            for completion in &self.batch[..count] {
                // What is left of an end that is gone is for nobody.
                let Some(inbox) = self.inboxes.get_mut(&completion.qp_num) else {
                    continue;
                };
                inbox.arrived.push_back(*completion);
                let is_waited_for = inbox.waits_for_all || super::heartbeat::is_end(completion);
                if is_waited_for && own != Some(completion.qp_num) {
                    inbox.listener.notify_one();
                }
            }
            // Who is about to sleep must have found nothing: a queue may have more than it gave.
            if count == 0 || (own.is_some() && count < BATCH) {
                return;
            }
        }
    }

    fn fail(&mut self, error: &FabricError) {
        self.failed = Some(LossCause::Fabric(error.to_string()));
        for inbox in self.inboxes.values() {
            inbox.listener.notify_one();
        }
    }
}

/// Which arrivals an end has to know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Those that have been handed out. All ends of the queue have been
    /// [polled](HeartbeatQueues::poll) for.
    None,
    /// One at least. The first of those who look at one moment polls for all: one that has been
    /// handed something already finds what is later when it looks again, unless it waits for that.
    Some,
    /// All of them.
    ToDate,
}

/// The place of one end in a queue. Dropped after the queue pair of the end.
#[derive(Debug)]
pub(super) struct Place {
    queue: Arc<HeartbeatQueue>,
    /// The queue pair of the end, once there is one.
    number: Option<u32>,
    listener: Arc<Notify>,
    /// As the queue has it.
    waits_for_all: Cell<bool>,
}

impl Place {
    #[cfg(test)]
    pub(super) fn listener(&self) -> &Arc<Notify> {
        &self.listener
    }

    /// What has arrived and was not taken.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let state = self.queue.lock();
        state.inboxes.values().map(|it| it.arrived.len()).sum()
    }

    /// The queue that the end's queue pair completes into.
    pub(super) fn completion_queue(&self) -> &Arc<dyn CompletionQueue> {
        &self.queue.cq
    }

    /// Notes the queue pair of the end, before anything is posted.
    pub(super) fn begin(&mut self, number: u32) {
        let inbox = Inbox {
            arrived: VecDeque::new(),
            listener: self.listener.clone(),
            waits_for_all: false,
        };
        self.queue.lock().inboxes.insert(number, inbox);
        self.number = Some(number);
    }

    /// Takes what has arrived for this end into a queue that is empty, which the end had before.
    ///
    /// # Errors
    /// Nothing arrives any more.
    pub(super) fn take(
        &self,
        look: Look,
        arrived: &mut VecDeque<Completion>,
    ) -> Result<(), LossCause> {
        let state = &mut *self.queue.lock();
        if look != Look::None {
            let inbox = self.number.and_then(|it| state.inboxes.get(&it));
            // That something was sent says nothing of the peer.
            let is_of_peer = |it: &Completion| !it.status.is_success() || it.imm.is_some();
            let has_some =
                |inbox: &Inbox| !inbox.waits_for_all && inbox.arrived.iter().any(is_of_peer);
            if look == Look::ToDate || !inbox.is_some_and(has_some) {
                state.poll(self.number);
            }
        }
        let inbox = self.number.and_then(|it| state.inboxes.get_mut(&it));
        if let Some(inbox) = inbox {
            // Both keep their memory.
            std::mem::swap(&mut inbox.arrived, arrived);
        }
        match &state.failed {
            Some(cause) if arrived.is_empty() => Err(cause.clone()),
            _ => Ok(()),
        }
    }

    /// Has the listener notified of the next arrival, whatever it is. [Take](Self::take) once more
    /// before waiting for that.
    ///
    /// # Errors
    /// The device refuses.
    pub(super) fn wait_for_all(&self) -> Result<(), FabricError> {
        self.wait(true);
        self.queue.cq.arm()
    }

    /// Has the listener notified when the peer leaves or is gone, and of nothing else.
    pub(super) fn wait_for_end(&self) {
        // For that the queue is armed in any case.
        self.wait(false);
    }

    fn wait(&self, for_all: bool) {
        if self.waits_for_all.replace(for_all) == for_all {
            return;
        }
        let state = &mut *self.queue.lock();
        let inbox = self.number.and_then(|it| state.inboxes.get_mut(&it));
        if let Some(inbox) = inbox
            && inbox.waits_for_all != for_all
        {
            inbox.waits_for_all = for_all;
            match for_all {
                true => state.waiting_for_all += 1,
                false => state.waiting_for_all -= 1,
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.wait(false);
        let mut state = self.queue.lock();
        state.room += 1;
        if let Some(number) = self.number {
            // The device may give the number to the next queue pair, which these are not for.
            state.poll(Some(number));
            state.inboxes.remove(&number);
        }
    }
}

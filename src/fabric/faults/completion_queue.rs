//! A completion queue that may report completions late, in another order, or wrongly.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use super::controller::{FaultsState, lock};
use super::pair::Pair;
use super::plan::{Fault, Point};
use super::staging::{Due, Staging};
use super::timer::FaultTimer;
use crate::clock::later;
use crate::fabric::{Completion, CompletionQueue, FabricError, Poller};

/// Completions taken from the device at a time.
const BATCH: usize = 32;

/// A completion queue under a fault plan.
#[derive(Debug)]
pub(super) struct FaultyCompletionQueue {
    inner: Arc<dyn CompletionQueue>,
    core: Arc<FaultsState>,
    timer: FaultTimer,
    state: Mutex<FaultyQueueState>,
}

#[derive(Debug)]
struct FaultyQueueState {
    /// The poller of the device's own queue.
    poller: Box<dyn Poller>,
    staging: Staging,
    /// The queue pairs that complete here, by number.
    pairs: HashMap<u32, Weak<Pair>>,
    /// Whether an event is owed.
    is_armed: bool,
    has_failed: bool,
}

impl FaultyCompletionQueue {
    pub(super) fn new(
        inner: Arc<dyn CompletionQueue>,
        poller: Box<dyn Poller>,
        core: Arc<FaultsState>,
    ) -> Result<Self, FabricError> {
        Ok(Self {
            timer: FaultTimer::new(&*inner)?,
            inner,
            core,
            state: Mutex::new(FaultyQueueState {
                poller,
                staging: Staging::default(),
                pairs: HashMap::new(),
                is_armed: false,
                has_failed: false,
            }),
        })
    }

    /// The device's own completion queue.
    pub(super) fn inner(&self) -> &Arc<dyn CompletionQueue> {
        &self.inner
    }

    pub(super) fn attach(&self, pair: &Arc<Pair>) {
        let mut state = self.lock();
        state.pairs.insert(pair.number, Arc::downgrade(pair));
    }

    pub(super) fn detach(&self, pair: &Arc<Pair>) {
        let mut state = self.lock();
        let is_same = |held: &Weak<Pair>| Weak::ptr_eq(held, &Arc::downgrade(pair));
        if state.pairs.get(&pair.number).is_some_and(is_same) {
            state.pairs.remove(&pair.number);
        }
    }

    /// Drops the completions of a queue pair that was reset.
    pub(super) fn forget(&self, number: u32) {
        let mut state = self.lock();
        // A queue that has failed reports it at the next poll.
        let now = Instant::now();
        let _ = self.take_in(&mut state, now);
        state.staging.forget(number);
        if state.is_armed {
            // What was taken in for others raises no event any more.
            self.timer.set(Some(now), now);
        }
    }

    /// Wakes sleepers on this queue at this time, or earlier.
    pub(super) fn remind(&self, at: Instant) {
        let state = self.lock();
        let now = Instant::now();
        if state.is_armed {
            let earlier = self.next_look(&state, now);
            self.timer
                .set(Some(earlier.map_or(at, |earlier| earlier.min(at))), now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, FaultyQueueState> {
        lock(&self.state)
    }

    /// Takes all completions that the device has.
    fn take_in(&self, state: &mut FaultyQueueState, now: Instant) -> Result<(), FabricError> {
        let mut batch = [Completion::EMPTY; BATCH];
        loop {
            let count = state.poller.poll(&mut batch)?;
            for completion in &batch[..count] {
                self.take(state, *completion, now);
            }
            if count < BATCH {
                return Ok(());
            }
        }
    }

    fn take(&self, state: &mut FaultyQueueState, mut completion: Completion, now: Instant) {
        let pair = state.pairs.get(&completion.qp_num).and_then(Weak::upgrade);
        let mut due = Due::Now;
        if let Some(pair) = pair {
            pair.correct(&mut completion);
            let opcode = completion.opcode;
            let is_success = completion.status.is_success();
            let throw = || {
                self.core
                    .throw(Point::Completion, pair.ordinal, Some(opcode))
            };
            match is_success.then(throw).flatten() {
                Some(Fault::CompletionFails(status)) => {
                    completion.status = status;
                    pair.spoil();
                }
                Some(Fault::Delayed(time)) => due = Due::At(later(now, time)),
                Some(Fault::Overtaken) => due = Due::NextLook,
                Some(Fault::Frozen(time)) => self.core.freeze_for(now, time),
                Some(Fault::QueueFails) => state.fail(),
                // No other fault strikes here.
                _ => {}
            }
        }
        state.staging.push(completion, due);
    }

    /// When to poll again for something that the device does not signal.
    fn next_look(&self, state: &FaultyQueueState, now: Instant) -> Option<Instant> {
        if let Some(end) = self.core.frozen_until(now) {
            return Some(end);
        }
        let receives = state
            .live_pairs()
            .filter_map(|pair| pair.post_withheld(now));
        receives.chain(state.staging.next_due(now)).min()
    }

    fn look(
        &self,
        state: &mut FaultyQueueState,
        out: &mut [Completion],
    ) -> Result<usize, FabricError> {
        let now = Instant::now();
        if self.core.frozen_until(now).is_some() {
            return Ok(0);
        }
        state.staging.begin_look();
        self.take_in(state, now)?;
        if state.has_failed {
            return Err(FabricError::Os {
                doing: "polling a completion queue that was planned to fail",
                source: io::ErrorKind::BrokenPipe.into(),
            });
        }
        // The queue may have frozen meanwhile.
        match self.core.frozen_until(now) {
            Some(_) => Ok(0),
            None => Ok(state.staging.give_out(out, now)),
        }
    }
}

impl FaultyQueueState {
    fn live_pairs(&self) -> impl Iterator<Item = Arc<Pair>> {
        self.pairs.values().filter_map(Weak::upgrade)
    }

    fn fail(&mut self) {
        self.has_failed = true;
        for pair in self.live_pairs() {
            pair.spoil();
        }
    }
}

/// Takes the completions that the plan lets be seen.
#[derive(Debug)]
pub(super) struct FaultyPoller(pub(super) Arc<FaultyCompletionQueue>);

impl Poller for FaultyPoller {
    fn poll(&mut self, out: &mut [Completion]) -> Result<usize, FabricError> {
        let queue = &*self.0;
        let mut state = queue.lock();
        let looked = queue.look(&mut state, out);
        let now = Instant::now();
        // Also posts receives that were withheld until now.
        let next = queue.next_look(&state, now);
        if state.is_armed {
            queue.timer.set(next, now);
        }
        looked
    }
}

impl CompletionQueue for FaultyCompletionQueue {
    fn arm(&self) -> Result<(), FabricError> {
        let mut state = self.lock();
        self.inner.arm()?;
        state.is_armed = true;
        let now = Instant::now();
        self.timer.set(self.next_look(&state, now), now);
        Ok(())
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.timer.fd()
    }

    fn clear_events(&self) {
        let mut state = self.lock();
        if self.timer.clear(&*self.inner) {
            state.is_armed = false;
        }
    }
}

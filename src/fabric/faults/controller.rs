//! The handle through which a test controls its faults.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::FaultStats;
use super::completion_queue::FaultyCompletionQueue;
use super::device::FaultyDevice;
use super::fault_rng::FaultRng;
use super::pair::Pair;
use super::plan::{Fault, Plan, Point};
use crate::clock::later;
use crate::fabric::{Device, Opcode};

/// A fault plan in progress, on the devices that it wraps: all of one process, say. Clones share
/// the plan.
#[derive(Debug, Clone)]
pub struct Faults {
    core: Arc<FaultsState>,
}

/// The state that the devices, queue pairs and queues under one [`Faults`] share.
#[derive(Debug)]
pub(super) struct FaultsState {
    rng: Mutex<FaultRng>,
    frozen: Mutex<Option<Frozen>>,
    made: Mutex<Made>,
}

#[derive(Debug, Clone, Copy)]
enum Frozen {
    Until(Instant),
    UntilThawed,
}

#[derive(Debug, Default)]
struct Made {
    queues: Vec<Weak<FaultyCompletionQueue>>,
    pairs: Vec<Weak<Pair>>,
    /// Number of queue pairs created so far.
    count: u64,
}

/// How long a process that was frozen without end waits before it checks again.
const LOOK: Duration = Duration::from_secs(3600);

impl Faults {
    /// Starts a plan.
    pub fn new(plan: Plan) -> Self {
        Self {
            core: Arc::new(FaultsState {
                rng: Mutex::new(FaultRng::new(plan)),
                frozen: Mutex::default(),
                made: Mutex::default(),
            }),
        }
    }

    /// Wraps `device` in the faults of the plan. The result has the same name, limits and
    /// addresses.
    pub fn wrap(&self, device: Arc<dyn Device>) -> Arc<dyn Device> {
        Arc::new(FaultyDevice::new(device, self.core.clone()))
    }

    /// Counts of the faults that have struck so far.
    pub fn stats(&self) -> FaultStats {
        lock(&self.core.rng).stats()
    }

    /// Ends the plan: no further fault strikes by itself. Delayed or frozen completions still come
    /// at their time.
    pub fn calm(&self) {
        lock(&self.core.rng).calm();
    }

    /// Stops all completions until [`thaw`](Self::thaw), as if the process were stopped: what peers
    /// write arrives in memory, but is not seen.
    pub fn freeze(&self) {
        lock(&self.core.rng).count(Fault::Frozen(Duration::MAX));
        *lock(&self.core.frozen) = Some(Frozen::UntilThawed);
    }

    /// Ends every freeze.
    pub fn thaw(&self) {
        *lock(&self.core.frozen) = None;
        for queue in self.core.queues() {
            queue.remind(Instant::now());
        }
    }

    /// Moves every connected queue pair to ERR: all peers are lost at once.
    pub fn lose_peers(&self) {
        for pair in self.core.pairs() {
            if pair.lose() {
                lock(&self.core.rng).count(Fault::PeerLost);
            }
        }
    }
}

impl FaultsState {
    pub(super) fn throw(
        &self,
        point: Point,
        queue_pair: u64,
        opcode: Option<Opcode>,
    ) -> Option<Fault> {
        lock(&self.rng).throw(point, queue_pair, opcode)
    }

    /// When the present freeze ends, if there is one.
    pub(super) fn frozen_until(&self, now: Instant) -> Option<Instant> {
        match *lock(&self.frozen) {
            None => None,
            Some(Frozen::Until(end)) => (now < end).then_some(end),
            Some(Frozen::UntilThawed) => Some(now + LOOK),
        }
    }

    pub(super) fn freeze_for(&self, now: Instant, time: Duration) {
        let mut frozen = lock(&self.frozen);
        if !matches!(*frozen, Some(Frozen::UntilThawed)) {
            *frozen = Some(Frozen::Until(later(now, time)));
        }
    }

    /// The number of the next queue pair.
    pub(super) fn next_pair(&self) -> u64 {
        let mut made = lock(&self.made);
        made.count += 1;
        made.count - 1
    }

    pub(super) fn add_pair(&self, pair: &Arc<Pair>) {
        let mut made = lock(&self.made);
        made.pairs.retain(|pair| pair.strong_count() > 0);
        made.pairs.push(Arc::downgrade(pair));
    }

    pub(super) fn add_queue(&self, queue: &Arc<FaultyCompletionQueue>) {
        let mut made = lock(&self.made);
        made.queues.retain(|queue| queue.strong_count() > 0);
        made.queues.push(Arc::downgrade(queue));
    }

    fn queues(&self) -> Vec<Arc<FaultyCompletionQueue>> {
        let made = lock(&self.made);
        made.queues.iter().filter_map(Weak::upgrade).collect()
    }

    fn pairs(&self) -> Vec<Arc<Pair>> {
        let made = lock(&self.made);
        made.pairs.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Locks a mutex that no panic can poison: nothing panics while it is held.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

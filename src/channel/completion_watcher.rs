//! Watches a completion queue while those who wait for it sleep.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use tokio::runtime::{self, Handle};
use tokio::sync::Notify;

use super::LossCause;
use super::parker::{Parker, Woken};
use crate::fabric::{CompletionEvents, CompletionQueue, FabricError};

#[cfg(all(test, slime_loom))]
mod loom_model;
#[cfg(all(test, not(slime_loom)))]
mod tests;

/// Who watches one queue.
///
/// A sleeper that watches by itself, or whose own runtime does, is spared a wake-up. But nobody else may count on that: a
/// thread that has its answer watches no more, and a runtime that nobody drives runs nothing. So there are two places. The
/// first to go to sleep takes that of the *guest*, by a task on its runtime, which serves all sleepers of that runtime, or
/// by its own thread. All others are served by a task *at home*, on the agent's runtime, which runs as long as it; with that
/// runtime the channel ends. Both watch until nobody sleeps any more; busy pollers never pay for it. A guest's task stays for
/// the next sleeper of its runtime, unless another takes its place.
///
/// An event reaches all who watch, and whoever is first consumes it; then it is armed anew if anybody sleeps. Who watches
/// already may therefore be deaf, until the next who goes to sleep arms the queue. `loom_model` checks these rules.
#[derive(Debug, Default)]
pub(super) struct Pump {
    home: AtomicBool,
    /// Of the task at home.
    bell: Arc<Notify>,
    guest: Mutex<Option<Guest>>,
    /// A thread has seen an event that is not cleared yet.
    is_raised: AtomicBool,
}

#[derive(Debug)]
enum Guest {
    Thread,
    Task(GuestTask),
}

#[derive(Debug)]
struct GuestTask {
    runtime: runtime::Id,
    /// Nobody sleeps. It waits for `bell` alone.
    is_idle: bool,
    bell: Arc<Notify>,
}

/// Something with a completion queue that others wait for.
pub(super) trait Pumped: Send + Sync + 'static {
    /// Its pump.
    fn pump(&self) -> &Pump;
    /// The agent's runtime.
    fn runtime(&self) -> &Handle;
    /// Its queue; `None` once it is closed.
    fn queue(&self) -> Option<Arc<dyn CompletionQueue>>;
    /// Handles what has arrived. Says whether anything had.
    fn progress(&self) -> bool;
    /// Arms the queue, then looks once more, so that no event is lost.
    fn arm(&self) -> bool;
    /// Whether something moves on only as the queue is polled.
    fn is_moving(&self) -> bool;
    /// Whether anybody wants to be woken.
    fn has_sleepers(&self) -> bool;
    /// Ends it, as nobody can watch it any more.
    fn abandon(&self, cause: LossCause);
}

impl Pump {
    /// Sees to it that somebody watches for a sleeper in the current runtime, or in none.
    pub(super) fn ensure<P: Pumped>(pumped: &Arc<P>) {
        let here = Handle::try_current().ok();
        let Some(here) = here.filter(|here| here.id() != pumped.runtime().id()) else {
            return Self::ensure_at_home(pumped);
        };
        let mut guest = pumped.pump().guest();
        if let Some(Guest::Task(task)) = &mut *guest
            && task.runtime == here.id()
        {
            if std::mem::take(&mut task.is_idle) {
                return task.bell.notify_one();
            }
            drop(guest);
            pumped.arm();
        } else if pumped.pump().admits(&mut guest) {
            let bell = Arc::<Notify>::default();
            *guest = Some(Guest::Task(GuestTask {
                runtime: here.id(),
                is_idle: false,
                bell: bell.clone(),
            }));
            drop(guest);
            here.spawn(watch(Watching::new(pumped, Place::Guest, bell)));
        } else {
            drop(guest);
            Self::ensure_at_home(pumped);
        }
    }

    /// The same for what may outlive the current runtime.
    pub(super) fn ensure_at_home<P: Pumped>(pumped: &Arc<P>) {
        if pumped.pump().home.swap(true, Ordering::AcqRel) {
            pumped.arm();
        } else {
            let bell = pumped.pump().bell.clone();
            let watching = Watching::new(pumped, Place::Home, bell);
            pumped.runtime().spawn(watch(watching));
        }
    }

    /// Sleeps until `parker` is woken, or until then; may return for nothing. For a thread outside of every runtime.
    pub(super) fn park<P: Pumped>(pumped: &Arc<P>, parker: &Parker, until: Option<Instant>) {
        let is_guest = {
            let mut guest = pumped.pump().guest();
            let is_admitted = pumped.pump().admits(&mut guest);
            if is_admitted {
                *guest = Some(Guest::Thread);
            }
            is_admitted
        };
        if !is_guest {
            Self::ensure_at_home(pumped);
            return parker.park(until);
        }
        let _watching = Watching::new(pumped, Place::Thread, pumped.pump().bell.clone());
        let Some(queue) = pumped.queue() else {
            return;
        };
        let is_due = || until.is_some_and(|until| until <= Instant::now());
        loop {
            // Not as soon as it is seen: whoever has an answer with it would wait for that.
            if pumped.pump().is_raised.swap(false, Ordering::Relaxed) {
                queue.clear_events();
            }
            pumped.arm();
            while pumped.is_moving() && !parker.is_notified() && !is_due() {
                thread::yield_now();
                pumped.progress();
            }
            match parker.park_on(queue.event_fd(), until) {
                Some(Woken::ByDescriptor) => {
                    pumped.pump().is_raised.store(true, Ordering::Relaxed);
                    pumped.progress();
                    if parker.take_notice() || is_due() {
                        // Others may sleep, for whom the event was, too.
                        pumped.arm();
                        return;
                    }
                }
                Some(Woken::Otherwise) => return,
                None => {
                    Self::ensure_at_home(pumped);
                    return parker.park(until);
                }
            }
        }
    }

    /// There is nothing to watch any more. Tasks would wait for ever, and keep the queue.
    pub(super) fn end(&self) {
        self.bell.notify_one();
        if let Some(Guest::Task(task)) = &*self.guest() {
            task.bell.notify_one();
        }
    }

    /// Whether a new guest may take the place: nobody watches. Sends home who is idle there.
    fn admits(&self, place: &mut Option<Guest>) -> bool {
        if self.home.load(Ordering::Acquire) {
            return false;
        }
        match place {
            Some(Guest::Task(task)) if task.is_idle => {
                task.bell.notify_one();
                *place = None;
                true
            }
            Some(_) => false,
            None => true,
        }
    }

    fn guest(&self) -> MutexGuard<'_, Option<Guest>> {
        self.guest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task with this bell, if it is the guest still.
    fn task<'a>(place: &'a mut Option<Guest>, bell: &Arc<Notify>) -> Option<&'a mut GuestTask> {
        match place {
            Some(Guest::Task(task)) if Arc::ptr_eq(&task.bell, bell) => Some(task),
            _ => None,
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.end();
    }
}

/// Holds a place until it ends in whatever way, its runtime's end included.
struct Watching<P: Pumped> {
    pumped: Weak<P>,
    place: Place,
    bell: Arc<Notify>,
    /// Whether it leaves by itself.
    leaves: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Home,
    Thread,
    Guest,
}

impl<P: Pumped> Watching<P> {
    fn new(pumped: &Arc<P>, place: Place, bell: Arc<Notify>) -> Self {
        let pumped = Arc::downgrade(pumped);
        Self {
            pumped,
            place,
            bell,
            leaves: false,
        }
    }

    /// It cannot watch.
    fn fail(self, error: io::Error) {
        let reason = FabricError::os("awaiting a completion queue")(error).to_string();
        tracing::warn!("{reason}");
        // Who counts on a guest goes home.
        if self.place == Place::Home
            && let Some(pumped) = self.pumped.upgrade()
        {
            pumped.abandon(LossCause::Fabric(reason));
        }
    }
}

impl<P: Pumped> Drop for Watching<P> {
    fn drop(&mut self) {
        let Some(pumped) = self.pumped.upgrade() else {
            return;
        };
        let pump = pumped.pump();
        match self.place {
            Place::Home => {
                pump.home.swap(false, Ordering::AcqRel);
                if !self.leaves {
                    pumped.abandon(LossCause::ShutDown);
                }
            }
            Place::Thread => *pump.guest() = None,
            Place::Guest => {
                let mut guest = pump.guest();
                if Pump::task(&mut guest, &self.bell).is_none() {
                    return;
                }
                *guest = None;
                drop(guest);
                // Who counts on it may be driven elsewhere, even if its runtime has ended.
                if pumped.has_sleepers() {
                    Pump::ensure_at_home(&pumped);
                }
            }
        }
    }
}

async fn watch<P: Pumped>(mut watching: Watching<P>) {
    let queue = watching.pumped.upgrade().and_then(|p| p.queue());
    let events = match queue.map(CompletionEvents::new) {
        None => return,
        Some(Ok(events)) => events,
        Some(Err(error)) => return watching.fail(error),
    };
    loop {
        if let Err(error) = watch_for_sleepers(&watching, &events).await {
            return watching.fail(error);
        }
        if watching.place != Place::Guest {
            break;
        }
        {
            let Some(pumped) = watching.pumped.upgrade().filter(|p| p.queue().is_some()) else {
                return;
            };
            let mut guest = pumped.pump().guest();
            let Some(task) = Pump::task(&mut guest, &watching.bell) else {
                return;
            };
            task.is_idle = true;
            // A sleeper that came after the last look saw that the task was not idle.
            if pumped.has_sleepers() {
                task.is_idle = false;
                continue;
            }
        }
        watching.bell.notified().await;
    }
    // The same for one that saw the home taken.
    let pumped = watching.pumped.upgrade();
    watching.leaves = true;
    drop(watching);
    if let Some(pumped) = pumped.filter(|pumped| pumped.has_sleepers()) {
        Pump::ensure_at_home(&pumped);
    }
}

/// Until nobody sleeps.
async fn watch_for_sleepers<P: Pumped>(
    Watching { pumped, bell, .. }: &Watching<P>,
    events: &CompletionEvents,
) -> io::Result<()> {
    loop {
        let Some(armed) = pumped.upgrade().filter(|p| p.has_sleepers()) else {
            return Ok(());
        };
        armed.arm();
        drop(armed);
        // Each piece is posted as the one before has arrived. The runtime may stop here, so nothing is held meanwhile.
        while pumped.upgrade().is_some_and(|p| p.is_moving()) {
            tokio::task::yield_now().await;
            if let Some(pumped) = pumped.upgrade() {
                pumped.progress();
            }
        }
        if pumped.upgrade().is_none_or(|p| !p.has_sleepers()) {
            return Ok(());
        }
        tokio::select! {
            raised = events.raised() => raised?,
            () = bell.notified() => {}
        }
        if let Some(pumped) = pumped.upgrade() {
            pumped.progress();
        }
    }
}

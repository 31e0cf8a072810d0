//! Watches a completion queue while its waiters sleep.

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

/// The watchers of one completion queue.
///
/// A waiter that watches the queue itself, or whose runtime does, saves a wake-up. Others must not
/// rely on it: a thread stops watching once it has its reply, and a runtime that is not driven runs
/// no task. Hence two watchers:
///
/// - The *inline watcher* belongs to the first waiter that goes to sleep: its own thread, or a task
///   on its runtime, which serves all waiters of that runtime. The task stays for that runtime's
///   next waiter unless another takes its place.
/// - The *fallback watcher* serves all other waiters: a task on the agent's runtime. The channel
///   ends with that runtime.
///
/// Both watch until no waiter sleeps; busy pollers never pay for them. An event reaches every
/// watcher and the first one consumes it; the queue is armed again if a waiter still sleeps. An
/// existing watcher may miss this event (it is *disarmed*); the next waiter to sleep re-arms the
/// queue. `loom_model` checks these rules.
#[derive(Debug, Default)]
pub(super) struct CompletionWatcher {
    fallback: AtomicBool,
    /// Wakes the fallback task.
    wake: Arc<Notify>,
    inline: Mutex<Option<InlineWatcher>>,
    /// A thread has seen an event that is not cleared yet.
    is_raised: AtomicBool,
}

#[derive(Debug)]
enum InlineWatcher {
    Thread,
    Task(InlineTask),
}

#[derive(Debug)]
struct InlineTask {
    runtime: runtime::Id,
    /// No waiter sleeps: the task waits for `wake` alone.
    is_idle: bool,
    wake: Arc<Notify>,
}

/// An object with a completion queue that tasks and threads wait for.
pub(super) trait WatchedQueue: Send + Sync + 'static {
    /// The watcher of its queue.
    fn watcher(&self) -> &CompletionWatcher;
    /// The agent's runtime.
    fn runtime(&self) -> &Handle;
    /// Its queue; `None` once it is closed.
    fn queue(&self) -> Option<Arc<dyn CompletionQueue>>;
    /// Handles what has arrived. Returns whether anything had.
    fn progress(&self) -> bool;
    /// Arms the queue, then polls once more, so that no event is lost: an arrival before the arming
    /// raises none.
    fn arm(&self) -> bool;
    /// Returns whether something makes progress only while the queue is polled.
    fn is_moving(&self) -> bool;
    /// Returns whether a waiter sleeps.
    fn has_sleepers(&self) -> bool;
    /// Ends it, because nothing can watch its queue any more.
    fn abandon(&self, cause: LossCause);
}

impl CompletionWatcher {
    /// Makes sure that something watches for a sleeper in the current runtime, or in none.
    pub(super) fn ensure<P: WatchedQueue>(watched: &Arc<P>) {
        let here = Handle::try_current().ok();
        let Some(here) = here.filter(|here| here.id() != watched.runtime().id()) else {
            return Self::ensure_fallback(watched);
        };
        let mut inline = watched.watcher().inline();
        if let Some(InlineWatcher::Task(task)) = &mut *inline
            && task.runtime == here.id()
        {
            if std::mem::take(&mut task.is_idle) {
                return task.wake.notify_one();
            }
            drop(inline);
            // The task may have consumed the event that this waiter counts on, and not have armed
            // the queue since.
            watched.arm();
        } else if watched.watcher().admits(&mut inline) {
            let wake = Arc::<Notify>::default();
            *inline = Some(InlineWatcher::Task(InlineTask {
                runtime: here.id(),
                is_idle: false,
                wake: wake.clone(),
            }));
            drop(inline);
            here.spawn(watch(WatchGuard::new(
                watched,
                WatcherKind::InlineWatcher,
                wake,
            )));
        } else {
            drop(inline);
            Self::ensure_fallback(watched);
        }
    }

    /// Makes sure that the fallback watches: for sleepers that may outlive the current runtime.
    pub(super) fn ensure_fallback<P: WatchedQueue>(watched: &Arc<P>) {
        if watched.watcher().fallback.swap(true, Ordering::AcqRel) {
            // As in `ensure`: the task may have consumed this waiter's event.
            watched.arm();
        } else {
            let wake = watched.watcher().wake.clone();
            let watching = WatchGuard::new(watched, WatcherKind::Fallback, wake);
            watched.runtime().spawn(watch(watching));
        }
    }

    /// Sleeps on a thread outside of every runtime, until `parker` is woken or until this time; may
    /// return early for no reason.
    pub(super) fn park<P: WatchedQueue>(watched: &Arc<P>, parker: &Parker, until: Option<Instant>) {
        let is_guest = {
            let mut inline = watched.watcher().inline();
            let is_admitted = watched.watcher().admits(&mut inline);
            if is_admitted {
                *inline = Some(InlineWatcher::Thread);
            }
            is_admitted
        };
        if !is_guest {
            Self::ensure_fallback(watched);
            return parker.park(until);
        }
        let _watching =
            WatchGuard::new(watched, WatcherKind::Thread, watched.watcher().wake.clone());
        let Some(queue) = watched.queue() else {
            return;
        };
        let is_due = || until.is_some_and(|until| until <= Instant::now());
        loop {
            // The event is cleared here and not when it is seen: clearing is a system call, for
            // which a thread that has just got its answer would wait.
            if watched.watcher().is_raised.swap(false, Ordering::Relaxed) {
                queue.clear_events();
            }
            watched.arm();
            while watched.is_moving() && !parker.is_notified() && !is_due() {
                thread::yield_now();
                watched.progress();
            }
            match parker.park_on(queue.event_fd(), until) {
                Some(Woken::ByDescriptor) => {
                    watched.watcher().is_raised.store(true, Ordering::Relaxed);
                    watched.progress();
                    if parker.take_notice() || is_due() {
                        // The event was for other sleepers, too: arm the queue for them before this
                        // thread leaves.
                        watched.arm();
                        return;
                    }
                }
                Some(Woken::Otherwise) => return,
                None => {
                    Self::ensure_fallback(watched);
                    return parker.park(until);
                }
            }
        }
    }

    /// Wakes the tasks after the end, for there is nothing to watch any more. They would wait for
    /// ever, and keep the queue.
    pub(super) fn end(&self) {
        self.wake.notify_one();
        if let Some(InlineWatcher::Task(task)) = &*self.inline() {
            task.wake.notify_one();
        }
    }

    /// Returns whether a new inline watcher may take the place, because nothing watches. Ends an
    /// idle one.
    fn admits(&self, place: &mut Option<InlineWatcher>) -> bool {
        if self.fallback.load(Ordering::Acquire) {
            return false;
        }
        match place {
            Some(InlineWatcher::Task(task)) if task.is_idle => {
                task.wake.notify_one();
                *place = None;
                true
            }
            Some(_) => false,
            None => true,
        }
    }

    fn inline(&self) -> MutexGuard<'_, Option<InlineWatcher>> {
        self.inline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task with this wake, if it is still the inline watcher.
    fn task<'a>(
        place: &'a mut Option<InlineWatcher>,
        wake: &Arc<Notify>,
    ) -> Option<&'a mut InlineTask> {
        match place {
            Some(InlineWatcher::Task(task)) if Arc::ptr_eq(&task.wake, wake) => Some(task),
            _ => None,
        }
    }
}

impl Drop for CompletionWatcher {
    fn drop(&mut self) {
        self.end();
    }
}

/// Occupies a watcher's place until it ends in whatever way, including the end of its runtime.
struct WatchGuard<P: WatchedQueue> {
    /// Weak, so that a sleeping task does not keep a channel that nobody else has.
    watched: Weak<P>,
    place: WatcherKind,
    wake: Arc<Notify>,
    /// Whether the task ends because no waiter sleeps, and not with its runtime.
    leaves: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WatcherKind {
    Fallback,
    Thread,
    InlineWatcher,
}

impl<P: WatchedQueue> WatchGuard<P> {
    fn new(watched: &Arc<P>, place: WatcherKind, wake: Arc<Notify>) -> Self {
        let watched = Arc::downgrade(watched);
        Self {
            watched,
            place,
            wake,
            leaves: false,
        }
    }

    /// Handles an error because of which it cannot watch.
    fn fail(self, error: io::Error) {
        let reason = FabricError::os("awaiting a completion queue")(error).to_string();
        tracing::warn!("{reason}");
        // Waiters of an inline watcher turn to the fallback.
        if self.place == WatcherKind::Fallback
            && let Some(watched) = self.watched.upgrade()
        {
            watched.abandon(LossCause::Fabric(reason));
        }
    }
}

impl<P: WatchedQueue> Drop for WatchGuard<P> {
    fn drop(&mut self) {
        let Some(watched) = self.watched.upgrade() else {
            return;
        };
        let watcher = watched.watcher();
        match self.place {
            WatcherKind::Fallback => {
                watcher.fallback.swap(false, Ordering::AcqRel);
                if !self.leaves {
                    watched.abandon(LossCause::ShutDown);
                }
            }
            // No sleeper relies on a thread: while it watches, all others use the fallback.
            WatcherKind::Thread => *watcher.inline() = None,
            WatcherKind::InlineWatcher => {
                let mut inline = watcher.inline();
                if CompletionWatcher::task(&mut inline, &self.wake).is_none() {
                    return;
                }
                *inline = None;
                drop(inline);
                // A sleeper that relied on this task may be polled elsewhere, although this task's
                // runtime has ended: hand it to the fallback.
                if watched.has_sleepers() {
                    CompletionWatcher::ensure_fallback(&watched);
                }
            }
        }
    }
}

async fn watch<P: WatchedQueue>(mut watching: WatchGuard<P>) {
    let queue = watching.watched.upgrade().and_then(|p| p.queue());
    let events = match queue.map(CompletionEvents::new) {
        None => return,
        Some(Ok(events)) => events,
        Some(Err(error)) => return watching.fail(error),
    };
    loop {
        if let Err(error) = watch_for_sleepers(&watching, &events).await {
            return watching.fail(error);
        }
        if watching.place != WatcherKind::InlineWatcher {
            break;
        }
        {
            let Some(watched) = watching.watched.upgrade().filter(|p| p.queue().is_some()) else {
                return;
            };
            let mut inline = watched.watcher().inline();
            let Some(task) = CompletionWatcher::task(&mut inline, &watching.wake) else {
                return;
            };
            task.is_idle = true;
            // A sleeper that came after the last check saw that this task was not idle, and relied
            // on it without waking it. Check again, under the lock that both hold.
            if watched.has_sleepers() {
                task.is_idle = false;
                continue;
            }
        }
        watching.wake.notified().await;
    }
    // A sleeper that came after the last check saw the fallback's place taken, and relied on it.
    // Check again, after leaving the place.
    let watched = watching.watched.upgrade();
    watching.leaves = true;
    drop(watching);
    if let Some(watched) = watched.filter(|watched| watched.has_sleepers()) {
        CompletionWatcher::ensure_fallback(&watched);
    }
}

/// Watches until no waiter sleeps.
async fn watch_for_sleepers<P: WatchedQueue>(
    WatchGuard { watched, wake, .. }: &WatchGuard<P>,
    events: &CompletionEvents,
) -> io::Result<()> {
    loop {
        let Some(armed) = watched.upgrade().filter(|p| p.has_sleepers()) else {
            return Ok(());
        };
        armed.arm();
        drop(armed);
        // Each piece is posted when the one before has arrived, which only polling shows. The
        // runtime may stop at the await, so hold nothing across it.
        while watched.upgrade().is_some_and(|p| p.is_moving()) {
            tokio::task::yield_now().await;
            if let Some(watched) = watched.upgrade() {
                watched.progress();
            }
        }
        if watched.upgrade().is_none_or(|p| !p.has_sleepers()) {
            return Ok(());
        }
        tokio::select! {
            raised = events.raised() => raised?,
            () = wake.notified() => {}
        }
        if let Some(watched) = watched.upgrade() {
            watched.progress();
        }
    }
}

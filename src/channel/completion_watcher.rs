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
    /// Nobody sleeps. It waits for `wake` alone.
    is_idle: bool,
    wake: Arc<Notify>,
}

/// Something with a completion queue that others wait for.
pub(super) trait WatchedQueue: Send + Sync + 'static {
    /// Its watcher.
    fn watcher(&self) -> &CompletionWatcher;
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

impl CompletionWatcher {
    /// Sees to it that somebody watches for a sleeper in the current runtime, or in none.
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

    /// The same for what may outlive the current runtime.
    pub(super) fn ensure_fallback<P: WatchedQueue>(watched: &Arc<P>) {
        if watched.watcher().fallback.swap(true, Ordering::AcqRel) {
            watched.arm();
        } else {
            let wake = watched.watcher().wake.clone();
            let watching = WatchGuard::new(watched, WatcherKind::Fallback, wake);
            watched.runtime().spawn(watch(watching));
        }
    }

    /// Sleeps until `parker` is woken, or until then; may return for nothing. For a thread outside
    /// of every runtime.
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
            // Not as soon as it is seen: whoever has an answer with it would wait for that.
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
                        // Others may sleep, for whom the event was, too.
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

    /// There is nothing to watch any more. Tasks would wait for ever, and keep the queue.
    pub(super) fn end(&self) {
        self.wake.notify_one();
        if let Some(InlineWatcher::Task(task)) = &*self.inline() {
            task.wake.notify_one();
        }
    }

    /// Whether a new inline watcher may take the place: nobody watches. Ends an idle one.
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

/// Holds a place until it ends in whatever way, its runtime's end included.
struct WatchGuard<P: WatchedQueue> {
    watched: Weak<P>,
    place: WatcherKind,
    wake: Arc<Notify>,
    /// Whether it leaves by itself.
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

    /// It cannot watch.
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
            WatcherKind::Thread => *watcher.inline() = None,
            WatcherKind::InlineWatcher => {
                let mut inline = watcher.inline();
                if CompletionWatcher::task(&mut inline, &self.wake).is_none() {
                    return;
                }
                *inline = None;
                drop(inline);
                // Who counts on it may be driven elsewhere, even if its runtime has ended.
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
            // A sleeper that came after the last look saw that the task was not idle.
            if watched.has_sleepers() {
                task.is_idle = false;
                continue;
            }
        }
        watching.wake.notified().await;
    }
    // The same for one that saw the fallback taken.
    let watched = watching.watched.upgrade();
    watching.leaves = true;
    drop(watching);
    if let Some(watched) = watched.filter(|watched| watched.has_sleepers()) {
        CompletionWatcher::ensure_fallback(&watched);
    }
}

/// Until nobody sleeps.
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
        // Each piece is posted as the one before has arrived. The runtime may stop here, so nothing
        // is held meanwhile.
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

//! The rules of the [watcher](super) under every interleaving, with up to two preemptions, of two
//! sleepers and of what wakes them: no sleeper is forgotten.
//!
//! It is a model of the rules, not the code, which runs on a kernel and on runtimes. A thread
//! stands for a thread that sleeps in `.wait()`, for the fallback, or for a runtime of one thread:
//! that drives its sleeper and its watching task, and stops as soon as the sleeper has its answer.
//! The soak in `tests/sleeping.rs` is of the code.

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::{model::Builder, thread};

const SLEEPERS: usize = 2;
/// Answers for one sleeper are counted from this bit on, for each.
const BITS: usize = 8;

/// A channel, and what wakes its waiters.
#[derive(Default)]
struct Channel {
    /// An edge-triggered waiter on the descriptor need not clear it.
    has_edges: bool,
    /// The completion queue: answers that have arrived, for each sleeper.
    queue: AtomicUsize,
    wake: AtomicBool,
    core: Mutex<ModelState>,
    fallback: AtomicBool,
    inline: Mutex<Option<InlineWatcher>>,
    /// A thread has seen an event that is not cleared yet.
    is_raised: AtomicBool,
    kernel: Mutex<Kernel>,
    changed: Condvar,
}

#[derive(Default)]
struct ModelState {
    /// Answers that were handled, for each sleeper.
    answers: [usize; SLEEPERS],
    /// The sleepers that are to be woken.
    asleep: [bool; SLEEPERS],
    is_closed: bool,
}

enum InlineWatcher {
    Thread,
    /// On the runtime of this sleeper.
    Task {
        of: usize,
        is_idle: bool,
    },
}

/// The state that ends a wait.
#[derive(Default)]
struct Kernel {
    /// The completion queue's descriptor is readable.
    raised: bool,
    /// The descriptor was raised since the fallback task, and those on the sleepers' runtimes,
    /// noticed that. They wait for edges, and miss one that is cleared before they look.
    edge_at_home: bool,
    edges: [bool; SLEEPERS],
    woken: [bool; SLEEPERS],
    /// Wakes of the tasks on the sleepers' runtimes.
    bells: [bool; SLEEPERS],
    /// The fallback task has been spawned, and has not begun.
    spawned: bool,
    is_over: bool,
}

impl Channel {
    fn core(&self) -> MutexGuard<'_, ModelState> {
        self.core.lock().expect("nobody panics")
    }

    fn inline(&self) -> MutexGuard<'_, Option<InlineWatcher>> {
        self.inline.lock().expect("nobody panics")
    }

    fn tell(&self, tell: impl FnOnce(&mut Kernel)) {
        tell(&mut self.kernel.lock().expect("nobody panics"));
        self.changed.notify_all();
    }

    /// Waits until `look` finds something.
    fn wait<T>(&self, mut look: impl FnMut(&mut Kernel) -> Option<T>) -> T {
        let mut kernel = self.kernel.lock().expect("nobody panics");
        loop {
            if let Some(found) = look(&mut kernel) {
                return found;
            }
            kernel = self.changed.wait(kernel).expect("nobody panics");
        }
    }

    /// The peer answers a call of this sleeper.
    fn answer(&self, sleeper: usize) {
        self.queue
            .fetch_add(1 << (sleeper * BITS), Ordering::Release);
        fence(Ordering::SeqCst);
        if self.wake.load(Ordering::Relaxed) && self.wake.swap(false, Ordering::AcqRel) {
            self.tell(|kernel| {
                kernel.raised = true;
                kernel.edge_at_home = true;
                kernel.edges = [true; SLEEPERS];
            });
        }
    }

    /// Somebody closes the channel.
    fn close(&self) {
        let mut core = self.core();
        core.is_closed = true;
        let asleep = std::mem::take(&mut core.asleep);
        drop(core);
        self.wake(asleep);
    }

    /// Handles what has arrived, under the lock.
    fn collect(&self, core: &mut ModelState) -> [bool; SLEEPERS] {
        let arrived = self.queue.swap(0, Ordering::Acquire);
        let mut ready = [false; SLEEPERS];
        for sleeper in 0..SLEEPERS {
            let count = arrived >> (sleeper * BITS) & ((1 << BITS) - 1);
            core.answers[sleeper] += count;
            ready[sleeper] = count > 0 && std::mem::take(&mut core.asleep[sleeper]);
        }
        ready
    }

    fn wake(&self, ready: [bool; SLEEPERS]) {
        if ready.contains(&true) {
            self.tell(|kernel| {
                for (woken, ready) in kernel.woken.iter_mut().zip(ready) {
                    *woken |= ready;
                }
            });
        }
    }

    fn progress(&self) {
        let ready = self.collect(&mut self.core());
        self.wake(ready);
    }

    fn arm(&self) {
        self.wake.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.progress();
    }

    fn has_sleepers(&self) -> bool {
        self.core().asleep.contains(&true)
    }

    /// Returns whether this many calls of the sleeper have ended. If not, it is woken when another
    /// one does.
    fn poll(&self, sleeper: usize, calls: usize) -> bool {
        let mut core = self.core();
        let ready = self.collect(&mut core);
        let is_decided = core.is_closed || core.answers[sleeper] >= calls;
        core.asleep[sleeper] = !is_decided;
        drop(core);
        self.wake(ready);
        is_decided
    }

    fn admits(&self, place: &mut Option<InlineWatcher>) -> bool {
        if self.fallback.load(Ordering::Acquire) {
            return false;
        }
        match *place {
            None => true,
            Some(InlineWatcher::Task { of, is_idle: true }) => {
                self.tell(|kernel| kernel.bells[of] = true);
                *place = None;
                true
            }
            Some(_) => false,
        }
    }

    fn ensure_fallback(&self) {
        if self.fallback.swap(true, Ordering::AcqRel) {
            self.arm();
        } else {
            self.tell(|kernel| kernel.spawned = true);
        }
    }

    /// A thread makes calls, one after the other.
    fn sleep_in_thread(&self, sleeper: usize, calls: usize) {
        for call in 1..=calls {
            while !self.poll(sleeper, call) {
                self.park(sleeper);
            }
        }
    }

    fn park(&self, sleeper: usize) {
        let is_guest = {
            let mut inline = self.inline();
            let is_admitted = self.admits(&mut inline);
            if is_admitted {
                *inline = Some(InlineWatcher::Thread);
            }
            is_admitted
        };
        if !is_guest {
            self.ensure_fallback();
            return self.wait(|kernel| std::mem::take(&mut kernel.woken[sleeper]).then_some(()));
        }
        loop {
            if self.is_raised.swap(false, Ordering::Relaxed) {
                self.tell(|kernel| kernel.raised = false);
            }
            self.arm();
            let is_woken = self.wait(|kernel| {
                let is_woken = std::mem::take(&mut kernel.woken[sleeper]);
                (is_woken || kernel.raised).then_some(is_woken)
            });
            if is_woken {
                break;
            }
            self.is_raised.store(true, Ordering::Relaxed);
            self.progress();
            if self.take_notice(sleeper) {
                self.arm();
                break;
            }
        }
        *self.inline() = None;
    }

    /// Whether this sleeper was woken.
    fn take_notice(&self, sleeper: usize) -> bool {
        let mut kernel = self.kernel.lock().expect("nobody panics");
        std::mem::take(&mut kernel.woken[sleeper])
    }

    /// A runtime is driven until its sleeper is answered, for each call.
    fn sleep_in_runtime(&self, sleeper: usize, calls: usize) {
        let mut task = None;
        for call in 1..=calls {
            // The waiter is polled first, then the watching task.
            while !self.poll(sleeper, call) {
                let is_new = self.ensure(sleeper);
                if is_new {
                    task = self.watch(sleeper);
                }
                while !self.drive(sleeper, &mut task) {}
            }
        }
    }

    /// Says whether a task is to be spawned on this runtime.
    fn ensure(&self, sleeper: usize) -> bool {
        let mut inline = self.inline();
        match &mut *inline {
            Some(InlineWatcher::Task { of, is_idle }) if *of == sleeper => {
                if std::mem::take(is_idle) {
                    self.tell(|kernel| kernel.bells[sleeper] = true);
                } else {
                    drop(inline);
                    self.arm();
                }
                return false;
            }
            _ => {}
        }
        let is_admitted = self.admits(&mut inline);
        if is_admitted {
            let is_idle = false;
            *inline = Some(InlineWatcher::Task {
                of: sleeper,
                is_idle,
            });
        } else {
            drop(inline);
            self.ensure_fallback();
        }
        is_admitted
    }

    /// Runs what can run on a runtime, or waits for it. Says whether its sleeper was woken.
    fn drive(&self, sleeper: usize, task: &mut Option<Task>) -> bool {
        enum Next {
            Sleeper,
            Task { is_raised: bool },
        }
        let next = self.wait(|kernel| {
            if std::mem::take(&mut kernel.woken[sleeper]) {
                return Some(Next::Sleeper);
            }
            let is_raised = *task == Some(Task::WatchGuard)
                && std::mem::take(&mut kernel.edges[sleeper])
                && kernel.raised;
            kernel.raised &= !is_raised || self.has_edges;
            let is_rung = task.is_some() && std::mem::take(&mut kernel.bells[sleeper]);
            (is_raised || is_rung).then_some(Next::Task { is_raised })
        });
        let Next::Task { is_raised } = next else {
            return true;
        };
        if is_raised || *task == Some(Task::WatchGuard) {
            self.progress();
        }
        *task = self.watch(sleeper);
        false
    }

    /// The task on a sleeper's runtime runs until it waits.
    fn watch(&self, sleeper: usize) -> Option<Task> {
        loop {
            if self.has_sleepers() {
                self.arm();
                if self.has_sleepers() {
                    return Some(Task::WatchGuard);
                }
            }
            let mut inline = self.inline();
            let Some(InlineWatcher::Task { of, is_idle }) = &mut *inline else {
                return None;
            };
            if *of != sleeper {
                return None;
            }
            *is_idle = true;
            if !self.has_sleepers() {
                return Some(Task::Idle);
            }
            *is_idle = false;
        }
    }

    /// The agent's runtime.
    fn stay_fallback(&self) {
        while self.wait(|kernel| {
            let is_spawned = std::mem::take(&mut kernel.spawned);
            (is_spawned || kernel.is_over).then_some(is_spawned)
        }) {
            while self.has_sleepers() {
                self.arm();
                if !self.has_sleepers() {
                    break;
                }
                let is_over = self.wait(|kernel| {
                    let is_raised = std::mem::take(&mut kernel.edge_at_home) && kernel.raised;
                    kernel.raised &= !is_raised || self.has_edges;
                    (is_raised || kernel.is_over).then_some(kernel.is_over)
                });
                if is_over {
                    return;
                }
                self.progress();
            }
            self.fallback.swap(false, Ordering::AcqRel);
            if self.has_sleepers() {
                self.ensure_fallback();
            }
        }
    }
}

/// What a watching task waits for: an event or its wake, or its wake alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    WatchGuard,
    Idle,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Thread,
    Runtime,
}

/// What decides calls.
#[derive(Debug, Clone, Copy)]
enum CallEnd {
    /// An answer to this sleeper.
    Answer(usize),
    Close,
}

/// Two sleepers make calls, which end like this. A forgotten sleeper waits for ever, which loom
/// reports as a deadlock.
fn nobody_is_forgotten(sleepers: [(Kind, usize); SLEEPERS], ends: &'static [CallEnd]) {
    for has_edges in [false, true] {
        explore(2, has_edges, sleepers, ends);
    }
}

/// With up to so many preemptions.
fn explore(
    preemptions: usize,
    has_edges: bool,
    sleepers: [(Kind, usize); SLEEPERS],
    ends: &'static [CallEnd],
) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let channel = Arc::new(Channel {
            has_edges,
            ..Channel::default()
        });
        let sleep = move |channel: &Channel, sleeper: usize| match sleepers[sleeper] {
            (Kind::Thread, calls) => channel.sleep_in_thread(sleeper, calls),
            (Kind::Runtime, calls) => channel.sleep_in_runtime(sleeper, calls),
        };
        let of = || channel.clone();
        let (fallback, peer, other) = (of(), of(), of());
        let fallback = thread::spawn(move || fallback.stay_fallback());
        let peer = thread::spawn(move || {
            for end in ends {
                match *end {
                    CallEnd::Answer(sleeper) => peer.answer(sleeper),
                    CallEnd::Close => peer.close(),
                }
            }
        });
        let other = thread::spawn(move || sleep(&other, 1));
        sleep(&channel, 0);
        other.join().expect("the calls of the other are decided");
        peer.join().expect("the peer ends");
        channel.tell(|kernel| kernel.is_over = true);
        fallback.join().expect("fallback ends");
    });
}

#[test]
fn call_1_two_threads() {
    let sleepers = [(Kind::Thread, 1), (Kind::Thread, 1)];
    nobody_is_forgotten(sleepers, &[CallEnd::Answer(0), CallEnd::Answer(1)]);
}

#[test]
fn call_1_a_thread_and_a_runtime() {
    let sleepers = [(Kind::Thread, 1), (Kind::Runtime, 1)];
    nobody_is_forgotten(sleepers, &[CallEnd::Answer(0), CallEnd::Answer(1)]);
}

#[test]
fn call_1_a_thread_after_a_runtime_that_sleeps_twice() {
    let sleepers = [(Kind::Runtime, 2), (Kind::Thread, 1)];
    nobody_is_forgotten(
        sleepers,
        &[CallEnd::Answer(0), CallEnd::Answer(1), CallEnd::Answer(0)],
    );
}

#[test]
fn call_1_two_runtimes() {
    let sleepers = [(Kind::Runtime, 1), (Kind::Runtime, 1)];
    nobody_is_forgotten(sleepers, &[CallEnd::Answer(0), CallEnd::Answer(1)]);
}

#[test]
fn call_1_a_thread_that_sleeps_twice() {
    let sleepers = [(Kind::Thread, 2), (Kind::Thread, 1)];
    nobody_is_forgotten(
        sleepers,
        &[CallEnd::Answer(0), CallEnd::Answer(1), CallEnd::Answer(0)],
    );
}

/// A sleeper that the fallback has served may find it disarmed the next time: an inline watcher has
/// consumed the event.
#[test]
fn call_1_a_thread_that_sleeps_twice_beside_a_runtime() {
    let sleepers = [(Kind::Runtime, 1), (Kind::Thread, 2)];
    nobody_is_forgotten(
        sleepers,
        &[CallEnd::Answer(0), CallEnd::Answer(1), CallEnd::Answer(1)],
    );
}

/// A close that forgets a sleeper does so with one preemption.
#[test]
fn call_1_a_thread_and_a_runtime_whose_channel_is_closed() {
    let sleepers = [(Kind::Thread, 1), (Kind::Runtime, 1)];
    for has_edges in [false, true] {
        explore(
            1,
            has_edges,
            sleepers,
            &[CallEnd::Answer(0), CallEnd::Close],
        );
    }
}

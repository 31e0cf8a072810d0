//! Turns: what one process changes in a scope, it does one after the other.
//!
//! A thousand agents of one process wait here rather than for the lock of the scope, on which
//! other processes would otherwise have no chance. One thread does what all of them want, so that
//! an agent is woken once, with the result.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::threads;
use crate::control::ControlError;

type Act = Box<dyn FnOnce() + Send>;

/// Turns after which other processes are let in: they try the lock of the scope again and again,
/// and it is held almost all the time while many wait here.
const TOGETHER: usize = 8;
/// For how long they are.
const PAUSE: Duration = Duration::from_micros(100);

/// The turns at one scope.
#[derive(Default)]
pub(super) struct Turns {
    waiting: Mutex<Waiting>,
    /// How many have done what they wanted.
    done: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    acts: VecDeque<Act>,
    /// Whether a thread takes them.
    is_served: bool,
}

impl Turns {
    /// Runs `act` behind those who came before, with the caller's runtime as the current one.
    /// Returns `None` if nobody has done anything for as long as `patience`: however many there are
    /// before this one, they are let by as long as it goes on. An error of the directory counts as
    /// nothing.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        patience: Duration,
        act: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
    ) -> Option<Result<T, ControlError>> {
        let (tell, mut told) = oneshot::channel();
        let is_taken = Arc::new(AtomicBool::new(false));
        let (turns, taken, callers) = (Arc::clone(self), is_taken.clone(), Handle::current());
        self.push(Box::new(move || {
            // Nobody waits for what was given up.
            if taken.swap(true, Ordering::Relaxed) || tell.is_closed() {
                return;
            }
            let _within = callers.enter();
            let done = catch_unwind(AssertUnwindSafe(act));
            if !matches!(done, Ok(Err(ControlError::HostDirectory { .. }))) {
                turns.done.fetch_add(1, Ordering::Relaxed);
            }
            let _ = tell.send(done);
        }));
        let done = loop {
            let before = self.done.load(Ordering::Relaxed);
            if let Ok(done) = timeout(patience, &mut told).await {
                break done;
            }
            let is_stuck = self.done.load(Ordering::Relaxed) == before;
            if is_stuck && !is_taken.swap(true, Ordering::Relaxed) {
                return None;
            }
        };
        match done {
            Ok(Ok(done)) => Some(done),
            Ok(Err(panic)) => resume_unwind(panic),
            // The thread that would have done it has died, or its runtime is being shut down.
            Err(_) => Some(Err(ControlError::NotRegistered)),
        }
    }

    fn push(self: &Arc<Self>, act: Act) {
        let is_served = {
            let mut waiting = self.waiting();
            waiting.acts.push_back(act);
            std::mem::replace(&mut waiting.is_served, true)
        };
        if !is_served {
            let mut server = Server {
                turns: Arc::clone(self),
                is_over: false,
            };
            threads::of_all().spawn_blocking(move || server.serve());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Turns")
    }
}

/// Takes the turns of those who wait, until nobody does.
struct Server {
    turns: Arc<Turns>,
    is_over: bool,
}

impl Server {
    fn serve(&mut self) {
        for number in 1.. {
            let Some(act) = self.next() else {
                return;
            };
            act();
            if number % TOGETHER == 0 {
                thread::sleep(PAUSE);
            }
        }
    }

    fn next(&mut self) -> Option<Act> {
        let mut waiting = self.turns.waiting();
        let next = waiting.acts.pop_front();
        self.is_over = next.is_none();
        waiting.is_served = !self.is_over;
        next
    }
}

impl Drop for Server {
    /// Without a thread of its own, or after a panic, whoever waits is told, and whoever comes next
    /// starts another.
    fn drop(&mut self) {
        if !self.is_over {
            let mut waiting = self.turns.waiting();
            waiting.is_served = false;
            let acts = std::mem::take(&mut waiting.acts);
            drop(waiting);
            drop(acts);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;
    use std::thread::sleep;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    /// A turn of this length for each of several who begin to wait at once, and whether the last
    /// gets one.
    async fn last_of(count: u32, each: Duration, of_use: bool) -> bool {
        let turns = Arc::<Turns>::default();
        let act = move || {
            sleep(each);
            match of_use {
                true => Ok(()),
                false => Err(ControlError::HostDirectory {
                    path: "/run/slimerpc/job".to_owned(),
                    reason: "it is locked".to_owned(),
                }),
            }
        };
        let mut last = None;
        for _ in 0..count {
            let turns = Arc::clone(&turns);
            last = Some(tokio::spawn(async move { turns.run(PATIENCE, act).await }));
        }
        last.unwrap().await.unwrap().is_some()
    }

    /// A thousand agents of one process take longer together than any of them may take.
    #[tokio::test]
    async fn who_waits_behind_many_waits_as_long_as_it_goes_on() {
        assert!(last_of(12, PATIENCE / 4, true).await);
    }

    #[tokio::test]
    async fn who_waits_behind_one_that_is_stuck_is_told() {
        assert!(!last_of(2, PATIENCE * 4, true).await);
        assert!(!last_of(12, PATIENCE / 4, false).await, "nothing was done");
    }

    #[tokio::test]
    async fn turns_are_taken_one_at_a_time_in_order_and_none_that_was_given_up() {
        let (turns, taken) = (Arc::<Turns>::default(), Arc::<Mutex<Vec<u32>>>::default());
        let turn = |number: u32, begin: Option<mpsc::Receiver<()>>| {
            let (turns, taken) = (Arc::clone(&turns), Arc::clone(&taken));
            let act = move || {
                // Only one is inside.
                let mut taken = taken.try_lock().unwrap();
                begin.map(|begin| begin.recv());
                taken.push(number);
                Ok(())
            };
            tokio::spawn(async move { turns.run(PATIENCE * 60, act).await.unwrap() })
        };
        let (begin, begins) = mpsc::channel();
        let first = turn(0, Some(begins));
        let mut waiting: Vec<_> = (1..20).map(|number| turn(number, None)).collect();
        // All of them wait behind the first.
        tokio::task::yield_now().await;
        let given_up = waiting.pop().unwrap();
        given_up.abort();
        assert!(given_up.await.unwrap_err().is_cancelled());
        begin.send(()).unwrap();
        first.await.unwrap().unwrap();
        for turn in waiting {
            turn.await.unwrap().unwrap();
        }
        let after = turn(20, None);
        after.await.unwrap().unwrap();
        let expected: Vec<_> = (0..19).chain([20]).collect();
        assert_eq!(*taken.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_panic_is_that_of_whose_turn_it_is_and_the_others_go_on() {
        let turns = Arc::<Turns>::default();
        let run = |act: fn() -> Result<(), ControlError>| {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { turns.run(PATIENCE * 60, act).await.unwrap() })
        };
        let (panics, goes_on) = (run(|| panic!("on purpose")), run(|| Ok(())));
        assert!(panics.await.unwrap_err().is_panic());
        goes_on.await.unwrap().unwrap();
    }

    /// Dropping what an act has borrowed may panic outside of its turn.
    #[tokio::test]
    async fn a_server_that_dies_leaves_its_place_to_the_next() {
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("on purpose");
            }
        }
        let turns = Arc::<Turns>::default();
        // What nobody waits for any more is dropped with its turn.
        let (begin, begins) = mpsc::channel();
        let first = Arc::clone(&turns);
        let first = tokio::spawn(async move {
            let act = move || {
                begins.recv().unwrap();
                Ok(())
            };
            first.run(PATIENCE * 60, act).await.unwrap()
        });
        tokio::task::yield_now().await;
        let (second, panics) = (Arc::clone(&turns), Panics);
        let second = tokio::spawn(async move {
            let act = move || {
                let _panics = panics;
                Ok(())
            };
            second.run(PATIENCE * 60, act).await
        });
        tokio::task::yield_now().await;
        second.abort();
        begin.send(()).unwrap();
        first.await.unwrap().unwrap();
        let mut done = false;
        while !done {
            let run = turns.run(PATIENCE * 60, || Ok(()));
            // That of a server that has died meanwhile says so.
            done = run.await.unwrap().is_ok();
        }
    }
}

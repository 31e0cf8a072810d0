//! Decides whether a thread may block.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Handle;
use tokio::task::{coop, yield_now};

/// More operations than the budget that tokio gives a task for one turn, which is 128.
const BEYOND_BUDGET: usize = 256;

/// Returns whether a wait on this thread would keep a tokio runtime from its work: the thread runs
/// an async task, or a scheduler. An entered runtime alone does not mean that: it is also entered
/// on the threads of `spawn_blocking`, in `block_in_place`, and after [`Handle::enter`] on any
/// thread.
///
/// A thread without a runtime pays for one look at a thread-local variable.
pub(crate) fn would_block_a_runtime() -> bool {
    Handle::try_current().is_ok() && (has_scheduler() || has_budget())
}

/// Returns whether this thread runs a scheduler, as the threads of a runtime and of actix arbiters
/// do. Such a scheduler keeps the waker of a task that yields until its next turn; without one the
/// task is woken at once.
fn has_scheduler() -> bool {
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(woken.clone());
    let yielded = pin!(yield_now()).poll(&mut Context::from_waker(&waker));
    yielded.is_pending() && !woken.0.load(Ordering::Relaxed)
}

/// Returns whether this thread polls a future for tokio, in `block_on` or a `LocalSet`: then it has
/// a budget, which ends. The budget is restored afterwards.
fn has_budget() -> bool {
    let mut context = Context::from_waker(Waker::noop());
    let mut taken = Vec::new();
    let is_spent = loop {
        match coop::poll_proceed(&mut context) {
            Poll::Pending => break true,
            Poll::Ready(_) if taken.len() == BEYOND_BUDGET => break false,
            Poll::Ready(part) => taken.push(part),
        }
    };
    // Each guard restores what was there before it, so drop the last one first.
    while taken.pop().is_some() {}
    is_spent
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread;

    use tokio::runtime::{Builder, Runtime};
    use tokio::task::{LocalSet, block_in_place, spawn_blocking, unconstrained};

    use super::*;

    fn current_thread() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn multi_thread() -> Runtime {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    }

    #[test]
    fn a_plain_thread_may_wait_and_so_may_one_that_has_entered_a_runtime() {
        assert!(!would_block_a_runtime());
        for runtime in [current_thread(), multi_thread()] {
            let _entered = runtime.enter();
            assert!(!would_block_a_runtime());
            assert!(!futures_executor(async { would_block_a_runtime() }));
        }
        let system = actix::System::new();
        assert!(!would_block_a_runtime());
        drop(system);
    }

    /// Polls a future that is ready at once, as an executor that tokio does not know.
    fn futures_executor<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => done,
            Poll::Pending => panic!("it is ready at once"),
        }
    }

    #[test]
    fn who_runs_tasks_may_not_wait() {
        for runtime in [current_thread(), multi_thread()] {
            assert!(runtime.block_on(async { would_block_a_runtime() }));
            assert!(runtime.block_on(async {
                let task = tokio::spawn(async { would_block_a_runtime() });
                task.await.unwrap()
            }));
            assert!(runtime.block_on(async {
                let task = tokio::spawn(unconstrained(async { would_block_a_runtime() }));
                task.await.unwrap()
            }));
            let set = LocalSet::new();
            assert!(set.block_on(&runtime, async {
                let task = tokio::task::spawn_local(async { would_block_a_runtime() });
                task.await.unwrap()
            }));
        }
        let main = current_thread();
        assert!(main.block_on(unconstrained(async { would_block_a_runtime() })));
        let (tell, told) = std::sync::mpsc::channel();
        actix::System::new().block_on(async {
            let arbiter = actix::Arbiter::new();
            arbiter.spawn_fn(move || tell.send(would_block_a_runtime()).unwrap());
            assert!(would_block_a_runtime());
            assert!(spawn_blocking(move || told.recv().unwrap()).await.unwrap());
        });
    }

    #[test]
    fn what_is_given_to_other_threads_may_wait() {
        for runtime in [current_thread(), multi_thread()] {
            let may_wait = runtime.block_on(async {
                let blocking = spawn_blocking(|| !would_block_a_runtime());
                blocking.await.unwrap()
            });
            assert!(may_wait);
            let handle = runtime.handle().clone();
            let nested = runtime.block_on(async {
                let blocking =
                    spawn_blocking(move || handle.block_on(async { would_block_a_runtime() }));
                blocking.await.unwrap()
            });
            assert!(nested, "it polls for tokio again");
        }
        actix::System::new().block_on(async {
            let blocking = spawn_blocking(|| !would_block_a_runtime());
            assert!(blocking.await.unwrap());
        });
        let runtime = multi_thread();
        assert!(!runtime.block_on(async { block_in_place(would_block_a_runtime) }));
        assert!(!runtime.block_on(async {
            let task = tokio::spawn(async { block_in_place(would_block_a_runtime) });
            task.await.unwrap()
        }));
        assert!(runtime.block_on(async {
            let task = tokio::spawn(async {
                block_in_place(|| ());
                would_block_a_runtime()
            });
            task.await.unwrap()
        }));
    }

    #[test]
    fn a_thread_that_ends_may_wait() {
        struct AtEnd(std::sync::mpsc::Sender<bool>);
        impl Drop for AtEnd {
            fn drop(&mut self) {
                self.0.send(would_block_a_runtime()).unwrap();
            }
        }
        thread_local!(static AT_END: std::cell::OnceCell<AtEnd> = const { std::cell::OnceCell::new() });
        let (tell, told) = std::sync::mpsc::channel();
        let ending = thread::spawn(|| AT_END.with(|at_end| drop(at_end.set(AtEnd(tell)))));
        ending.join().unwrap();
        assert!(!told.recv().unwrap());
    }

    #[test]
    fn the_budget_of_a_task_is_left_as_it_was() {
        let left = || {
            let (mut context, mut left) = (Context::from_waker(Waker::noop()), 0);
            while let Poll::Ready(part) = coop::poll_proceed(&mut context) {
                part.made_progress();
                left += 1;
            }
            left
        };
        for looks in [0, 1, 3] {
            let left = current_thread().block_on(async {
                (0..looks).for_each(|_| assert!(has_budget()));
                left()
            });
            assert_eq!(left, 128, "after {looks} looks");
        }
    }
}

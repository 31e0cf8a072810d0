//! The end of a watcher: no sleeper is forgotten.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc;
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Builder;

use super::*;
use crate::channel::loopback::{LONG, Loopback};
use crate::channel::{CallError, Inbound, PendingCall};
use crate::fabric::shm::ShmDevice;

/// Wakes nobody, and says that it was woken.
struct Told(mpsc::Sender<()>);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        // A sleeper that is not waited for any more is not told.
        let _ = self.0.send(());
    }
}

/// A call whose caller sleeps.
struct Sleeper {
    call: PendingCall,
    woken: mpsc::Receiver<()>,
}

impl Sleeper {
    /// Goes to sleep in the current runtime, or in none.
    fn new(mut call: PendingCall) -> Self {
        let (tell, woken) = mpsc::channel();
        let waker = Waker::from(Arc::new(Told(tell)));
        let polled = call.poll(Some(&waker)).map(|answer| answer.is_ok());
        assert_eq!(polled, Poll::Pending);
        call.sleep();
        Self { call, woken }
    }

    /// Is woken when `request`, which it has made, is answered.
    fn expect_woken(mut self, request: Inbound) {
        request.reply(|_| Ok(0));
        self.woken.recv_timeout(LONG).expect("it is forgotten");
        assert!(self.call.poll(None).map(|answer| answer.is_ok()) == Poll::Ready(true));
    }
}

/// Its tasks run only while somebody blocks on it.
fn runtime() -> tokio::runtime::Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn call_1_a_runtime_that_ends_hands_its_sleepers_over() {
    for is_driven in [false, true] {
        let mut ends = Loopback::new(2);
        let inline = runtime();
        let sleeper = {
            let _entered = inline.enter();
            Sleeper::new(ends.call())
        };
        assert!(matches!(
            *ends.channel.watcher().inline(),
            Some(InlineWatcher::Task(_))
        ));
        if is_driven {
            // Until its task waits for events.
            drive(&inline);
        }
        drop(inline);
        let request = ends.request();
        sleeper.expect_woken(request);
    }
}

/// A task of a runtime and the fallback watch for one sleeper each, and one of them consumes the
/// event of both answers before the other sees it: the other waits on, disarmed. Returns the
/// runtime of the task, too.
#[cfg(feature = "faults")]
fn disarm(is_fallback: bool) -> (Loopback, tokio::runtime::Runtime) {
    use crate::fabric::faults::{Faults, Plan};

    // A waiter that has not seen an event when it is cleared misses it: this queue has no edges.
    let caller = Faults::new(Plan::new()).wrap(ShmDevice::open().unwrap());
    let mut ends = Loopback::in_runtime(runtime(), caller, ShmDevice::open().unwrap(), 4);
    let inline = runtime();
    let first = {
        let _entered = inline.enter();
        Sleeper::new(ends.call())
    };
    let first_request = ends.request();
    drive(&inline);
    let other = Sleeper::new(ends.call());
    let other_request = ends.request();
    drive(&ends.runtime);
    for request in [first_request, other_request] {
        request.reply(|_| Ok(0));
    }
    let armed = match is_fallback {
        true => &inline,
        false => &ends.runtime,
    };
    for woken in [&first.woken, &other.woken] {
        is_woken_in(armed, woken);
    }
    drive(armed);
    drop((first, other));
    (ends, inline)
}

#[cfg(feature = "faults")]
#[test]
fn call_1_a_disarmed_task_is_armed_by_the_next_sleeper_of_its_runtime() {
    let (mut ends, inline) = disarm(false);
    let next = {
        let _entered = inline.enter();
        Sleeper::new(ends.call())
    };
    ends.request().reply(|_| Ok(0));
    is_woken_in(&inline, &next.woken);
}

#[cfg(feature = "faults")]
#[test]
fn call_1_a_disarmed_fallback_is_armed_by_its_next_sleeper() {
    let (mut ends, _inline) = disarm(true);
    let next = Sleeper::new(ends.call());
    ends.request().reply(|_| Ok(0));
    is_woken_in(&ends.runtime, &next.woken);
}

#[cfg(feature = "faults")]
#[test]
fn drop_1_a_disarmed_fallback_leaves_the_queue_of_a_closed_channel() {
    let (ends, inline) = disarm(true);
    is_closed_and_left(&ends, &[&inline, &ends.runtime]);
}

#[test]
fn call_1_a_channel_ends_with_the_runtime_that_watches_for_its_sleepers() {
    for is_driven in [false, true] {
        let device = || ShmDevice::open().unwrap();
        let mut ends = Loopback::in_runtime(runtime(), device(), device(), 2);
        let mut sleeper = Sleeper::new(ends.call());
        if is_driven {
            drive(&ends.runtime);
        }
        drop(std::mem::replace(&mut ends.runtime, runtime()));
        sleeper.woken.recv_timeout(LONG).expect("it is forgotten");
        let Poll::Ready(Err(CallError::Closed { cause, .. })) = sleeper.call.poll(None) else {
            panic!("nobody watches for it")
        };
        assert_eq!(cause, LossCause::ShutDown);
    }
}

#[test]
fn call_1_a_thread_that_stops_watching_leaves_others_watched() {
    let mut ends = Loopback::new(2);
    let mut first = ends.call();
    let others = thread::scope(|scope| {
        let thread = scope.spawn(move || {
            Parker::with(|parker, waker| {
                while first.poll(Some(waker)).map(|a| a.is_ok()).is_pending() {
                    first.park(parker);
                }
            });
        });
        let until = Instant::now() + LONG;
        while !matches!(
            *ends.channel.watcher().inline(),
            Some(InlineWatcher::Thread)
        ) {
            assert!(Instant::now() < until, "the thread does not watch");
            thread::sleep(Duration::from_millis(1));
        }
        let request = ends.request();
        // One outside of every runtime, and one in a runtime that nobody drives.
        let second = Sleeper::new(ends.call());
        request.reply(|_| Ok(0));
        thread.join().unwrap();
        second
    });
    assert!(ends.channel.watcher().inline().is_none());
    let request = ends.request();
    others.expect_woken(request);
}

#[test]
fn drop_1_nobody_watches_the_queue_of_a_closed_channel() {
    let mut ends = Loopback::new(4);
    let inline = runtime();
    let (asleep, at_home) = {
        let _entered = inline.enter();
        // One has its answer, and leaves an idle task; another sleeps until the channel is closed.
        let first = Sleeper::new(ends.call());
        let request = ends.request();
        drive(&inline);
        request.reply(|_| Ok(0));
        while first.woken.try_recv().is_err() {
            drive(&inline);
        }
        (Sleeper::new(ends.call()), first)
    };
    let elsewhere = Sleeper::new(ends.call());
    drive(&inline);
    drive(&ends.runtime);
    is_closed_and_left(&ends, &[&inline, &ends.runtime]);
    drop((asleep, at_home, elsewhere));
}

/// Nobody has the queue of a channel that was closed, once the tasks of `runtimes` have run.
fn is_closed_and_left(ends: &Loopback, runtimes: &[&tokio::runtime::Runtime]) {
    let queue = Arc::downgrade(&ends.channel.queue().expect("it is open"));
    ends.channel.close(LossCause::Gone);
    let until = Instant::now() + LONG;
    while queue.strong_count() > 0 {
        assert!(Instant::now() < until, "a task has it");
        runtimes.iter().for_each(|runtime| drive(runtime));
    }
    assert!(ends.channel.queue().is_none());
}

/// Somebody is woken while the tasks of `runtime` run.
#[cfg(feature = "faults")]
fn is_woken_in(runtime: &tokio::runtime::Runtime, woken: &mpsc::Receiver<()>) {
    let until = Instant::now() + LONG;
    while woken.try_recv().is_err() {
        assert!(Instant::now() < until, "it is forgotten");
        drive(runtime);
    }
}

/// Its tasks run as far as they can.
fn drive(runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    });
}

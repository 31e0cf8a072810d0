//! Callers that sleep until they are answered: no wake-up is lost, whoever watches the queue, and
//! whatever becomes of them.
#![allow(clippy::unwrap_used)]

use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use actix::System;
use slimerpc_actors::{PeerAgent, Polling, Proxy, Ran, RpcError, service};
use support::{ResourceUsage, Tally, alone::is_alone, wait_until};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

/// When who was forgotten wakes up, and finds the answer.
const LONG: Duration = Duration::from_secs(60);

/// How many calls each of the last two tests makes. 5,000,000 take some minutes, optimised.
const SLEEPS: &str = "SLIME_TEST_SLEEPS";

#[derive(Default)]
struct Sleeper {
    /// Handlers of `answer_after`.
    begun: Tally,
}

#[service]
impl Sleeper {
    #[method]
    async fn answer_after(&mut self, millis: u64) -> u64 {
        self.begun.up();
        sleep(Duration::from_millis(millis)).await;
        millis
    }

    #[method(raw)]
    fn echo(&mut self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }
}

/// Two agents that never poll for more than a moment, and a runtime for whoever awaits them.
struct Pair {
    proxy: Proxy<Sleeper>,
    begun: Tally,
    driver: PeerAgent,
    worker: PeerAgent,
    runtime: Runtime,
}

impl Pair {
    fn connect(name: &str) -> Self {
        let runtime = runtime();
        let served = Sleeper::default();
        let begun = served.begun.clone();
        let (driver, worker, proxy) = runtime.block_on(async {
            let agent = |role| {
                support::agent(format!("{role}-{name}:0"))
                    .polling(Polling::default().busy_poll(Duration::ZERO))
            };
            let worker = agent("worker").start().await.unwrap();
            worker.serve(served).await.unwrap();
            let driver = agent("driver").start().await.unwrap();
            let proxy = driver.proxy::<Sleeper>(worker.alias()).await.unwrap();
            (driver, worker, proxy)
        });
        Self {
            proxy,
            begun,
            driver,
            worker,
            runtime,
        }
    }

    /// Waits until somebody's call is under way, and so is its sleep.
    fn wait_for_call(&self) {
        wait_until("a handler has begun", || self.begun.get() > 0);
    }

    fn end(self) {
        self.runtime.block_on(async {
            self.driver.shutdown().await.unwrap();
            self.worker.shutdown().await.unwrap();
        });
    }
}

/// One that runs only while somebody blocks on it.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Fails if nobody woke who waited in `call`.
fn woken<T>(call: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let answer = call();
    assert!(begun.elapsed() < LONG / 2, "it was woken by the clock");
    answer
}

#[test]
fn call_1_a_thread_is_answered_though_the_runtime_that_watched_before_it_has_stopped() {
    let pair = Pair::connect("stopped");
    let (proxy, watching) = (&pair.proxy, runtime());
    thread::scope(|scope| {
        let second = scope.spawn(|| {
            pair.wait_for_call();
            woken(|| proxy.answer_after(200).wait_timeout(LONG))
        });
        let first = async { proxy.answer_after(100).timeout(LONG).await };
        assert_eq!(watching.block_on(first).unwrap(), 100);
        // From here on nobody drives that runtime.
        assert_eq!(second.join().unwrap().unwrap(), 200);
    });
    drop(watching);
    pair.end();
}

#[test]
fn call_1_a_runtime_is_served_though_another_one_of_its_thread_watched_before_it() {
    let pair = Pair::connect("another");
    let (proxy, watching) = (&pair.proxy, runtime());
    // Asleep in a runtime that is not driven any more.
    let mut left = Box::pin(async { proxy.answer_after(100).timeout(LONG).await });
    watching.block_on(async {
        let begun = tokio::time::timeout(Duration::from_millis(20), &mut left);
        begun.await.unwrap_err();
    });
    let other = runtime();
    let call = async { proxy.answer_after(10).timeout(LONG).await };
    assert_eq!(woken(|| other.block_on(call)).unwrap(), 10);
    let answered = woken(|| proxy.answer_after(20).wait_timeout(LONG));
    assert_eq!(answered.unwrap(), 20);
    assert_eq!(watching.block_on(left).unwrap(), 100);
    drop((watching, other));
    pair.end();
}

#[test]
fn call_1_a_sleeping_thread_is_told_of_its_deadline() {
    let pair = Pair::connect("deadline");
    let (begun, allowed) = (Instant::now(), Duration::from_millis(50));
    let error = pair.proxy.answer_after(500).wait_timeout(allowed);
    let error = error.unwrap_err();
    assert!(error.to_string().contains("50ms"), "{error}");
    let waited = begun.elapsed();
    assert!(
        (allowed..Duration::from_millis(450)).contains(&waited),
        "{waited:?}"
    );
    pair.end();
}

/// Nobody can watch any more for who counts on the agent's runtime.
#[test]
fn call_1_calls_end_with_the_system_that_their_agent_runs_in() {
    let pair = Pair::connect("system");
    let worker = pair.worker.alias().to_owned();
    let (give, take) = mpsc::channel();
    let system = thread::spawn(move || {
        let system = System::new();
        let driver = system.block_on(async {
            let driver = support::agent("driver-system:1".to_owned());
            let driver = driver
                .polling(Polling::default().busy_poll(Duration::ZERO))
                .start()
                .await
                .unwrap();
            let proxy = driver.proxy::<Sleeper>(&worker).await.unwrap();
            give.send((proxy, System::current())).unwrap();
            driver
        });
        system.run().unwrap();
        drop(driver);
    });
    let (proxy, running) = take.recv().unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(|| woken(|| proxy.answer_after(200).wait_timeout(LONG)));
        // It watches by itself, but not for long.
        pair.wait_for_call();
        let second = scope.spawn(|| woken(|| proxy.answer_after(60_000).wait_timeout(LONG)));
        assert_eq!(first.join().unwrap().unwrap(), 200);
        running.stop();
        let error = second.join().unwrap().unwrap_err();
        assert!(matches!(error, RpcError::PeerLost { .. }), "{error:?}");
    });
    // Nor for those that come later.
    let error = woken(|| proxy.answer_after(0).wait_timeout(LONG)).unwrap_err();
    assert!(
        matches!(error, RpcError::PeerLost { ran: Ran::No, .. }),
        "{error:?}"
    );
    system.join().unwrap();
    pair.end();
}

/// Whoever watched goes with the channel, and lets go of its queue.
#[test]
fn channels_that_are_gone_leave_no_descriptors() {
    if !is_alone(
        module_path!(),
        "channels_that_are_gone_leave_no_descriptors",
    ) {
        return;
    }
    let pair = Pair::connect("gone");
    let round = || {
        let driver = support::agent("driver-gone:1".to_owned())
            .polling(Polling::default().busy_poll(Duration::ZERO));
        let driver = pair.runtime.block_on(driver.start()).unwrap();
        let proxy = driver.proxy::<Sleeper>(pair.worker.alias());
        let proxy = &pair.runtime.block_on(proxy).unwrap();
        // Two watch, and are deaf or idle in the end.
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let other = runtime();
                    for millis in 0..3 {
                        proxy.answer_after(millis).wait_timeout(LONG).unwrap();
                        let echo = async { proxy.echo(b"x").timeout(LONG).await };
                        other.block_on(echo).unwrap();
                    }
                });
            }
            let echo = async { proxy.echo(b"x").timeout(LONG).await };
            pair.runtime.block_on(echo).unwrap();
        });
        pair.runtime.block_on(driver.shutdown()).unwrap();
    };
    round();
    let before = pair.runtime.block_on(ResourceUsage::settled());
    for _ in 0..20 {
        round();
    }
    pair.runtime.block_on(before.is_back());
    pair.end();
}

fn calls() -> u64 {
    env::var(SLEEPS).map_or(5_000, |calls| calls.parse().unwrap())
}

/// One sleeper at a time, so that nobody else wakes it: a thread, a runtime, another runtime, each
/// for a while.
#[test]
fn no_wake_up_is_lost_on_a_lone_sleeper() {
    let pair = Pair::connect("lone");
    let (proxy, runtimes) = (&pair.proxy, [runtime(), runtime()]);
    for number in 0..calls() {
        if number.is_multiple_of(1_000_000) && number > 0 {
            println!("{number} calls");
        }
        let bytes = number.to_le_bytes();
        let echo = woken(|| match number / 16 % 3 {
            0 => proxy.echo(&bytes).wait_timeout(LONG),
            other => {
                let echo = async { proxy.echo(&bytes).timeout(LONG).await };
                runtimes[other as usize - 1].block_on(echo)
            }
        });
        assert_eq!(echo.unwrap(), bytes);
    }
    drop(runtimes);
    pair.end();
}

/// Threads and runtimes share a channel, and sleep between calls as well as in them, so that who
/// watches changes all the time.
#[test]
fn no_wake_up_is_lost_on_sleepers_who_share_a_channel() {
    let pair = Pair::connect("soak");
    let (proxy, left) = (&pair.proxy, &AtomicU64::new(calls()));
    let take = || {
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        });
        let number = taken.ok()?;
        if number.is_multiple_of(1_000_000) && number > 0 {
            println!("{number} calls to go");
        }
        // A pause now and then, longer than a look at the queue takes.
        if number.is_multiple_of(7) {
            thread::sleep(Duration::from_micros(number % 50));
        }
        Some(number.to_le_bytes())
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(bytes) = take() {
                    let echo = woken(|| proxy.echo(&bytes).wait_timeout(LONG));
                    assert_eq!(echo.unwrap(), bytes);
                }
            });
            scope.spawn(|| {
                let runtime = runtime();
                while let Some(bytes) = take() {
                    let echo = async { proxy.echo(&bytes).timeout(LONG).await };
                    assert_eq!(woken(|| runtime.block_on(echo)).unwrap(), bytes);
                }
            });
        }
    });
    pair.end();
}

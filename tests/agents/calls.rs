//! Calls between agents of one process, over shared memory.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use slimerpc::channel::{LossCause, Mismatch};
use slimerpc::control::ControlError;
use slimerpc_actors::{
    AgentError, Builder, Limits, PeerAgent, Polling, Proxy, Ran, RpcError, Timeouts, service,
    wait_all,
};
use support::{Gate, PATIENCE, credits_are_back, joined, unique, until, within};

/// Shared by the tests and the handlers that they watch.
#[derive(Default, Clone)]
struct Probe {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<u64>>>,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Lab {
    probe: Probe,
    calls: u64,
}

#[service]
impl Lab {
    #[method]
    fn add(&mut self, a: i64, b: i64) -> i64 {
        self.calls += 1;
        a + b
    }

    #[method]
    fn calls(&mut self) -> u64 {
        self.calls
    }

    #[method]
    fn note(&mut self, n: u64) {
        self.probe.seen.lock().unwrap().push(n);
    }

    #[method]
    async fn slow(&mut self, millis: u64) -> u64 {
        let running = self.probe.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.probe.most.fetch_max(running, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        self.probe.running.fetch_sub(1, Ordering::SeqCst);
        millis
    }

    /// Has the thread until the gate is open, and cannot be cancelled.
    #[method]
    fn block(&mut self) {
        self.probe.running.fetch_add(1, Ordering::SeqCst);
        self.probe.gate.pass();
    }

    #[method]
    fn fails(&mut self, text: String) -> Result<u8, std::num::ParseIntError> {
        text.parse()
    }

    #[method]
    fn panics(&mut self, text: String) -> u8 {
        panic!("{text}")
    }

    #[method]
    async fn panics_later(&mut self) -> u8 {
        tokio::task::yield_now().await;
        panic!("later")
    }

    #[method]
    fn blob(&mut self, len: usize) -> Vec<u8> {
        vec![7; len]
    }

    #[method]
    fn len(&mut self, text: String) -> usize {
        text.len()
    }

    #[method(raw)]
    fn raw_echo(&mut self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }
}

fn agent(role: &str) -> Builder {
    PeerAgent::builder().local().alias(unique(role)).limits(
        Limits::default()
            .slot_size(4096)
            .max_payload(4080)
            .max_inflight(4),
    )
}

/// A worker that serves `lab`, and a driver with a proxy to it.
async fn pair(lab: Lab) -> (PeerAgent, PeerAgent, Proxy<Lab>) {
    let worker = agent("worker").start().await.unwrap();
    let _ = worker.serve(lab).await.unwrap();
    let driver = agent("driver").start().await.unwrap();
    let proxy = driver.proxy::<Lab>(worker.alias()).await.unwrap();
    (worker, driver, proxy)
}

async fn all_credits_are_back(lab: &Proxy<Lab>) {
    let call = async || drop(lab.add(0, 0).await);
    credits_are_back(PATIENCE, lab, call).await;
}

#[actix::test]
async fn a_driver_calls_an_actor() {
    let (_worker, _driver, lab) = pair(Lab::default()).await;
    assert_eq!(lab.add(1, 2).await, Ok(3));
    assert_eq!(lab.send(Add { a: 20, b: 22 }).await, Ok(42));
    assert_eq!(lab.calls().await, Ok(2));
    assert_eq!(lab.raw_echo(b"bytes").await, Ok(b"bytes".to_vec()));
    assert_eq!(lab.raw_echo(b"").await, Ok(Vec::new()));
    assert_eq!(lab.note(1).await, Ok(()));
}

#[actix::test]
async fn a_call_is_made_when_it_is_made_not_when_it_is_polled() {
    let (_worker, _driver, lab) = pair(Lab::default()).await;
    let reply = lab.add(1, 1);
    let runs = async { while lab.calls().await != Ok(1) {} };
    within("it runs", runs).await;
    assert_eq!(reply.await, Ok(2));
}

#[actix::test]
async fn order_1_calls_of_one_proxy_run_in_order_also_beyond_the_credits() {
    let probe = Probe::default();
    let (_worker, _driver, lab) = pair(Lab {
        probe: probe.clone(),
        calls: 0,
    })
    .await;
    let replies: Vec<_> = (0..1000).map(|n| lab.note(n)).collect();
    wait_all(replies, Duration::from_secs(30)).await.unwrap();
    assert_eq!(*probe.seen.lock().unwrap(), (0..1000).collect::<Vec<_>>());
    all_credits_are_back(&lab).await;
}

#[actix::test]
async fn dropping_a_waiting_call_frees_its_place() {
    let probe = Probe::default();
    let (_worker, _driver, lab) = pair(Lab {
        probe: probe.clone(),
        calls: 0,
    })
    .await;
    let blocker = lab.slow(100);
    let mut replies: Vec<_> = (0..1000).map(|n| Some(lab.note(n))).collect();
    for reply in replies.iter_mut().skip(1).step_by(2) {
        *reply = None;
    }
    wait_all(replies.into_iter().flatten(), Duration::from_secs(30))
        .await
        .unwrap();
    blocker.await.unwrap();
    let seen = probe.seen.lock().unwrap().clone();
    // The first three had been sent when they were dropped; a cancel may come too late for those.
    let waited: Vec<_> = seen.into_iter().filter(|n| *n > 3).collect();
    assert_eq!(waited, (4..1000).step_by(2).collect::<Vec<_>>());
    all_credits_are_back(&lab).await;
}

#[actix::test]
async fn serial_1_one_handler_at_a_time_across_peers_and_awaits() {
    let probe = Probe::default();
    let (worker, _driver, lab) = pair(Lab {
        probe: probe.clone(),
        calls: 0,
    })
    .await;
    let other = agent("driver").start().await.unwrap();
    let theirs = other.proxy::<Lab>(worker.alias()).await.unwrap();
    let replies: Vec<_> = (0..10)
        .flat_map(|_| [lab.slow(5), theirs.slow(5)])
        .collect();
    wait_all(replies, Duration::from_secs(10)).await.unwrap();
    assert_eq!(probe.most.load(Ordering::SeqCst), 1);
}

#[actix::test]
async fn call_1_call_2_a_timeout_ends_the_call_and_its_late_answer_harms_nothing() {
    let probe = Probe::default();
    let (_worker, _driver, lab) = pair(Lab {
        probe: probe.clone(),
        calls: 0,
    })
    .await;
    let after = Duration::from_millis(20);
    let call = lab.block();
    until("it runs", || probe.running.load(Ordering::SeqCst) == 1).await;
    assert_eq!(
        call.timeout(after).await,
        Err(RpcError::Timeout {
            peer: lab.peer().to_owned(),
            method: "block".to_owned(),
            after,
            ran: Ran::Unknown
        })
    );
    assert_eq!(
        lab.channel().unwrap().credits().orphaned,
        1,
        "SLOT-1: a timeout alone frees nothing"
    );
    probe.gate.open();
    assert_eq!(lab.add(1, 2).await, Ok(3));
    all_credits_are_back(&lab).await;
    assert_eq!(lab.channel().unwrap().late_answers(), 1);
}

#[actix::test]
async fn deadlines_of_nothing_and_of_years_are_deadlines() {
    let (_worker, _driver, lab) = pair(Lab::default()).await;
    let zero = Duration::ZERO;
    assert_eq!(
        lab.slow(50).timeout(zero).await,
        Err(RpcError::Timeout {
            peer: lab.peer().to_owned(),
            method: "slow".to_owned(),
            after: zero,
            ran: Ran::Unknown
        })
    );
    assert_eq!(lab.add(1, 2).timeout(Duration::MAX).await, Ok(3));
    assert_eq!(
        lab.slow(60)
            .timeout(Duration::from_secs(86_400 * 365 * 100))
            .await,
        Ok(60)
    );
}

#[actix::test]
async fn errors_of_handlers_arrive_with_type_and_message() {
    let (_worker, _driver, lab) = pair(Lab::default()).await;
    assert_eq!(lab.fails("12".into()).await, Ok(12));
    let error = lab.fails("x".into()).await.unwrap_err();
    let RpcError::Remote {
        type_name, message, ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(
        (&*type_name, &*message),
        ("ParseIntError", "invalid digit found in string")
    );
}

#[actix::test]
async fn panic_1_a_panic_answers_its_caller_and_the_service_goes_on() {
    let (_worker, _driver, lab) = pair(Lab::default()).await;
    let said = |error| match error {
        RpcError::Remote {
            type_name, message, ..
        } => (type_name, message),
        other => panic!("{other:?}"),
    };
    let error = lab.panics("ouch".into()).await.unwrap_err();
    assert_eq!(said(error), ("panic".to_owned(), "ouch".to_owned()));
    let error = lab.panics_later().await.unwrap_err();
    assert_eq!(said(error), ("panic".to_owned(), "later".to_owned()));
    assert_eq!(lab.add(1, 2).await, Ok(3));
    assert_eq!(
        lab.calls().await,
        Ok(1),
        "the state that was served goes on"
    );
}

#[actix::test]
async fn panic_1_a_factory_builds_a_new_instance_after_a_panic() {
    let worker = agent("worker").start().await.unwrap();
    let _ = worker.serve_with(Lab::default).await.unwrap();
    let driver = agent("driver").start().await.unwrap();
    let lab = driver.proxy::<Lab>(worker.alias()).await.unwrap();
    lab.add(1, 2).await.unwrap();
    assert_eq!(lab.calls().await, Ok(1));
    lab.panics("ouch".into()).await.unwrap_err();
    assert_eq!(lab.calls().await, Ok(0));
}

#[actix::test]
async fn what_does_not_fit_a_slot_is_refused_with_its_size() {
    let (_worker, _driver, lab) = pair(Lab::default()).await;
    let error = lab.len("x".repeat(5000)).await.unwrap_err();
    assert_eq!(
        error,
        RpcError::TooLarge {
            size: 5003,
            limit: 4080
        }
    );
    let error = lab.raw_echo(&[0; 4081]).await.unwrap_err();
    assert_eq!(
        error,
        RpcError::TooLarge {
            size: 4081,
            limit: 4080
        }
    );
    assert_eq!(lab.raw_echo(&[5; 4080]).await.unwrap().len(), 4080);
    let error = lab.blob(5000).await.unwrap_err();
    assert_eq!(
        error,
        RpcError::ReplyTooLarge {
            size: 5003,
            limit: 4080
        }
    );
    assert_eq!(lab.add(1, 2).await, Ok(3));
    all_credits_are_back(&lab).await;
}

/// Another version of `Lab`, as a caller may know it.
mod newer {
    use super::*;

    pub(super) struct Lab;

    #[service]
    impl Lab {
        /// Takes other arguments there.
        #[method]
        fn len(&mut self, numbers: Vec<u64>, more: String) -> usize {
            numbers.len() + more.len()
        }

        /// Does not exist there.
        #[method]
        fn brand_new(&mut self) -> u8 {
            0
        }

        /// Stands at another place in the table there.
        #[method]
        fn slow(&mut self, millis: u64) -> u64 {
            millis
        }

        /// Takes nothing there.
        #[method]
        fn calls(&mut self, extra: u32) -> u64 {
            extra.into()
        }
    }
}

#[actix::test]
async fn two_versions_of_a_service_meet() {
    let (worker, driver, lab) = pair(Lab::default()).await;
    let newer = driver.proxy::<newer::Lab>(worker.alias()).await.unwrap();
    assert_eq!(
        newer.slow(1).await,
        Ok(1),
        "a method is found by name, not by place"
    );
    let error = newer.brand_new().await.unwrap_err();
    let RpcError::MethodNotFound { service, method } = error else {
        panic!("{error:?}")
    };
    assert_eq!((&*service, &*method), ("Lab", "brand_new"));
    for error in [
        newer.len(vec![1, 2], String::new()).await.unwrap_err(),
        newer.calls(5).await.unwrap_err(),
    ] {
        assert!(
            matches!(error, RpcError::MethodMismatch { .. }),
            "{error:?}"
        );
        assert_eq!(error.ran(), Ran::No);
    }
    assert_eq!(lab.calls().await, Ok(0), "nothing was run");
}

#[actix::test]
async fn agents_that_do_not_fit_together_refuse_each_other_by_value() {
    let (worker, _driver, _lab) = pair(Lab::default()).await;
    let driver = agent("driver").limits(Limits::default().slot_size(8192).max_payload(8176));
    let driver = driver.start().await.unwrap();
    let error = driver.proxy::<Lab>(worker.alias()).await.unwrap_err();
    let AgentError::Refused {
        mismatch: Mismatch::Geometry { .. },
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    let text = error.to_string();
    assert!(text.contains("8192") && text.contains("4096"), "{text}");
}

struct Absent;

#[service]
impl Absent {
    #[method]
    fn nothing(&mut self) {}
}

#[actix::test]
async fn what_is_not_there_is_named_within_the_connect_timeout() {
    let limit = Duration::from_millis(200);
    let (worker, _driver, _lab) = pair(Lab::default()).await;
    let driver = agent("driver")
        .timeouts(Timeouts::default().connect_timeout(limit))
        .start()
        .await
        .unwrap();
    let started = Instant::now();
    let error = driver.proxy::<Lab>("nobody:7").await.unwrap_err();
    assert!(
        matches!(&error, AgentError::PeerUnknown { peer, .. } if peer == "nobody:7"),
        "{error}"
    );
    let error = driver.connect_to("nobody:7").await.unwrap_err();
    assert!(matches!(&error, AgentError::PeerUnknown { .. }), "{error}");
    let error = driver.proxy::<Absent>(worker.alias()).await.unwrap_err();
    assert!(
        error.to_string().contains("Absent") && error.to_string().contains("Lab"),
        "{error}"
    );
    // By itself it would be 10 s, three times.
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[actix::test]
async fn an_alias_belongs_to_one_agent() {
    let alias = unique("taken");
    let first = PeerAgent::builder()
        .local()
        .alias(&alias)
        .start()
        .await
        .unwrap();
    let error = PeerAgent::builder()
        .local()
        .alias(&alias)
        .start()
        .await
        .unwrap_err();
    let AgentError::Control(ControlError::AliasTaken { alias: taken, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(taken, alias);
    first.shutdown().await.unwrap();
    let second = PeerAgent::builder()
        .local()
        .alias(&alias)
        .start()
        .await
        .unwrap();
    second.shutdown().await.unwrap();
}

#[actix::test]
async fn a_name_is_served_once_and_again_after_it_was_stopped() {
    let worker = agent("worker").start().await.unwrap();
    let first = worker.serve(Lab::default()).await.unwrap();
    let error = worker.serve(Lab::default()).await.unwrap_err();
    assert!(
        matches!(&error, AgentError::AlreadyServed { service } if service == "Lab"),
        "{error}"
    );
    let driver = agent("driver").start().await.unwrap();
    let lab = driver.proxy::<Lab>(worker.alias()).await.unwrap();
    first.stop().await.unwrap();
    let error = lab
        .add(1, 2)
        .timeout(Duration::from_secs(5))
        .await
        .unwrap_err();
    assert!(matches!(error, RpcError::PeerLost { .. }), "{error:?}");
    let _ = worker.serve(Lab::default()).await.unwrap();
    let lab = driver.proxy::<Lab>(worker.alias()).await.unwrap();
    assert_eq!(lab.add(1, 2).await, Ok(3));
}

#[actix::test]
async fn one_type_is_served_several_times_under_names() {
    let worker = agent("worker").start().await.unwrap();
    for name in ["left", "right"] {
        let handle = worker.serve(Lab::default()).named(name).await.unwrap();
        assert_eq!(handle.name(), name);
    }
    let error = worker.serve(Lab::default()).named("left").await;
    assert!(matches!(error, Err(AgentError::AlreadyServed { service }) if service == "left"));
    let error = worker.serve(Lab::default()).named("").await;
    assert!(matches!(error, Err(AgentError::Setting { .. })));
    let driver = agent("driver").start().await.unwrap();
    let left: Proxy<Lab> = driver.proxy_named(worker.alias(), "left").await.unwrap();
    let right: Proxy<Lab> = driver.proxy_named(worker.alias(), "right").await.unwrap();
    left.add(1, 1).await.unwrap();
    assert_eq!((left.calls().await, right.calls().await), (Ok(1), Ok(0)));
}

#[actix::test]
async fn a_service_for_one_peer_refuses_others() {
    let worker = agent("worker").start().await.unwrap();
    let (mine, other) = (
        agent("driver").start().await.unwrap(),
        agent("driver").start().await.unwrap(),
    );
    // Which peer is the only one is not known before one was asked for, nor when there are two.
    for (peer, count) in [(None, 0), (Some(&mine), 1), (Some(&other), 2)] {
        if let Some(peer) = peer {
            worker.connect_to(peer.alias()).await.unwrap();
        }
        let served = worker.serve(Lab::default()).only_peer().await;
        match served {
            Ok(_) => assert_eq!(count, 1),
            Err(AgentError::WhichPeer { peers }) => assert_eq!(peers.len(), count),
            Err(error) => panic!("{error}"),
        }
    }
    let lab = mine.proxy::<Lab>(worker.alias()).await.unwrap();
    assert_eq!(lab.add(1, 2).await, Ok(3));
    let error = other.proxy::<Lab>(worker.alias()).await.unwrap_err();
    assert!(
        matches!(&error, AgentError::Refused { mismatch: Mismatch::NotServed { service, peer }, .. }
            if service == "Lab" && peer == other.alias()),
        "{error}"
    );
    let by_name = worker
        .serve(Lab::default())
        .named("other")
        .peer(other.alias());
    by_name.await.unwrap();
    let lab: Proxy<Lab> = other.proxy_named(worker.alias(), "other").await.unwrap();
    assert_eq!(lab.add(1, 2).await, Ok(3));
}

#[actix::test]
async fn call_1_calls_end_when_the_peer_leaves() {
    let (worker, driver, lab) = pair(Lab::default()).await;
    let pending = [lab.slow(10_000), lab.slow(10_000)];
    let lined_up: Vec<_> = (0..20).map(|_| lab.add(1, 1)).collect();
    worker.shutdown().await.unwrap();
    for reply in pending {
        let error = reply.timeout(Duration::from_secs(5)).await.unwrap_err();
        assert!(
            matches!(&error, RpcError::PeerLost { peer, .. } if peer == worker.alias()),
            "{error:?}"
        );
    }
    for reply in lined_up {
        assert!(matches!(reply.await, Err(RpcError::PeerLost { .. })));
    }
    assert!(matches!(
        lab.add(1, 1).await,
        Err(RpcError::PeerLost { .. })
    ));
    driver.shutdown().await.unwrap();
    assert!(matches!(
        driver.proxy::<Lab>("x").await,
        Err(AgentError::ShutDown)
    ));
}

#[actix::test]
async fn call_1_calls_end_when_we_leave() {
    let (_worker, driver, lab) = pair(Lab::default()).await;
    let pending = lab.slow(10_000);
    driver.shutdown().await.unwrap();
    driver.shutdown().await.unwrap();
    let error = pending.await.unwrap_err();
    assert!(
        matches!(
            error,
            RpcError::PeerLost {
                cause: LossCause::ShutDown,
                ..
            }
        ),
        "{error:?}"
    );
}

#[actix::test]
async fn waiting_on_a_runtime_thread_is_an_error_instead_of_a_deadlock() {
    let (worker, _driver, lab) = pair(Lab::default()).await;
    let here = worker.proxy::<Lab>(worker.alias()).await.unwrap();
    for lab in [&lab, &here] {
        let refused = lab.add(1, 2).wait().unwrap_err();
        assert!(matches!(refused, RpcError::WouldBlock { .. }));
        assert_eq!(refused.ran(), Ran::Unknown, "its request was sent");
    }
    assert_eq!(lab.add(1, 2).await, Ok(3));
}

#[actix::test]
async fn a_wait_that_is_refused_takes_back_a_call_that_waits_for_a_credit() {
    let probe = Probe::default();
    let (_worker, _driver, lab) = pair(Lab {
        probe: probe.clone(),
        ..Lab::default()
    })
    .await;
    let all_credits: Vec<_> = (0..4).map(|_| lab.slow(10_000)).collect();
    let refused = lab.note(7).wait();
    assert_eq!(refused, Err(RpcError::WouldBlock { ran: Ran::No }));
    drop(all_credits);
    all_credits_are_back(&lab).await;
    assert!(probe.seen.lock().unwrap().is_empty());
}

#[actix::test]
async fn a_wait_that_is_refused_cancels_a_call_that_has_been_sent_but_has_not_begun() {
    let probe = Probe::default();
    let (worker, _driver, lab) = pair(Lab {
        probe: probe.clone(),
        ..Lab::default()
    })
    .await;
    let here = worker.proxy::<Lab>(worker.alias()).await.unwrap();
    for lab in [lab, here] {
        probe.running.store(0, Ordering::SeqCst);
        let busy = lab.slow(60_000);
        let has_begun = || probe.running.load(Ordering::SeqCst) > 0;
        until("a handler begins", has_begun).await;
        let refused = lab.note(7).wait();
        assert!(matches!(refused, Err(RpcError::WouldBlock { .. })));
        drop(busy);
        assert_eq!(lab.add(1, 2).await, Ok(3));
        assert!(probe.seen.lock().unwrap().is_empty());
    }
}

#[actix::test]
async fn a_proxy_for_threads_that_wait_sends_nothing_where_nobody_may_wait() {
    let probe = Probe::default();
    let (worker, _driver, lab) = pair(Lab {
        probe: probe.clone(),
        ..Lab::default()
    })
    .await;
    let here = worker.proxy::<Lab>(worker.alias()).await.unwrap();
    for lab in [lab, here] {
        let calls = lab.calls().await.unwrap();
        let waiting = lab.blocking();
        let limited = waiting.with_timeout(Duration::from_secs(60)).clone();
        let refused = RpcError::WouldBlock { ran: Ran::No };
        assert_eq!(waiting.note(7).wait(), Err(refused.clone()));
        assert_eq!(limited.note(7).wait(), Err(refused.clone()));
        assert_eq!(limited.send(Add { a: 1, b: 2 }).await, Err(refused.clone()));
        assert_eq!(waiting.raw_echo(b"x").wait(), Err(refused.clone()));
        assert_eq!(
            waiting.try_send(Add { a: 1, b: 2 }).unwrap_err().error,
            refused
        );
        let value = tokio::task::spawn_blocking(move || waiting.add(1, 2).wait());
        assert_eq!(value.await.unwrap(), Ok(3));
        assert_eq!(lab.calls().await, Ok(calls + 1), "nothing else was run");
    }
    assert!(probe.seen.lock().unwrap().is_empty());
}

#[actix::test]
async fn threads_that_a_runtime_keeps_for_what_blocks_wait_for_their_replies() {
    let (worker, _driver, lab) = pair(Lab::default()).await;
    let here = worker.proxy::<Lab>(worker.alias()).await.unwrap();
    for lab in [lab, here] {
        let add = |lab: &Proxy<Lab>| {
            let lab = lab.clone();
            move || (lab.add(1, 2).wait(), lab.slow(20).wait())
        };
        let sums = (Ok(3), Ok(20));
        let blocking = tokio::task::spawn_blocking(add(&lab));
        assert_eq!(blocking.await.unwrap(), sums);
        assert_eq!(actix_web::web::block(add(&lab)).await.unwrap(), sums);
        let (handle, entered) = (tokio::runtime::Handle::current(), add(&lab));
        let entered = std::thread::spawn(move || {
            let _entered = handle.enter();
            entered()
        });
        assert_eq!(joined(entered).await, sums);
    }
}

#[test]
fn a_worker_that_has_left_its_runtime_waits_for_its_replies() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_agents, lab) = runtime.block_on(async {
        let (worker, driver, lab) = pair(Lab::default()).await;
        let task = tokio::spawn({
            let lab = lab.clone();
            async move { tokio::task::block_in_place(|| lab.slow(20).wait()) }
        });
        assert_eq!(task.await.unwrap(), Ok(20));
        let task = tokio::spawn({
            let lab = lab.clone();
            async move { lab.slow(20).wait() }
        });
        let refused = task.await.unwrap().unwrap_err();
        assert!(matches!(refused, RpcError::WouldBlock { .. }));
        ((worker, driver), lab)
    });
    let _entered = runtime.enter();
    assert_eq!(lab.slow(20).wait(), Ok(20));
}

#[actix::test]
async fn a_call_may_be_given_time_without_end() {
    let (worker, _driver, lab) = pair(Lab::default()).await;
    let here = worker.proxy::<Lab>(worker.alias()).await.unwrap();
    for never in [
        Duration::MAX,
        Duration::MAX - Duration::from_nanos(1),
        Duration::from_secs(u64::MAX / 2),
        Duration::from_secs(u64::MAX / 4),
        Duration::from_millis(u64::MAX),
    ] {
        for lab in [&lab, &here] {
            assert_eq!(lab.slow(1).timeout(never).await, Ok(1));
            assert_eq!(lab.with_timeout(never).slow(1).await, Ok(1));
            assert_eq!(wait_all([lab.slow(1)], never).await, Ok(vec![1]));
            let lab = lab.clone();
            let waited = tokio::task::spawn_blocking(move || lab.slow(1).wait_timeout(never));
            assert_eq!(waited.await.unwrap(), Ok(1));
        }
        let connect = agent("other").start().await.unwrap();
        let connected = connect.connect_to(worker.alias()).timeout(never).await;
        connected.unwrap();
        let name = unique("short");
        let handle = worker.serve(Lab::default()).named(&name).await.unwrap();
        handle.stop_within(never).await.unwrap();
        connect.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn threads_without_a_runtime_wait_for_their_replies() {
    let (_worker, _driver, lab) = pair(Lab::default()).await;
    let threads: Vec<_> = (0..4_i64)
        .map(|n| {
            let lab = lab.clone();
            std::thread::spawn(move || {
                for i in 0..200 {
                    assert_eq!(lab.add(n, i).wait(), Ok(n + i));
                }
                assert_eq!(lab.slow(2).wait_timeout(Duration::from_secs(10)), Ok(2));
                let after = Duration::from_millis(1);
                assert_eq!(
                    lab.slow(50).wait_timeout(after),
                    Err(RpcError::Timeout {
                        peer: lab.peer().to_owned(),
                        method: "slow".to_owned(),
                        after,
                        ran: Ran::Unknown
                    })
                );
            })
        })
        .collect();
    for thread in threads {
        tokio::task::spawn_blocking(|| thread.join().unwrap())
            .await
            .unwrap();
    }
    all_credits_are_back(&lab).await;
}

#[test]
fn agents_live_outside_of_actix_systems_too() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (_worker, _driver, lab) = pair(Lab::default()).await;
        let tasks: Vec<_> = (0..8_i64)
            .map(|n| {
                let lab = lab.clone();
                tokio::spawn(async move { lab.add(n, n).await })
            })
            .collect();
        for (n, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), Ok(2 * n as i64));
        }
    });
}

/// State that cannot leave its thread.
struct Homebody(std::rc::Rc<u8>);

/// A trait that a caller can know without the implementation.
#[service]
trait Greeter {
    #[method]
    async fn greet(&mut self, name: String) -> String;
}

impl Greeter for Homebody {
    async fn greet(&mut self, name: String) -> String {
        tokio::task::yield_now().await;
        format!("hello {name}, {}", self.0)
    }
}

#[actix::test]
async fn a_trait_is_served_by_state_that_need_not_be_send() {
    let worker = agent("worker").start().await.unwrap();
    let built = worker
        .serve_with(|| Homebody(std::rc::Rc::new(9)))
        .as_service::<dyn Greeter>()
        .await;
    let _ = built.unwrap();
    let driver = agent("driver").start().await.unwrap();
    let greeter = driver.proxy::<dyn Greeter>(worker.alias()).await.unwrap();
    assert_eq!(greeter.greet("you".into()).await.unwrap(), "hello you, 9");
}

#[actix::test]
async fn a_factory_that_panics_is_an_error_of_serve() {
    let worker = agent("worker").start().await.unwrap();
    let error = worker
        .serve_with(|| -> Lab { panic!("no lab today") })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no lab today"), "{error}");
    let _ = worker.serve(Lab::default()).await.unwrap();
}

#[actix::test]
async fn settings_out_of_range_are_refused_at_start() {
    for builder in [
        agent("x").limits(Limits::default().slot_size(0)),
        agent("x").limits(Limits::default().slot_size(100)),
        agent("x").limits(Limits::default().slot_size(usize::MAX)),
        agent("x").limits(Limits::default().max_inflight(0)),
        agent("x").limits(Limits::default().max_inflight(65_537)),
        agent("x").limits(Limits::default().max_payload(4079)),
        agent("x").limits(Limits::default().max_payload(5000).payload_memory(0)),
        agent("x").limits(Limits::default().workers(0)),
        agent("x").timeouts(Timeouts::default().connect_timeout(Duration::ZERO)),
        agent("x").timeouts(Timeouts::default().call_timeout(Duration::ZERO)),
        agent("x").timeouts(Timeouts::default().stream_patience(Duration::ZERO)),
        agent("x").polling(Polling::default().busy_poll(Duration::from_secs(11))),
    ] {
        let error = builder.start().await.unwrap_err();
        assert!(matches!(error, AgentError::Setting { .. }), "{error}");
    }
    let error = agent("x").device("mlx5_99").start().await.unwrap_err();
    assert!(error.to_string().contains("mlx5_99"), "{error}");
    let driver = agent("driver").start().await.unwrap();
    let error = driver.connect_to("x").qp_num(0).await.unwrap_err();
    assert!(error.to_string().contains("qp_num"), "{error}");
}

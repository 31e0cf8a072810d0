//! What becomes of service instances that end, over shared memory.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use slimerpc::channel::Mismatch;
use slimerpc_actors::{
    AgentError, AgentEvent, Backoff, Builder, EndCause, Events, Lifecycle, Limits, PeerAgent,
    Proxy, Ran, Restart, RpcError, Share, Start, Strategy, restart, retire, service,
};
use support::{Tally, credits_are_back, unique, until};
use tokio::time::{sleep, timeout};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);
/// More than the rounding of a clock.
const A_WHILE: Duration = Duration::from_millis(30);

/// What all instances of a service write on.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    built: AtomicU32,
    running: AtomicUsize,
    /// Handlers of `rest` and `block` that have begun.
    begun: Tally,
    /// How many handlers ran at once, at most.
    most: AtomicUsize,
    run: Mutex<BTreeMap<u64, u32>>,
}

impl Log {
    fn note(&self, line: impl Into<String>) {
        self.lines.lock().unwrap().push(line.into());
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Numbers the instances from 0.
    fn build(self: &Arc<Self>) -> Unit {
        self.unit("", self.built.fetch_add(1, Ordering::SeqCst))
    }

    fn unit(self: &Arc<Self>, name: &'static str, generation: u32) -> Unit {
        Unit {
            log: self.clone(),
            name,
            generation: Arc::new(generation),
            calls: 0,
        }
    }
}

struct Unit {
    log: Arc<Log>,
    name: &'static str,
    generation: Arc<u32>,
    calls: u64,
}

impl Share for Unit {
    type Shared = u32;

    fn share(&self) -> Arc<u32> {
        self.generation.clone()
    }
}

impl Lifecycle for Unit {
    fn started(&mut self) {
        self.log
            .note(format!("started {}{}", self.name, self.generation));
    }

    fn restarting(&mut self, cause: &EndCause) {
        self.log.note(format!(
            "restarting {}{}: {cause}",
            self.name, self.generation
        ));
    }

    fn stopped(&mut self) {
        self.log
            .note(format!("stopped {}{}", self.name, self.generation));
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.log
            .note(format!("dropped {}{}", self.name, self.generation));
    }
}

#[service]
impl Unit {
    /// Which instance this is.
    #[method]
    fn generation(&mut self) -> u32 {
        *self.generation
    }

    /// How many calls of this method the instance has had.
    #[method]
    fn count(&mut self, n: u64) -> u64 {
        *self.log.run.lock().unwrap().entry(n).or_default() += 1;
        self.calls += 1;
        self.calls
    }

    #[method]
    fn breaks(&mut self, why: String) {
        panic!("{why}");
    }

    #[method]
    async fn breaks_later(&mut self, millis: u64) {
        sleep(Duration::from_millis(millis)).await;
        panic!("later");
    }

    #[method]
    async fn rest(&mut self, millis: u64) -> u64 {
        self.log.begun.up();
        sleep(Duration::from_millis(millis)).await;
        millis
    }

    /// Has the arbiter for so long.
    #[method]
    fn block(&mut self, millis: u64) -> u64 {
        self.log.begun.up();
        std::thread::sleep(Duration::from_millis(millis));
        millis
    }

    #[method]
    async fn wants_another(&mut self) -> bool {
        let is_heard = restart("stale");
        tokio::task::yield_now().await;
        is_heard
    }

    #[method]
    fn is_done(&mut self) -> bool {
        retire("nothing is left")
    }

    /// Panics on every tenth.
    #[method]
    async fn tenth(&mut self, n: u64, waits: bool) -> u64 {
        let running = self.log.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.log.most.fetch_max(running, Ordering::SeqCst);
        *self.log.run.lock().unwrap().entry(n).or_default() += 1;
        if waits {
            tokio::task::yield_now().await;
        }
        self.log.running.fetch_sub(1, Ordering::SeqCst);
        assert!(n % 10 != 9, "the tenth");
        n
    }

    /// Says the bytes that it was given after some time.
    #[method(raw)]
    async fn echo(&mut self, request: &[u8]) -> Vec<u8> {
        tokio::task::yield_now().await;
        request.to_vec()
    }

    #[method(parallel)]
    fn health(generation: &u32) -> u32 {
        *generation
    }

    #[method(parallel)]
    fn unhealthy(_generation: &u32) {
        panic!("unwell");
    }
}

fn agent(role: &str) -> Builder {
    PeerAgent::builder()
        .alias(unique(role))
        .limits(Limits::default().slot_size(4096).max_inflight(8))
}

/// Waits the same time before each restart.
fn after(wait: Duration) -> Restart {
    let backoff = Backoff {
        first: wait,
        factor: 1.0,
        longest: wait,
        jitter: 0.0,
    };
    Restart::permanent().backoff(backoff)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A worker with a unit that is restarted so, and a driver.
struct Plant {
    log: Arc<Log>,
    unit: Proxy<Unit>,
    events: Events,
    worker: PeerAgent,
    driver: PeerAgent,
}

async fn plant(restart: Restart) -> Plant {
    let log = Arc::new(Log::default());
    let making = log.clone();
    let worker = agent("worker").start().await.unwrap();
    let serve = worker.serve_with(move || making.build());
    serve.restart(restart).hooks().await.unwrap();
    meet(log, worker).await
}

async fn meet(log: Arc<Log>, worker: PeerAgent) -> Plant {
    let driver = agent("driver").start().await.unwrap();
    Plant {
        log,
        unit: driver.proxy(worker.alias()).await.unwrap(),
        events: worker.events(),
        worker,
        driver,
    }
}

impl Plant {
    async fn event(&mut self) -> AgentEvent {
        let event = timeout(LONG, self.events.next()).await.unwrap();
        event.unwrap()
    }

    async fn breaks(&self) {
        let error = self.unit.breaks("ouch".to_owned()).await.unwrap_err();
        assert_eq!(error.to_string(), "panic: ouch");
    }

    /// SLOT-2
    async fn credits_are_back(&self) {
        credits_are_back(LONG, &self.unit, async || {}).await;
    }
}

fn is_down(error: &RpcError) -> bool {
    matches!(error, RpcError::ServiceDown { service } if service == "Unit")
}

fn ouch() -> EndCause {
    let message = "ouch".to_owned();
    EndCause::Panicked { message }
}

#[actix::test]
async fn panic_1_a_panic_is_told_with_its_place_and_the_instance_is_made_anew() {
    let mut plant = plant(after(millis(1))).await;
    let error = plant.unit.breaks("ouch".to_owned()).await.unwrap_err();
    let RpcError::Remote {
        type_name,
        message,
        traceback,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((&*type_name, &*message), ("panic", "ouch"));
    assert!(traceback.contains("supervision.rs:"), "{traceback}");
    assert_eq!(plant.unit.generation().await, Ok(1));
    let restarted = AgentEvent::Restarted {
        service: "Unit".to_owned(),
        cause: ouch(),
        restarts: 1,
    };
    assert_eq!(plant.event().await, restarted);
    // One that panics where it awaits.
    assert!(plant.unit.breaks_later(1).await.is_err());
    assert_eq!(plant.unit.generation().await, Ok(2));
    plant.credits_are_back().await;
}

#[actix::test]
async fn ring_1_slot_2_waiting_requests_survive_a_restart_and_the_running_one_is_not_run_again() {
    let plant = plant(after(millis(100))).await;
    let breaks = plant.unit.breaks_later(30);
    let counts: Vec<_> = (0..5).map(|n| plant.unit.count(n)).collect();
    let bytes: Vec<u8> = (0..200).collect();
    let echo = plant.unit.echo(&bytes);
    assert!(breaks.await.is_err());
    for (at, count) in counts.into_iter().enumerate() {
        assert_eq!(count.await, Ok(at as u64 + 1), "in order, by the new one");
    }
    assert_eq!(echo.await.unwrap(), bytes);
    assert_eq!(plant.unit.generation().await, Ok(1));
    assert!(
        plant
            .log
            .run
            .lock()
            .unwrap()
            .values()
            .all(|runs| *runs == 1)
    );
    plant.credits_are_back().await;
}

#[actix::test]
async fn deadlines_and_cancels_hold_while_a_restart_waits() {
    let plant = plant(after(millis(3_000))).await;
    plant.breaks().await;
    let hasty = plant.unit.with_timeout(millis(50)).count(1);
    // Its deadline travelled, so that it is not run though no cancel comes.
    std::mem::forget(plant.unit.with_timeout(millis(50)).count(2));
    let cancelled = plant.unit.count(3);
    let patient = plant.unit.count(4);
    drop(cancelled);
    assert!(matches!(hasty.await, Err(RpcError::Timeout { .. })));
    assert_eq!(plant.log.built.load(Ordering::SeqCst), 1, "it waits still");
    assert_eq!(
        patient.await,
        Ok(1),
        "it is the first that the new instance runs"
    );
    let run: Vec<u64> = plant.log.run.lock().unwrap().keys().copied().collect();
    assert_eq!(run, [4]);
}

#[actix::test]
async fn a_request_that_waits_alone_for_a_restart_is_not_run_once_it_has_expired() {
    let plant = plant(after(millis(2_000))).await;
    plant.breaks().await;
    // No cancel comes, and nothing arrives behind it before it has expired.
    std::mem::forget(plant.unit.with_timeout(millis(50)).count(1));
    sleep(millis(500)).await;
    assert_eq!(plant.unit.count(2).await, Ok(1));
    let run: Vec<u64> = plant.log.run.lock().unwrap().keys().copied().collect();
    assert_eq!(run, [2]);
}

#[actix::test]
async fn restarts_wait_longer_each_time() {
    let backoff = Backoff {
        first: millis(40),
        factor: 3.0,
        longest: millis(150),
        jitter: 0.0,
    };
    let plant = plant(Restart::permanent().backoff(backoff)).await;
    for (restart, wait) in [(1, 40), (2, 120), (3, 150)] {
        let started = Instant::now();
        plant.breaks().await;
        assert_eq!(plant.unit.generation().await, Ok(restart));
        let waited = started.elapsed();
        assert!(waited >= millis(wait), "{waited:?} of {wait} ms");
    }
}

#[actix::test]
async fn no_restart_waits_longer_than_the_longest() {
    let backoff = Backoff {
        first: millis(1),
        factor: 1e6,
        longest: millis(5),
        jitter: 0.0,
    };
    let plant = plant(Restart::permanent().backoff(backoff)).await;
    for restart in 1..=3 {
        plant.breaks().await;
        let generation = timeout(LONG, plant.unit.generation()).await;
        assert_eq!(generation.expect("not in 1,000 s"), Ok(restart));
    }
}

#[actix::test]
async fn call_1_slot_2_beyond_its_limit_a_service_is_down_for_all_who_wait_and_who_come() {
    let mut plant = plant(after(millis(50)).limit(2, LONG)).await;
    plant.breaks().await;
    plant.breaks().await;
    let breaks = plant.unit.breaks_later(30);
    let waiting: Vec<_> = (0..5).map(|n| plant.unit.count(n)).collect();
    assert!(breaks.await.is_err());
    for call in waiting {
        assert!(is_down(&call.await.unwrap_err()));
    }
    let started = Instant::now();
    for _ in 0..20 {
        let error = plant.unit.count(9).await.unwrap_err();
        assert!(is_down(&error), "{error}");
        assert_eq!(error.ran(), Ran::Unknown);
        assert!(is_down(&plant.unit.health().await.unwrap_err()));
    }
    assert!(started.elapsed() < LONG, "at once");
    assert!(plant.log.run.lock().unwrap().is_empty());
    assert_eq!(plant.log.lines().last().unwrap(), "dropped 2");
    assert!(plant.log.lines().contains(&"stopped 2".to_owned()));
    plant.credits_are_back().await;
    for restarts in [1, 2] {
        let event = plant.event().await;
        assert!(matches!(event, AgentEvent::Restarted { restarts: n, .. } if n == restarts));
    }
    let message = "later".to_owned();
    let given_up = AgentEvent::GivenUp {
        service: "Unit".to_owned(),
        cause: EndCause::Panicked { message },
    };
    assert_eq!(plant.event().await, given_up);
}

#[actix::test]
async fn new_proxies_are_told_that_a_service_is_down_until_it_is_served_anew() {
    let worker = agent("worker").start().await.unwrap();
    let log = Arc::new(Log::default());
    let making = log.clone();
    let serve = worker.serve_with(move || making.build());
    let handle = serve.restart(Restart::temporary()).await.unwrap();
    let mut plant = meet(log, worker).await;
    plant.breaks().await;
    assert!(matches!(plant.event().await, AgentEvent::GivenUp { .. }));
    for agent in [&plant.driver, &plant.worker] {
        let refused = agent.proxy::<Unit>(plant.worker.alias()).await;
        let Err(AgentError::Refused { mismatch, .. }) = refused else {
            panic!("{refused:?}");
        };
        let service = "Unit".to_owned();
        assert_eq!(mismatch, Mismatch::ServiceDown { service });
    }
    // It is still listed under its name.
    let making = plant.log.clone();
    let taken = plant.worker.serve_with(move || making.build()).await;
    assert!(matches!(taken, Err(AgentError::AlreadyServed { .. })));
    handle.stop().await.unwrap();
    let making = plant.log.clone();
    plant
        .worker
        .serve_with(move || making.build())
        .await
        .unwrap();
    let unit = plant
        .driver
        .proxy::<Unit>(plant.worker.alias())
        .await
        .unwrap();
    assert_eq!(unit.count(1).await, Ok(1));
}

#[actix::test]
async fn the_window_of_the_limit_slides() {
    let window = millis(300);
    let plant = plant(after(millis(1)).limit(2, window)).await;
    for round in 1..=3 {
        plant.breaks().await;
        plant.breaks().await;
        assert_eq!(plant.unit.generation().await, Ok(round * 2));
        sleep(window + A_WHILE).await;
    }
    // It is down with the third within the window, however long they take here.
    let mut broken = Vec::new();
    while plant.unit.generation().await.is_ok() {
        let of_three = broken.iter().rev().nth(2).map(Instant::elapsed);
        assert!(of_three.is_none_or(|time| time >= window), "{of_three:?}");
        broken.push(Instant::now());
        plant.breaks().await;
    }
    assert!(broken.len() >= 3, "of two before nothing is left");
    assert!(is_down(&plant.unit.generation().await.unwrap_err()));
}

#[actix::test]
async fn a_factory_that_fails_at_a_restart_is_tried_again_up_to_the_limit() {
    let worker = agent("worker").start().await.unwrap();
    let log = Arc::new(Log::default());
    let making = log.clone();
    let factory = move |start: &mut Start<Unit>| match start.restarts() {
        1 => panic!("no parts"),
        2 => Err(format!("still none after: {}", start.cause().unwrap())),
        n if n > 3 => Err("never again".to_owned()),
        _ => Ok(making.build()),
    };
    let restart = after(millis(20)).limit(5, LONG);
    worker.serve_from(factory).restart(restart).await.unwrap();
    let mut plant = meet(log, worker).await;
    let started = Instant::now();
    plant.breaks().await;
    assert_eq!(plant.unit.generation().await, Ok(1));
    assert!(started.elapsed() >= millis(50), "three starts have waited");
    let said = "still none after: it could not be started: no parts".to_owned();
    let restarted = AgentEvent::Restarted {
        service: "Unit".to_owned(),
        cause: EndCause::NotStarted { message: said },
        restarts: 3,
    };
    assert_eq!(plant.event().await, restarted);
    plant.breaks().await;
    assert!(is_down(&plant.unit.generation().await.unwrap_err()));
    let message = "never again".to_owned();
    let given_up = AgentEvent::GivenUp {
        service: "Unit".to_owned(),
        cause: EndCause::NotStarted { message },
    };
    assert_eq!(plant.event().await, given_up);
}

#[actix::test]
async fn a_first_start_that_fails_is_an_error_of_serving() {
    struct Unwell;
    #[service]
    impl Unwell {
        #[method]
        fn nothing(&mut self) {}
    }
    impl Lifecycle for Unwell {
        fn started(&mut self) {
            panic!("not today");
        }
    }
    let worker = agent("worker").start().await.unwrap();
    let failed = worker.serve_from(|_| Err::<Unwell, _>("no parts")).await;
    let Err(AgentError::FactoryFailed { service, message }) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!((&*service, &*message), ("Unwell", "no parts"));
    for failed in [
        worker.serve_with(|| Unwell).hooks().await,
        worker.serve(Unwell).hooks().await,
    ] {
        let Err(AgentError::FactoryPanicked { message, .. }) = failed else {
            panic!("{failed:?}");
        };
        assert_eq!(message, "not today");
    }
    worker.serve(Unwell).await.unwrap();
}

#[actix::test]
async fn a_handler_may_ask_for_a_restart_and_its_caller_has_its_answer() {
    let mut plant = plant(Restart::transient()).await;
    assert_eq!(plant.unit.wants_another().await, Ok(true));
    assert_eq!(plant.unit.generation().await, Ok(1));
    let why = "stale".to_owned();
    let restarted = AgentEvent::Restarted {
        service: "Unit".to_owned(),
        cause: EndCause::Asked { why },
        restarts: 1,
    };
    assert_eq!(plant.event().await, restarted);
    assert!(!restart("nobody listens here"));
}

#[actix::test]
async fn a_transient_service_that_retires_is_over_and_a_permanent_one_begins_anew() {
    let permanent = plant(after(millis(1))).await;
    assert_eq!(permanent.unit.is_done().await, Ok(true));
    assert_eq!(permanent.unit.generation().await, Ok(1));
    let mut transient = plant(Restart::transient()).await;
    assert_eq!(transient.unit.is_done().await, Ok(true));
    assert!(is_down(&transient.unit.generation().await.unwrap_err()));
    let why = "nothing is left".to_owned();
    let given_up = AgentEvent::GivenUp {
        service: "Unit".to_owned(),
        cause: EndCause::Retired { why },
    };
    assert_eq!(transient.event().await, given_up);
}

#[actix::test]
async fn what_is_served_by_value_keeps_its_state_unless_it_is_temporary() {
    let worker = agent("worker").start().await.unwrap();
    let log = Arc::new(Log::default());
    worker.serve(log.build()).await.unwrap();
    let plant = meet(log, worker).await;
    plant.unit.count(1).await.unwrap();
    plant.breaks().await;
    plant.unit.wants_another().await.unwrap();
    assert_eq!(plant.unit.count(2).await, Ok(2));

    let worker = agent("worker").start().await.unwrap();
    let log = Arc::new(Log::default());
    let serve = worker.serve(log.build());
    serve.restart(Restart::temporary()).await.unwrap();
    let plant = meet(log, worker).await;
    plant.breaks().await;
    assert!(is_down(&plant.unit.count(2).await.unwrap_err()));
}

#[actix::test]
async fn parallel_methods_are_answered_while_a_restart_waits_and_their_panics_are_no_end() {
    let plant = plant(after(millis(4_000))).await;
    assert!(plant.unit.unhealthy().await.is_err());
    plant.breaks().await;
    let next = plant.unit.generation();
    for _ in 0..10 {
        assert_eq!(plant.unit.health().await, Ok(0), "of the instance before");
    }
    assert_eq!(next.await, Ok(1), "one restart, for one end");
    assert_eq!(plant.unit.health().await, Ok(1));
    plant.credits_are_back().await;
}

#[actix::test]
async fn hooks_are_called_in_order_and_the_old_instance_is_gone_before_the_new_one_is_made() {
    let plant = plant(after(millis(1))).await;
    plant.breaks().await;
    plant.unit.generation().await.unwrap();
    plant.worker.shutdown().await.unwrap();
    let log = plant.log.clone();
    until("all hooks are called", || log.lines().len() == 6).await;
    let lines = [
        "started 0",
        "restarting 0: a handler panicked: ouch",
        "dropped 0",
        "started 1",
        "stopped 1",
        "dropped 1",
    ];
    assert_eq!(log.lines(), lines);
}

#[actix::test]
async fn stopped_is_called_also_where_a_handler_awaits() {
    let plant = plant(after(millis(1))).await;
    let rests = plant.unit.rest(60_000);
    plant.log.begun.reaches(1).await;
    plant.worker.shutdown().await.unwrap();
    assert!(matches!(rests.await, Err(RpcError::PeerLost { .. })));
    let log = plant.log.clone();
    until("all hooks are called", || log.lines().len() == 3).await;
    assert_eq!(log.lines(), ["started 0", "stopped 0", "dropped 0"]);
}

#[actix::test]
async fn panic_1_hooks_and_drops_that_panic_harm_nobody() {
    struct Bomb;
    impl Lifecycle for Bomb {
        fn restarting(&mut self, _: &EndCause) {
            panic!("restarting");
        }
        fn stopped(&mut self) {
            panic!("stopped");
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    #[service]
    impl Bomb {
        #[method]
        fn ticks(&mut self) -> bool {
            true
        }
        #[method]
        fn explodes(&mut self) {
            panic!("bang");
        }
    }
    let worker = agent("worker").start().await.unwrap();
    let restart = after(millis(1)).limit(1, LONG);
    let serve = worker.serve_with(|| Bomb).restart(restart).hooks();
    let handle = serve.await.unwrap();
    let driver = agent("driver").start().await.unwrap();
    let bomb = driver.proxy::<Bomb>(worker.alias()).await.unwrap();
    assert!(bomb.explodes().await.is_err());
    assert_eq!(bomb.ticks().await, Ok(true));
    assert!(bomb.explodes().await.is_err());
    let error = bomb.ticks().await.unwrap_err();
    assert!(matches!(error, RpcError::ServiceDown { .. }), "{error}");
    handle.stop().await.unwrap();
}

#[actix::test]
async fn state_is_handed_over_by_choice_and_waits_for_a_start_that_takes_it() {
    let worker = agent("worker").start().await.unwrap();
    let log = Arc::new(Log::default());
    let making = log.clone();
    let factory = move |start: &mut Start<Unit>| {
        if start.restarts() == 1 {
            return Err("before it was taken");
        }
        let mut unit = making.build();
        if let Some(before) = start.take_previous() {
            unit.calls = before.calls;
        }
        Ok(unit)
    };
    worker
        .serve_from(factory)
        .restart(after(millis(1)))
        .await
        .unwrap();
    let plant = meet(log, worker).await;
    for n in 1..=3 {
        assert_eq!(plant.unit.count(n).await, Ok(n));
    }
    plant.breaks().await;
    assert_eq!(plant.unit.count(4).await, Ok(4));
    assert_eq!(plant.unit.generation().await, Ok(1));
}

/// Three services of one agent, in this order, and what they write.
struct Trio {
    log: Arc<Log>,
    units: [Proxy<Unit>; 3],
    events: Events,
    _agents: [PeerAgent; 2],
}

async fn trio(strategy: Strategy) -> Trio {
    let worker = agent("worker").strategy(strategy).start().await.unwrap();
    let driver = agent("driver").start().await.unwrap();
    let log = Arc::new(Log::default());
    let mut units = Vec::new();
    for name in ["a", "b", "c"] {
        let making = log.clone();
        let mut generation = 0;
        let factory = move || {
            generation += 1;
            making.unit(name, generation - 1)
        };
        let serve = worker.serve_with(factory).named(name).hooks();
        serve
            .restart(after(millis(20)).limit(2, LONG))
            .await
            .unwrap();
        units.push(driver.proxy_named(worker.alias(), name).await.unwrap());
    }
    log.lines.lock().unwrap().clear();
    Trio {
        log,
        units: units.try_into().ok().unwrap(),
        events: worker.events(),
        _agents: [worker, driver],
    }
}

impl Trio {
    async fn breaks(&self, at: usize) {
        let broken = self.units[at].breaks("ouch".to_owned()).await;
        broken.unwrap_err();
    }

    /// Breaks one and waits until so many have been restarted: the others hear of it a moment
    /// later.
    async fn restarts_with(&mut self, at: usize, count: usize) {
        self.breaks(at).await;
        for _ in 0..count {
            let event = timeout(LONG, self.events.next()).await.unwrap().unwrap();
            assert!(matches!(event, AgentEvent::Restarted { .. }), "{event:?}");
        }
    }

    async fn generations(&self) -> [u32; 3] {
        let [a, b, c] = self.units.each_ref().map(|unit| unit.generation());
        [a.await.unwrap(), b.await.unwrap(), c.await.unwrap()]
    }
}

#[actix::test]
async fn one_for_one_leaves_the_others_alone() {
    let mut trio = trio(Strategy::OneForOne).await;
    trio.restarts_with(0, 1).await;
    assert_eq!(trio.generations().await, [1, 0, 0]);
}

#[actix::test]
async fn one_for_all_ends_the_others_too_and_then_starts_all_in_order() {
    let mut trio = trio(Strategy::OneForAll).await;
    trio.restarts_with(1, 3).await;
    assert_eq!(trio.generations().await, [1, 1, 1]);
    let mut lines = trio.log.lines();
    // Those that end do so on arbiters of their own.
    lines[..6].sort();
    let lines_of_end = [
        "dropped a0",
        "dropped b0",
        "dropped c0",
        "restarting a0: service `b` ended",
        "restarting b0: a handler panicked: ouch",
        "restarting c0: service `b` ended",
    ];
    assert_eq!(lines[..6], lines_of_end);
    assert_eq!(lines[6..], ["started a1", "started b1", "started c1"]);
}

#[actix::test]
async fn one_for_all_waits_for_a_sync_handler_and_its_caller_has_its_answer() {
    let mut trio = trio(Strategy::OneForAll).await;
    let blocks = trio.units[2].block(150);
    trio.log.begun.reaches(1).await;
    trio.restarts_with(0, 3).await;
    assert_eq!(trio.generations().await, [1, 1, 1]);
    assert_eq!(blocks.await, Ok(150));
    let lines = trio.log.lines();
    let place = |line| lines.iter().position(|other| other == line).unwrap();
    assert!(place("dropped c0") < place("started a1"), "{lines:?}");
}

#[actix::test]
async fn rest_for_one_restarts_those_that_were_served_later() {
    let mut trio = trio(Strategy::RestForOne).await;
    trio.restarts_with(1, 2).await;
    assert_eq!(trio.generations().await, [0, 1, 1]);
    assert_eq!(trio.log.lines()[4..], ["started b1", "started c1"]);
    trio.restarts_with(0, 3).await;
    assert_eq!(trio.generations().await, [1, 2, 2]);
    trio.restarts_with(2, 1).await;
    assert_eq!(trio.generations().await, [1, 2, 3]);
}

#[actix::test]
async fn call_1_handlers_that_await_are_dropped_when_another_service_takes_theirs_with_it() {
    let mut trio = trio(Strategy::OneForAll).await;
    let (rests, counts) = (trio.units[2].rest(60_000), trio.units[2].count(1));
    trio.log.begun.reaches(1).await;
    trio.restarts_with(0, 3).await;
    let error = rests.timeout(LONG).await.unwrap_err();
    assert!(matches!(error, RpcError::ServiceDown { .. }), "{error}");
    assert_eq!(error.ran(), Ran::Unknown);
    assert_eq!(counts.await, Ok(1), "it had not begun");
    assert_eq!(trio.generations().await, [1, 1, 1]);
}

#[actix::test]
async fn a_service_that_is_given_up_takes_those_with_it_that_depend_on_it() {
    let mut trio = trio(Strategy::RestForOne).await;
    for _ in 0..3 {
        trio.breaks(1).await;
    }
    let mut given_up = Vec::new();
    while given_up.len() < 2 {
        let event = timeout(LONG, trio.events.next()).await.unwrap().unwrap();
        if let AgentEvent::GivenUp { service, cause } = event {
            given_up.push((service, cause));
        }
    }
    let service = "b".to_owned();
    let tied = ("c".to_owned(), EndCause::Sibling { service });
    assert_eq!(given_up, [("b".to_owned(), ouch()), tied]);
    assert_eq!(trio.units[0].generation().await, Ok(0));
    for unit in &trio.units[1..] {
        let error = unit.generation().await.unwrap_err();
        assert!(matches!(error, RpcError::ServiceDown { .. }), "{error}");
    }
}

#[actix::test]
async fn a_service_that_is_stopped_while_its_restart_waits_answers_what_has_arrived() {
    let worker = agent("worker").start().await.unwrap();
    let log = Arc::new(Log::default());
    let making = log.clone();
    let serve = worker.serve_with(move || making.build());
    let handle = serve.restart(after(millis(100))).await.unwrap();
    let plant = meet(log, worker).await;
    plant.breaks().await;
    let waits = plant.unit.count(1);
    handle.stop().await.unwrap();
    assert_eq!(waits.await, Ok(1));
}

#[actix::test]
async fn an_agent_leaves_while_a_restart_waits() {
    let plant = plant(after(LONG).limit(1, LONG)).await;
    plant.breaks().await;
    let waits = plant.unit.count(1);
    let started = Instant::now();
    plant.worker.shutdown().await.unwrap();
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    assert!(waits.timeout(LONG).await.is_err());
}

#[actix::test]
async fn calls_within_the_agent_wait_for_a_restart_and_learn_of_the_end_likewise() {
    let plant = plant(after(millis(50)).limit(1, LONG)).await;
    let own = plant
        .worker
        .proxy::<Unit>(plant.worker.alias())
        .await
        .unwrap();
    plant.breaks().await;
    assert_eq!(own.count(1).await, Ok(1));
    plant.breaks().await;
    assert!(is_down(&own.count(2).await.unwrap_err()));
    assert!(is_down(&own.health().await.unwrap_err()));
}

#[actix::test]
async fn serial_1_call_1_slot_2_a_worker_that_panics_on_every_tenth_answers_each_call_once() {
    const CALLS: u64 = 2_000;
    let restart = after(Duration::ZERO).limit(100_000, LONG);
    let plant = plant(restart).await;
    let other = agent("driver").start().await.unwrap();
    let other = other.proxy::<Unit>(plant.worker.alias()).await.unwrap();
    let drive = |unit: Proxy<Unit>, numbers: std::ops::Range<u64>| async move {
        let calls: Vec<_> = numbers.map(|n| (n, unit.tenth(n, n % 3 == 0))).collect();
        for (n, call) in calls {
            match call.timeout(LONG).await {
                Ok(answer) => assert!(answer == n && n % 10 != 9),
                Err(RpcError::Remote { type_name, .. }) => {
                    assert!(type_name == "panic" && n % 10 == 9)
                }
                Err(error) => panic!("{n}: {error}"),
            }
        }
    };
    let half = CALLS / 2;
    let first = actix::spawn(drive(plant.unit.clone(), 0..half));
    drive(other.clone(), half..CALLS).await;
    first.await.unwrap();
    assert_eq!(plant.unit.generation().await, Ok(CALLS as u32 / 10));
    assert_eq!(plant.log.most.load(Ordering::SeqCst), 1, "SERIAL-1");
    let run = std::mem::take(&mut *plant.log.run.lock().unwrap());
    assert_eq!(run.len() as u64, CALLS);
    assert!(run.values().all(|runs| *runs == 1), "at most once");
    plant.credits_are_back().await;
    credits_are_back(LONG, &other, async || {}).await;
}

#[actix::test]
async fn settings_that_make_no_sense_are_refused_with_what_is_allowed() {
    let worker = agent("worker").start().await.unwrap();
    let log = Arc::new(Log::default());
    let second = Duration::from_secs(1);
    let usual = Backoff::default();
    for (restart, allowed) in [
        (Restart::permanent().limit(0, second), "`temporary`"),
        (
            Restart::permanent().limit(5, Duration::ZERO),
            "more than no time",
        ),
        (Restart::permanent().limit(100, second), "never be reached"),
        (
            Restart::transient().backoff(Backoff {
                factor: 0.0,
                ..usual
            }),
            "1 or more",
        ),
        (
            Restart::transient().backoff(Backoff {
                first: second * 60,
                ..usual
            }),
            "longest",
        ),
    ] {
        let making = log.clone();
        let refused = worker
            .serve_with(move || making.build())
            .restart(restart)
            .await;
        let error = refused.unwrap_err();
        assert!(matches!(error, AgentError::Setting { .. }), "{error}");
        assert!(error.to_string().contains(allowed), "{error}");
    }
    let refused = worker
        .serve(log.build())
        .restart(Restart::permanent())
        .await;
    let error = refused.unwrap_err();
    assert!(error.to_string().contains("serve_with"), "{error}");
}

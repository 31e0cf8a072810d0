//! What becomes of peers: watched, lost, back again; and what proxies for them make of that. Over
//! whatever `SLIME_TEST_DEVICE` names, otherwise shared memory.
#![allow(clippy::unwrap_used)]

use std::future::IntoFuture;
use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler};
use futures_util::{Stream, StreamExt, stream};
use slimerpc::channel::Descriptor;
use slimerpc::control::topology::Topology;
use slimerpc::control::{Control, Local};
use slimerpc_actors::{
    AgentError, BufferError, Group, PeerAgent, PeerEvent, Polling, Proxy, Ran, Rights, RpcError,
    Terminated, Timeouts, Watch, service,
};
use support::{DEVICE, ResourceUsage, Tally, alone::is_alone, unique, within};
use tokio::time::{sleep, timeout};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);
/// Enough for what was sent to have arrived.
const SOON: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Counter {
    total: u64,
    /// Handlers of `never`.
    begun: Tally,
}

#[service]
impl Counter {
    #[method]
    fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }

    #[method]
    async fn never(&mut self) {
        self.begun.up();
        std::future::pending::<()>().await;
    }

    #[method(oneway)]
    fn note(&mut self, n: u64) {
        self.total += n;
    }

    #[method(stream)]
    fn count(&mut self, to: u64) -> impl Stream<Item = u64> {
        stream::iter(0..to)
    }
}

/// Names that no other test has.
fn names() -> (String, String) {
    (unique("worker"), unique("driver"))
}

async fn agent(alias: &str) -> PeerAgent {
    support::agent(alias.to_owned()).start().await.unwrap()
}

async fn worker(alias: &str) -> PeerAgent {
    let worker = agent(alias).await;
    worker.serve(Counter::default()).await.unwrap();
    worker
}

/// The next event, but for what a busy machine has to do with: that a peer stalls, and recovers.
async fn next(events: &mut Watch) -> PeerEvent {
    loop {
        let event = timeout(LONG, events.next()).await.expect("an event comes");
        match event.expect("the agent lives") {
            PeerEvent::Stalled | PeerEvent::Recovered => {}
            event => return event,
        }
    }
}

/// Calls until that works.
async fn healed(counter: &Proxy<Counter>) {
    let started = Instant::now();
    while let Err(error) = counter.add(1).await {
        assert!(started.elapsed() < LONG, "{error}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Calls until that fails.
async fn lost(counter: &Proxy<Counter>) {
    let answered = async { while counter.add(1).await.is_ok() {} };
    within("the peer is lost", answered).await;
}

#[actix::test]
async fn call_1_calls_of_a_peer_that_leaves_end_at_once_and_its_proxies_heal_when_it_is_back() {
    let (alias, driver) = names();
    let (first, driver) = (agent(&alias).await, agent(&driver).await);
    let served = Counter::default();
    let begun = served.begun.clone();
    first.serve(served).await.unwrap();
    let counter = driver.proxy::<Counter>(&alias).await.unwrap();
    let mut events = driver.watch(&alias).await.unwrap();
    let PeerEvent::Connected { incarnation } = next(&mut events).await else {
        panic!("it is there");
    };
    assert_eq!(counter.add(5).await.unwrap(), 5);
    let pending = counter.never();
    begun.reaches(1).await;

    let started = Instant::now();
    first.shutdown().await.unwrap();
    let error = timeout(LONG, pending).await.unwrap().unwrap_err();
    assert!(
        matches!(
            &error,
            RpcError::PeerLost {
                ran: Ran::Unknown,
                ..
            } | RpcError::ServiceDown { .. }
        ),
        "{error:?}"
    );
    assert_eq!(next(&mut events).await, PeerEvent::Left);
    assert!(started.elapsed() < Duration::from_secs(5));
    // What is called now is certainly not run, and ends at once.
    let error = timeout(LONG, counter.add(1)).await.unwrap().unwrap_err();
    assert!(matches!(error, RpcError::PeerLost { .. }), "{error:?}");
    assert_eq!(error.ran(), Ran::No);

    let second = worker(&alias).await;
    healed(&counter).await;
    assert_eq!(
        counter.add(1).await.unwrap(),
        2,
        "another life, another state"
    );
    let PeerEvent::Reconnected { incarnation: later } = next(&mut events).await else {
        panic!("it is there again");
    };
    assert_ne!(incarnation, later);
    second.shutdown().await.unwrap();
}

/// A call may arrive as the service ends.
#[actix::test]
async fn call_1_a_proxy_heals_however_often_its_service_is_served_again() {
    let (alias, driver) = names();
    let (worker, driver) = (agent(&alias).await, agent(&driver).await);
    let mut served = worker.serve(Counter::default()).await.unwrap();
    let counter = driver.proxy::<Counter>(&alias).await.unwrap();
    assert_eq!(counter.add(7).await.unwrap(), 7);
    for _ in 0..30 {
        served.stop().await.unwrap();
        let called = within("the call ends", counter.add(1)).await;
        called.unwrap_err();
        served = worker.serve(Counter::default()).await.unwrap();
        healed(&counter).await;
        assert_eq!(counter.add(1).await.unwrap(), 2);
    }
}

/// Nothing but the device tells the service.
#[actix::test]
async fn drop_1_a_service_keeps_no_memory_of_proxies_that_were_dropped() {
    if !is_alone(
        module_path!(),
        "drop_1_a_service_keeps_no_memory_of_proxies_that_were_dropped",
    ) {
        return;
    }
    let (alias, driver) = names();
    let (_worker, driver) = (worker(&alias).await, agent(&driver).await);
    let call = async || {
        let counter = driver.proxy::<Counter>(&alias).await.unwrap();
        counter.add(1).await.unwrap();
        counter
    };
    let first = call().await;
    // The heartbeats have a connection of their own, which may be made after the first call.
    let mut events = first.watch().await.unwrap();
    let event = next(&mut events).await;
    assert!(matches!(event, PeerEvent::Connected { .. }), "{event:?}");
    drop((first, events));
    let before = ResourceUsage::settled().await;
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(call().await);
    }
    let now = ResourceUsage::now();
    // A queue pair of tcp0 is a socket, and its rings are memory like any other.
    let is_tcp = std::env::var(DEVICE).is_ok_and(|device| device == "tcp0");
    let grown = now.mappings > before.mappings
        || now.pinned > before.pinned
        || (is_tcp && now.descriptors > before.descriptors);
    assert!(grown, "rings are counted");
    drop(all);
    before.is_back().await;
}

#[actix::test]
async fn fence_1_a_proxy_checks_the_table_of_a_service_that_is_back_anew() {
    mod later {
        use slimerpc_actors::service;

        #[derive(Default)]
        pub(super) struct Counter;

        #[service]
        impl Counter {
            #[method]
            fn absent(&mut self) {}

            #[method]
            fn never(&mut self) -> u8 {
                0
            }
        }
    }
    let (alias, driver) = names();
    let (first, driver) = (worker(&alias).await, agent(&driver).await);
    let counter = driver.proxy::<Counter>(&alias).await.unwrap();
    counter.add(1).await.unwrap();
    first.shutdown().await.unwrap();
    let second = agent(&alias).await;
    second.serve(later::Counter).await.unwrap();
    let started = Instant::now();
    let error = loop {
        match counter.add(1).await.unwrap_err() {
            RpcError::PeerLost { .. } => assert!(started.elapsed() < LONG),
            error => break error,
        }
        sleep(Duration::from_millis(5)).await;
    };
    // Not number 0 of the new table.
    assert!(
        matches!(error, RpcError::MethodNotFound { .. }),
        "{error:?}"
    );
}

#[actix::test]
async fn both_sides_that_begin_at_once_end_with_one_connection() {
    for _ in 0..10 {
        let (one, other) = names();
        let (one, other) = (agent(&one).await, agent(&other).await);
        let (from_one, from_other) =
            tokio::join!(one.watch(other.alias()), other.watch(one.alias()));
        let (mut from_one, mut from_other) = (from_one.unwrap(), from_other.unwrap());
        for events in [&mut from_one, &mut from_other] {
            let event = next(events).await;
            assert!(matches!(event, PeerEvent::Connected { .. }), "{event:?}");
        }
        for events in [&mut from_one, &mut from_other] {
            let more = timeout(SOON, next(events)).await;
            assert!(more.is_err(), "{more:?}");
        }
    }
}

#[actix::test]
async fn a_watch_on_nobody_and_on_oneself_is_an_error_that_says_so() {
    let (alias, nobody) = names();
    let agent = support::agent(alias.clone())
        .timeouts(Timeouts::default().connect_timeout(SOON))
        .start()
        .await
        .unwrap();
    let error = agent.watch(&nobody).await.unwrap_err();
    assert!(matches!(error, AgentError::PeerUnknown { .. }), "{error:?}");
    let error = agent.watch(&alias).await.unwrap_err();
    assert!(
        matches!(error, AgentError::WatchesItself { .. }),
        "{error:?}"
    );
}

#[actix::test]
async fn a_watch_ends_with_its_agent() {
    let (alias, driver) = names();
    let (_worker, driver) = (worker(&alias).await, agent(&driver).await);
    let mut events = driver.watch(&alias).await.unwrap();
    next(&mut events).await;
    driver.shutdown().await.unwrap();
    drop(driver);
    let rest = timeout(LONG, events.collect::<Vec<_>>()).await.unwrap();
    let is_there = |event: &PeerEvent| {
        matches!(
            event,
            PeerEvent::Connected { .. } | PeerEvent::Reconnected { .. }
        )
    };
    assert!(!rest.iter().any(is_there), "{rest:?}");
}

struct Mourner {
    told: Tally,
}

impl Actor for Mourner {
    type Context = Context<Self>;
}

impl Handler<Terminated> for Mourner {
    type Result = ();

    fn handle(&mut self, gone: Terminated, _: &mut Context<Self>) {
        assert_eq!(gone.event, PeerEvent::Left);
        self.told.up();
    }
}

#[actix::test]
async fn an_actor_is_told_once_of_the_death_of_a_peer() {
    let (alias, driver) = names();
    let (first, driver) = (worker(&alias).await, agent(&driver).await);
    let told = Tally::default();
    let mourner = Mourner { told: told.clone() }.start();
    driver
        .death_watch(&alias, mourner.recipient())
        .await
        .unwrap();
    let mut events = driver.watch(&alias).await.unwrap();
    let connected = next(&mut events).await;
    assert!(
        matches!(connected, PeerEvent::Connected { .. }),
        "{connected:?}"
    );
    first.shutdown().await.unwrap();
    assert!(next(&mut events).await.is_end());
    told.reaches(1).await;
    let second = worker(&alias).await;
    let again = next(&mut events).await;
    assert!(matches!(again, PeerEvent::Reconnected { .. }), "{again:?}");
    second.shutdown().await.unwrap();
    assert!(next(&mut events).await.is_end());
    // Long enough to see that nothing comes.
    sleep(SOON).await;
    assert_eq!(told.get(), 1);
}

/// As often as `SLIME_TEST_LIVES` says, at least six times.
#[actix::test]
async fn a_peer_may_come_back_many_times() {
    if !is_alone(module_path!(), "a_peer_may_come_back_many_times") {
        return;
    }
    let lives = std::env::var("SLIME_TEST_LIVES").map_or(30, |lives| lives.parse().unwrap());
    let (alias, driver) = names();
    let driver = agent(&driver).await;
    let mut life = worker(&alias).await;
    let counter = driver.proxy::<Counter>(&alias).await.unwrap();
    let mut before = None;
    for n in 0..lives {
        life.shutdown().await.unwrap();
        life = worker(&alias).await;
        healed(&counter).await;
        if n == 5 {
            before = Some(ResourceUsage::settled().await);
        }
    }
    // What is open for a moment at the time of a look is no leak: that is one for each life.
    let mut limit = before.expect("more than five lives");
    limit.descriptors += 4;
    limit.is_back().await;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find(|line| line.starts_with("VmRSS"));
    println!("after {lives} lives: {before:?}, {resident:?}");
    let error = counter.add(1).await.map(drop);
    assert_eq!(error, Ok(()));
}

#[actix::test]
async fn heartbeats_that_make_no_sense_are_refused() {
    let (alias, _) = names();
    let second = Duration::from_secs(1);
    for (interval, detection) in [
        (second, second),
        (2 * second, second),
        (Duration::ZERO, second),
    ] {
        let builder = support::agent(alias.clone())
            .polling(Polling::default().heartbeat(interval).detection(detection));
        let error = builder.start().await.unwrap_err();
        assert!(
            matches!(&error, AgentError::Setting { name, .. } if name == "heartbeat"),
            "{error:?}"
        );
    }
}

/// What a dead life of `agent` leaves: a registration, and a description of who does not answer any
/// more. Ends the agent.
async fn ghost(agent: PeerAgent) -> Local {
    let alias = agent.alias().to_owned();
    let join = async |alias: &str| {
        let control = Local::new("");
        let registration = Topology::of_host().registration(Some(alias), "");
        control.register(registration).await.unwrap();
        control
    };
    let spy = join(&format!("{alias}:spy")).await;
    let record = spy.lookup(&alias, Descriptor::RECORD).await.unwrap();
    spy.clean_up().await.unwrap();
    agent.shutdown().await.unwrap();
    let ghost = join(&alias).await;
    ghost
        .publish(Descriptor::RECORD, record.unwrap())
        .await
        .unwrap();
    ghost
}

#[actix::test]
async fn fence_1_all_who_wait_for_a_dead_life_look_again_when_there_is_another() {
    let (alias, driver) = names();
    let first = worker(&alias).await;
    let handle = first.allocate(100, Rights::Read).unwrap().handle();
    let ghost = ghost(first).await;
    // Longer than the test waits.
    let driver = support::agent(driver).timeouts(Timeouts::default().connect_timeout(10 * LONG));
    let driver = driver.start().await.unwrap();
    let called = async {
        let counter = driver.proxy::<Counter>(&alias).await.unwrap();
        assert_eq!(counter.add(5).await, Ok(5));
    };
    let connected = async { driver.connect_to(alias.as_str()).await.unwrap() };
    let watched = async {
        let mut events = driver.watch(&alias).await.unwrap();
        let event = next(&mut events).await;
        assert!(matches!(event, PeerEvent::Connected { .. }), "{event:?}");
    };
    let attached = async {
        let error = driver.attach(&handle).await.unwrap_err();
        assert!(matches!(error, BufferError::OwnerGone { .. }), "{error:?}");
    };
    let mut asked = ghost.mail();
    let restarted = async {
        // All are at it by the time that the dead life has been asked again and again.
        for _ in 0..4 {
            asked.next().await.unwrap();
        }
        ghost.clean_up().await.unwrap();
        worker(&alias).await
    };
    let all = async { tokio::join!(called, connected, watched, attached, restarted) };
    timeout(LONG, all).await.expect("all have looked again");
}

#[actix::test]
async fn a_watch_on_a_peer_that_was_lost_begins_with_that() {
    let (alias, driver) = names();
    let (first, driver) = (worker(&alias).await, agent(&driver).await);
    let counter = driver.proxy::<Counter>(&alias).await.unwrap();
    let mut events = driver.watch(&alias).await.unwrap();
    next(&mut events).await;
    first.shutdown().await.unwrap();
    assert_eq!(next(&mut events).await, PeerEvent::Left);
    let (mut later, mut of_proxy) = (
        driver.watch(&alias).await.unwrap(),
        counter.watch().await.unwrap(),
    );
    assert_eq!(next(&mut later).await, PeerEvent::Left);
    assert_eq!(next(&mut of_proxy).await, PeerEvent::Left);
    let told = Tally::default();
    let mourner = Mourner { told: told.clone() }.start();
    let dead = driver.death_watch(&alias, mourner.recipient());
    dead.await.unwrap();
    told.reaches(1).await;
}

#[actix::test]
async fn a_proxy_says_that_it_is_connected_again_when_it_can_be_called() {
    let (alias, driver) = names();
    let (first, driver) = (worker(&alias).await, agent(&driver).await);
    let counter = driver.proxy::<Counter>(&alias).await.unwrap();
    counter.ready().await.unwrap();
    let mut events = counter.watch().await.unwrap();
    next(&mut events).await;
    first.shutdown().await.unwrap();
    assert_eq!(next(&mut events).await, PeerEvent::Left);
    // The agent is there, and the service is not.
    let second = agent(&alias).await;
    let early = timeout(5 * SOON, next(&mut events)).await;
    assert!(early.is_err(), "{early:?}");
    second.serve(Counter::default()).await.unwrap();
    let event = next(&mut events).await;
    assert!(matches!(event, PeerEvent::Reconnected { .. }), "{event:?}");
    assert_eq!(counter.add(1).await, Ok(1));
}

#[actix::test]
async fn a_proxy_that_is_not_ready_in_time_says_for_whom_it_has_waited() {
    let (alias, driver) = names();
    let first = worker(&alias).await;
    let driver = support::agent(driver)
        .timeouts(Timeouts::default().connect_timeout(Duration::from_secs(1)));
    let driver = driver.start().await.unwrap();
    let counter = driver.proxy::<Counter>(&alias).await.unwrap();
    first.shutdown().await.unwrap();
    lost(&counter).await;
    let error = counter.ready().await.unwrap_err();
    let AgentError::NotBack { peer, service, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((peer.as_str(), service.as_str()), (&*alias, "Counter"));
    assert!(error.to_string().contains("is not back after 1"), "{error}");
    let _second = worker(&alias).await;
    counter.ready().await.unwrap();
    assert_eq!(counter.add(1).await, Ok(1));
    driver.shutdown().await.unwrap();
    let error = counter.ready().await.unwrap_err();
    assert!(matches!(error, AgentError::ShutDown), "{error:?}");
}

#[actix::test]
async fn calls_of_a_peer_that_is_lost_wait_for_it_as_long_as_they_may() {
    let (alias, driver) = names();
    let first = worker(&alias).await;
    let driver = support::agent(driver).timeouts(Timeouts::default().reconnect_wait(LONG));
    let driver = driver.start().await.unwrap();
    let counter = driver.proxy::<Counter>(&alias).await.unwrap();
    let hasty = counter.with_reconnect_wait(Duration::ZERO);
    first.shutdown().await.unwrap();
    lost(&hasty).await;

    // As long as they may, and no longer.
    let lost = counter.with_reconnect_wait(SOON).add(1).await.unwrap_err();
    assert!(matches!(lost, RpcError::PeerLost { .. }), "{lost:?}");
    let timed_out = RpcError::Timeout {
        peer: alias.clone(),
        method: "add".to_owned(),
        after: SOON,
        ran: Ran::No,
    };
    assert_eq!(lost.ran(), Ran::No);
    let limited = counter.with_timeout(SOON);
    assert_eq!(limited.add(1).await, Err(timed_out.clone()));
    assert_eq!(counter.add(1).timeout(SOON).await, Err(timed_out.clone()));
    let blocking = counter.add(1);
    let blocked = std::thread::spawn(move || blocking.wait_timeout(SOON));
    assert_eq!(blocked.join().unwrap(), Err(timed_out));
    let error = limited.count(3).next().await.unwrap().unwrap_err();
    assert!(
        matches!(&error, RpcError::Timeout { method, .. } if method == "count"),
        "{error}"
    );
    assert_eq!(error.ran(), Ran::No);
    limited.note(1).await.unwrap_err();
    drop(counter.add(1_000));

    let group = Group::new([counter.clone()]).unwrap();
    let calls = async {
        let items = counter.count(3).map(Result::unwrap).collect::<Vec<_>>();
        let blocking = counter.add(1);
        let blocked = tokio::task::spawn_blocking(move || {
            std::thread::spawn(move || blocking.wait()).join().unwrap()
        });
        let bounded = counter.add(1).timeout(LONG);
        tokio::join!(
            counter.add(1),
            bounded,
            group.broadcast(Add { n: 1 }).into_future(),
            counter.note(1),
            items,
            blocked,
        )
    };
    let restarted = async {
        sleep(3 * SOON).await;
        worker(&alias).await
    };
    let joined = async { tokio::join!(calls, restarted) };
    let (calls, _second) = timeout(LONG, joined).await.expect("none waits for nothing");
    let (one, two, three, told, items, four) = calls;
    told.unwrap();
    assert_eq!(items, [0, 1, 2]);
    for total in [
        one.unwrap(),
        two.unwrap(),
        three.unwrap()[0],
        four.unwrap().unwrap(),
    ] {
        assert!((1..=5).contains(&total), "{total}");
    }
    assert_eq!(hasty.add(0).await, Ok(5), "each has run once");
}

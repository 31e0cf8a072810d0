//! Finding services without knowing who serves them, in one process and by way of NanoCtrl and
//! Redis.
#![allow(clippy::unwrap_used)]

use std::pin::pin;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use slimerpc::channel::Mismatch;
use slimerpc::control::{Control, Entity, Local, NanoCtrl, Registration, ServiceRecord};
use slimerpc_actors::{
    AgentError, Builder, Compatibility, DiscoveryError, PeerAgent, ServiceChange, ServiceChanges,
    ServiceInstance, Timeouts, service,
};
use support::{NanoCtrlServer, fake_http::FakeHttp, unique};
use tokio::time::{sleep, timeout};

/// Longer than anything here takes; a test that reaches it fails.
const LONG: Duration = Duration::from_secs(120);
/// Long enough to see that nothing comes.
const A_WHILE: Duration = Duration::from_millis(300);

#[derive(Default)]
struct Calc;

#[service]
impl Calc {
    #[method]
    fn add(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }

    #[method]
    fn sub(&mut self, a: i64, b: i64) -> i64 {
        a - b
    }
}

/// The service as earlier and as quite other releases of it are.
mod other {
    use slimerpc_actors::service;

    pub(super) mod older {
        use super::service;
        pub(crate) struct Calc;
        #[service]
        impl Calc {
            #[method]
            pub(crate) fn add(&mut self, a: i64, b: i64) -> i64 {
                a + b
            }
        }
    }

    pub(super) mod wider {
        use super::service;
        pub(crate) struct Calc;
        #[service]
        impl Calc {
            #[method]
            pub(crate) fn add(&mut self, a: i64, b: i64) -> i64 {
                a + b
            }
            #[method]
            pub(crate) fn sub(&mut self, a: i128, b: i128) -> i128 {
                a - b
            }
        }
    }

    pub(super) mod pickled {
        use super::service;
        pub(crate) struct Calc;
        #[service(codec = "pickle")]
        impl Calc {
            #[method]
            pub(crate) fn add(&mut self, a: i64, b: i64) -> i64 {
                a + b
            }
            #[method]
            pub(crate) fn sub(&mut self, a: i64, b: i64) -> i64 {
                a - b
            }
        }
    }

    pub(super) mod unrelated {
        use super::service;
        pub(crate) struct Calc;
        #[service]
        impl Calc {
            #[method]
            pub(crate) fn integrate(&mut self) -> f64 {
                0.0
            }
        }
    }
}

/// Where agents of a test find each other.
enum World {
    Here(String),
    Served(Box<NanoCtrlServer>),
}

impl World {
    fn here() -> Self {
        Self::Here(unique("discovery"))
    }

    fn served() -> Self {
        Self::Served(Box::new(NanoCtrlServer::start()))
    }

    fn builder(&self, alias: &str) -> Builder {
        let builder = PeerAgent::builder().alias(alias).device("shm0");
        match self {
            Self::Here(scope) => builder.scope(scope),
            Self::Served(server) => builder.nanoctrl(server.url()).scope("job"),
        }
    }

    async fn agent(&self, alias: &str) -> PeerAgent {
        self.builder(alias).start().await.unwrap()
    }

    /// Somebody who can register anything.
    async fn anybody(&self) -> Box<dyn Control> {
        let control: Box<dyn Control> = match self {
            Self::Here(scope) => Box::new(Local::new(scope)),
            Self::Served(server) => Box::new(NanoCtrl::new(&server.url(), "job").unwrap()),
        };
        control.register(Registration::default()).await.unwrap();
        control
    }
}

/// Runs every test below in both worlds.
macro_rules! in_both_worlds {
    ($($name:ident)*) => {
        mod local {
            $(#[actix::test] async fn $name() { super::$name(super::World::here()).await })*
        }
        mod nanoctrl {
            $(#[actix::test] async fn $name() { super::$name(super::World::served()).await })*
        }
    };
}

in_both_worlds! {
    services_are_found_by_type_with_those_under_other_names
    a_service_that_is_stopped_and_an_agent_that_leaves_are_not_found
    services_for_one_peer_and_those_served_now_and_then_are_not_found
    services_that_do_not_fit_are_found_and_say_why
    a_proxy_for_any_passes_over_what_does_not_fit_and_what_does_not_answer
    a_proxy_for_any_waits_for_a_service_and_says_what_there_was
    a_group_has_all_that_fit_in_the_order_in_which_people_count
    whoever_watches_is_told_what_there_is_and_what_changes
    who_reads_slowly_is_told_what_is_there_in_the_end
    fence_1_an_earlier_life_of_an_agent_is_not_found
    a_service_of_a_process_that_has_ended_is_not_found
    input_1_what_is_no_service_is_skipped
}

fn names(found: &[ServiceInstance]) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

/// A record as a worker elsewhere would have it.
fn record(alias: &str) -> ServiceRecord {
    ServiceRecord {
        alias: alias.to_owned(),
        incarnation: 7,
        name: "Calc".to_owned(),
        type_name: "Calc".to_owned(),
        methods: vec!["add".to_owned(), "sub".to_owned()],
        signatures: Vec::new(),
        codec: "bincode".to_owned(),
        wire_version: slimerpc::wire::WIRE_VERSION,
        since: 1,
        process: json!({"boot_id": "elsewhere"}),
    }
}

async fn next(changes: &mut ServiceChanges) -> ServiceChange {
    let change = timeout(LONG, changes.next()).await;
    change.expect("a change comes").expect("the agent is there")
}

async fn assert_quiet(changes: &mut ServiceChanges) {
    if let Ok(change) = timeout(A_WHILE, changes.next()).await {
        panic!("{change:?}");
    }
}

async fn services_are_found_by_type_with_those_under_other_names(world: World) {
    let (worker, driver) = (world.agent("worker:0").await, world.agent("driver:0").await);
    assert_eq!(names(&driver.discover::<Calc>().await.unwrap()), [""; 0]);
    worker.serve(Calc).await.unwrap();
    worker.serve(Calc).named("second").await.unwrap();
    driver.serve(Calc).await.unwrap();
    for agent in [&driver, &worker] {
        let found = agent.discover::<Calc>().await.unwrap();
        assert_eq!(
            names(&found),
            ["driver:0/Calc", "worker:0/Calc", "worker:0/second"]
        );
        assert!(
            found
                .iter()
                .all(|it| it.compatibility() == &Compatibility::Full)
        );
        assert!(found.iter().all(ServiceInstance::is_on_this_host));
        assert_eq!(found[2].methods(), ["add", "sub"]);
        assert_eq!(found[1].incarnation(), found[2].incarnation());
        assert_ne!(found[0].incarnation(), found[2].incarnation());
    }
    let second = &driver.discover::<Calc>().await.unwrap()[2];
    let calc = driver
        .proxy_named::<Calc>(second.alias(), second.name())
        .await
        .unwrap();
    assert_eq!(calc.add(1, 2).await, Ok(3));
}

async fn a_service_that_is_stopped_and_an_agent_that_leaves_are_not_found(world: World) {
    let (worker, driver) = (world.agent("worker:0").await, world.agent("driver:0").await);
    let first = worker.serve(Calc).await.unwrap();
    worker.serve(Calc).named("second").await.unwrap();
    first.stop().await.unwrap();
    let found = driver.discover::<Calc>().await.unwrap();
    assert_eq!(names(&found), ["worker:0/second"]);
    worker.serve(Calc).await.unwrap();
    assert_eq!(driver.discover::<Calc>().await.unwrap().len(), 2);
    worker.shutdown().await.unwrap();
    assert_eq!(names(&driver.discover::<Calc>().await.unwrap()), [""; 0]);
    driver.shutdown().await.unwrap();
    let after = driver.discover::<Calc>().await;
    assert!(matches!(after, Err(AgentError::ShutDown)), "{after:?}");
    if let World::Served(server) = &world {
        let keys = server.redis.keys();
        assert!(!keys.iter().any(|key| key.contains("Calc")), "{keys:?}");
    }
}

async fn services_for_one_peer_and_those_served_now_and_then_are_not_found(world: World) {
    let (worker, driver) = (world.agent("worker:0").await, world.agent("driver:0").await);
    worker
        .serve(Calc)
        .named("private")
        .peer("driver:0")
        .await
        .unwrap();
    worker.connect_to("driver:0").await.unwrap();
    let only = worker.serve(Calc).named("only").only_peer();
    only.await.unwrap();
    let mut once = Calc;
    let waiting = timeout(A_WHILE, worker.serve_once(&mut once)).await;
    assert!(waiting.is_err(), "nobody has called");
    assert_eq!(names(&driver.discover::<Calc>().await.unwrap()), [""; 0]);
}

async fn services_that_do_not_fit_are_found_and_say_why(world: World) {
    let mut workers = Vec::new();
    for alias in ["w:older", "w:pickled", "w:unrelated", "w:wider"] {
        workers.push(world.agent(alias).await);
    }
    workers[0].serve(other::older::Calc).await.unwrap();
    workers[1].serve(other::pickled::Calc).await.unwrap();
    workers[2].serve(other::unrelated::Calc).await.unwrap();
    workers[3].serve(other::wider::Calc).await.unwrap();
    let driver = world.agent("driver:0").await;
    let found = driver.discover::<Calc>().await.unwrap();
    let fits: Vec<_> = found.iter().map(ServiceInstance::compatibility).collect();
    let lacks = Compatibility::Lacks {
        methods: vec!["sub".to_owned()],
    };
    assert_eq!(fits[0], &lacks);
    assert!(matches!(
        fits[1],
        Compatibility::Not(Mismatch::Codec { .. })
    ));
    assert!(matches!(
        fits[2],
        Compatibility::Not(Mismatch::NoCommonMethod { .. })
    ));
    let Compatibility::Differs { methods } = fits[3] else {
        panic!("TYPE-1: {:?}", fits[3]);
    };
    assert_eq!(methods[0].ours, "sub(a: i64, b: i64) -> i64");
    assert_eq!(methods[0].theirs, "sub(a: i128, b: i128) -> i128");

    let group = driver.group_of::<Calc>().await.unwrap_err();
    assert!(matches!(&group, DiscoveryError::NoneFits { found, .. } if found.len() == 4));
    assert!(
        group.to_string().contains("w:older/Calc (lacks sub)"),
        "{group}"
    );
    // What the older one knows, it answers.
    let calc = driver.proxy::<Calc>("w:older").await.unwrap();
    assert_eq!(calc.add(1, 2).await, Ok(3));
}

async fn a_proxy_for_any_passes_over_what_does_not_fit_and_what_does_not_answer(world: World) {
    let (worker, older) = (world.agent("worker:0").await, world.agent("older").await);
    older.serve(other::older::Calc).await.unwrap();
    let anybody = world.anybody().await;
    // On this host, as far as one can see, and so tried first if chance will have it.
    let ghost = ServiceRecord {
        process: ServiceRecord::this_process(),
        ..record("ghost:0")
    };
    anybody.advertise(ghost.entity("ghost")).await.unwrap();
    let limit = Duration::from_secs(4);
    let driver = world
        .builder("driver:0")
        .timeouts(Timeouts::default().connect_timeout(limit));
    let driver = driver.start().await.unwrap();
    let alone = driver.proxy_any::<Calc>().await.unwrap_err();
    let DiscoveryError::Unreachable { failed, .. } = &alone else {
        panic!("{alone}");
    };
    assert_eq!(failed[0].0.alias(), "ghost:0");
    assert!(matches!(failed[0].1, AgentError::PeerUnknown { .. }));

    worker.serve(Calc).await.unwrap();
    for _ in 0..3 {
        let calc = driver.proxy_any::<Calc>().await.unwrap();
        assert_eq!(calc.peer(), "worker:0");
        assert_eq!(calc.sub(3, 2).await, Ok(1));
    }
    let group = driver.group_of::<Calc>().await.unwrap_err();
    assert!(
        matches!(&group, DiscoveryError::Unreachable { failed, .. } if failed.len() == 1),
        "{group}"
    );
}

async fn a_proxy_for_any_waits_for_a_service_and_says_what_there_was(world: World) {
    let (worker, older) = (world.agent("worker:0").await, world.agent("older").await);
    older.serve(other::older::Calc).await.unwrap();
    let limit = Duration::from_secs(3);
    let driver = world
        .builder("driver:0")
        .timeouts(Timeouts::default().connect_timeout(limit));
    let driver = driver.start().await.unwrap();
    let started = Instant::now();
    let none = driver.proxy_any::<Calc>().await.unwrap_err();
    assert!(started.elapsed() >= limit);
    let DiscoveryError::NoneFits { service, found, .. } = &none else {
        panic!("{none}");
    };
    assert_eq!((*service, found.len()), ("Calc", 1));
    assert_eq!(found[0].alias(), "older");

    let patient = world.agent("driver:1").await;
    let mut waiting = pin!(patient.proxy_any::<Calc>());
    let early = timeout(A_WHILE, &mut waiting).await;
    assert!(early.is_err(), "it waits");
    worker.serve(Calc).await.unwrap();
    assert_eq!(waiting.await.unwrap().peer(), "worker:0");
}

async fn a_group_has_all_that_fit_in_the_order_in_which_people_count(world: World) {
    let mut workers = Vec::new();
    for rank in [10, 9, 0] {
        let worker = world.agent(&format!("worker:{rank}")).await;
        worker.serve(Calc).await.unwrap();
        workers.push(worker);
    }
    workers[1]
        .serve(other::older::Calc)
        .named("older")
        .await
        .unwrap();
    let driver = world.agent("driver:0").await;
    let group = driver.group_of::<Calc>().await.unwrap();
    let ranked: Vec<_> = group.members().iter().map(|it| it.peer()).collect();
    assert_eq!(ranked, ["worker:0", "worker:9", "worker:10"]);
    let sums = group.broadcast(Add { a: 1, b: 2 }).await.unwrap();
    assert_eq!(sums, [3, 3, 3]);
}

async fn whoever_watches_is_told_what_there_is_and_what_changes(world: World) {
    let (worker, driver) = (world.agent("worker:0").await, world.agent("driver:0").await);
    let served = worker.serve(Calc).await.unwrap();
    let mut changes = driver.watch_services::<Calc>().await.unwrap();
    assert!(matches!(next(&mut changes).await, ServiceChange::Added(it) if it.name() == "Calc"));
    worker.serve(Calc).named("second").await.unwrap();
    assert!(matches!(next(&mut changes).await, ServiceChange::Added(it) if it.name() == "second"));
    // Who begins later is told the same.
    let mut late = driver.watch_services::<Calc>().await.unwrap();
    for name in ["Calc", "second"] {
        assert!(matches!(next(&mut late).await, ServiceChange::Added(it) if it.name() == name));
    }
    served.stop().await.unwrap();
    for changes in [&mut changes, &mut late] {
        assert!(matches!(next(changes).await, ServiceChange::Removed(it) if it.name() == "Calc"));
    }

    let anybody = world.anybody().await;
    anybody
        .advertise(record("w:1").entity("life 1"))
        .await
        .unwrap();
    assert!(matches!(next(&mut changes).await, ServiceChange::Added(it) if it.alias() == "w:1"));
    let restarted = ServiceRecord {
        incarnation: 8,
        since: 2,
        ..record("w:1")
    };
    anybody.advertise(restarted.entity("life 2")).await.unwrap();
    match next(&mut changes).await {
        ServiceChange::Changed { was, is } => {
            assert_eq!((was.incarnation(), is.incarnation()), (7, 8));
        }
        other => panic!("{other:?}"),
    }
    // The end of the earlier life is no news.
    anybody.retract("life 1").await.unwrap();
    assert_quiet(&mut changes).await;
    worker.shutdown().await.unwrap();
    assert!(
        matches!(next(&mut changes).await, ServiceChange::Removed(it) if it.name() == "second")
    );

    driver.shutdown().await.unwrap();
    while let Some(change) = timeout(LONG, changes.next()).await.expect("it ends") {
        assert!(!matches!(change, ServiceChange::Added(_)), "{change:?}");
    }
}

async fn who_reads_slowly_is_told_what_is_there_in_the_end(world: World) {
    let driver = world.agent("driver:0").await;
    let mut changes = driver.watch_services::<Calc>().await.unwrap();
    let anybody = world.anybody().await;
    for number in 0..200 {
        let id = format!("w:{number}");
        anybody.advertise(record(&id).entity(&id)).await.unwrap();
        if number < 199 {
            anybody.retract(&id).await.unwrap();
        }
    }
    let last = loop {
        if let ServiceChange::Added(it) = next(&mut changes).await
            && it.alias() == "w:199"
        {
            break it;
        }
    };
    assert_eq!(driver.discover::<Calc>().await.unwrap(), [last]);
    assert_quiet(&mut changes).await;
}

async fn fence_1_an_earlier_life_of_an_agent_is_not_found(world: World) {
    let (worker, driver) = (world.agent("worker:0").await, world.agent("driver:0").await);
    let anybody = world.anybody().await;
    let earlier = ServiceRecord {
        name: "gone".to_owned(),
        ..record("worker:0")
    };
    anybody.advertise(earlier.entity("earlier")).await.unwrap();
    worker.serve(Calc).await.unwrap();
    let found = driver.discover::<Calc>().await.unwrap();
    assert_eq!(names(&found), ["worker:0/Calc"]);
}

async fn a_service_of_a_process_that_has_ended_is_not_found(world: World) {
    let mut child = Command::new("true").spawn().unwrap();
    let mut process = ServiceRecord::this_process();
    process["pid"] = child.id().into();
    child.wait().unwrap();
    let ended = ServiceRecord {
        process,
        ..record("ended:0")
    };
    let anybody = world.anybody().await;
    anybody.advertise(ended.entity("ended")).await.unwrap();
    let elsewhere = record("elsewhere:0");
    anybody.advertise(elsewhere.entity("far")).await.unwrap();
    let driver = world.agent("driver:0").await;
    let found = driver.discover::<Calc>().await.unwrap();
    assert_eq!(names(&found), ["elsewhere:0/Calc"]);
    assert!(!found[0].is_on_this_host());
}

async fn input_1_what_is_no_service_is_skipped(world: World) {
    let (worker, driver) = (world.agent("worker:0").await, world.agent("driver:0").await);
    let mut changes = driver.watch_services::<Calc>().await.unwrap();
    let anybody = world.anybody().await;
    let good = record("w").entity("odd");
    for metadata in [
        json!(null),
        json!("Calc"),
        json!([[[]]]),
        json!({"alias": "w"}),
    ] {
        let odd = Entity {
            metadata,
            ..good.clone()
        };
        anybody.advertise(odd).await.unwrap();
    }
    let mut odd = good.clone();
    odd.metadata["alias"] = json!("../w");
    anybody.advertise(odd).await.unwrap();
    let mut other_kind = good.clone();
    other_kind.kind = "cache".to_owned();
    other_kind.id = "of another kind".to_owned();
    anybody.advertise(other_kind).await.unwrap();

    worker.serve(Calc).await.unwrap();
    let found = driver.discover::<Calc>().await.unwrap();
    assert_eq!(names(&found), ["worker:0/Calc"]);
    assert!(
        matches!(next(&mut changes).await, ServiceChange::Added(it) if it.alias() == "worker:0")
    );
}

#[actix::test]
async fn scopes_of_one_server_do_not_see_each_others_services() {
    let world = World::served();
    let worker = world.agent("worker:0").await;
    worker.serve(Calc).await.unwrap();
    let elsewhere = world.builder("driver:0").scope("other");
    let elsewhere = elsewhere.start().await.unwrap();
    assert_eq!(elsewhere.discover::<Calc>().await.unwrap(), []);
    let unscoped = world.builder("driver:0").scope("").start().await.unwrap();
    assert_eq!(unscoped.discover::<Calc>().await.unwrap(), []);
}

#[actix::test]
async fn a_service_whose_agent_died_is_gone_once_it_expires() {
    let world = World::served();
    let driver = world.agent("driver:0").await;
    let mut changes = driver.watch_services::<Calc>().await.unwrap();
    let anybody = world.anybody().await;
    anybody
        .advertise(record("dead:0").entity("dead"))
        .await
        .unwrap();
    assert!(matches!(next(&mut changes).await, ServiceChange::Added(_)));
    let World::Served(server) = &world else {
        unreachable!();
    };
    let _: bool = server.redis.run(&["PEXPIRE", "job:service:dead", "10"]);
    assert!(
        matches!(next(&mut changes).await, ServiceChange::Removed(it) if it.alias() == "dead:0")
    );
    assert_eq!(driver.discover::<Calc>().await.unwrap(), []);
}

#[actix::test]
async fn a_redis_that_comes_back_empty_is_filled_again_and_watched_on() {
    let mut world = World::served();
    let (worker, driver) = (world.agent("worker:0").await, world.agent("driver:0").await);
    worker.serve(Calc).await.unwrap();
    let mut changes = driver.watch_services::<Calc>().await.unwrap();
    assert!(matches!(next(&mut changes).await, ServiceChange::Added(_)));
    if let World::Served(server) = &mut world {
        server.redis.restart();
    }
    let started = Instant::now();
    let is_found = async || {
        let found = driver.discover::<Calc>().await.unwrap_or_default();
        found.len() == 1
    };
    while !is_found().await {
        assert!(started.elapsed() < LONG, "the worker is forgotten");
        sleep(Duration::from_millis(20)).await;
    }
    // Whoever watches may have missed that it was away for a moment, but not what comes later.
    worker.serve(Calc).named("second").await.unwrap();
    loop {
        match next(&mut changes).await {
            ServiceChange::Added(it) if it.name() == "second" => break,
            change => println!("{change:?}"),
        }
    }
    let calc = driver.proxy_any::<Calc>().await.unwrap();
    assert_eq!(calc.add(1, 2).await, Ok(3));
}

#[actix::test]
async fn serving_does_not_wait_for_a_control_plane_that_keeps_no_entities_or_is_slow() {
    /// A request that is not answered is given up after 5 s.
    const UNANSWERED: Duration = Duration::from_secs(4);
    let server = NanoCtrlServer::start();
    let redis = server.redis.port;
    for entities in [Some((404, Vec::new())), None] {
        let plane = FakeHttp::start(move |path| match path {
            "/start_peer_agent" => Some((
                200,
                format!(r#"{{"status":"ok","name":"w","redis_address":"127.0.0.1:{redis}"}}"#)
                    .into(),
            )),
            "/register" | "/unregister" => entities.clone(),
            _ => Some((200, br#"{"status":"ok"}"#.to_vec())),
        });
        let _: u64 = server.redis.run(&["HSET", "agent:w", "addr", ""]);
        let builder = PeerAgent::builder().alias("w").device("shm0");
        let agent = builder.nanoctrl(plane.url()).start().await.unwrap();
        let started = Instant::now();
        let served = agent.serve(Calc).await.unwrap();
        assert!(started.elapsed() < UNANSWERED);
        assert_eq!(
            agent.proxy::<Calc>("w").await.unwrap().add(1, 2).await,
            Ok(3)
        );
        let started = Instant::now();
        served.stop().await.unwrap();
        assert!(started.elapsed() < UNANSWERED);
        let listed = agent.discover::<Calc>().await;
        assert!(
            matches!(listed, Err(AgentError::Control(_))),
            "an answer that is no list: {listed:?}"
        );
        let _ = timeout(Duration::from_secs(1), agent.shutdown()).await;
        let _: String = server.redis.run(&["FLUSHALL"]);
    }
}

#[actix::test]
async fn an_idle_worker_with_services_costs_redis_less_than_two_requests_a_second() {
    let world = World::served();
    let worker = world.agent("worker:0").await;
    for number in 0..5 {
        let served = worker.serve(Calc).named(format!("calc {number}"));
        served.await.unwrap();
    }
    let World::Served(server) = &world else {
        unreachable!();
    };
    let before = server.redis.requests();
    // More than the time between two heartbeats.
    sleep(Duration::from_secs(16)).await;
    let requests = server.redis.requests() - before;
    println!("{requests} requests in 16 s");
    assert!(requests <= 32, "{requests} requests in 16 s");
}

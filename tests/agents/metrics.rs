//! What agents count of calls, and how they tell it.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use reqwest::StatusCode;
use slimerpc_actors::{
    AgentError, ConnectionReading, Figures, MethodReading, Outcome, PayloadBytes, PeerAgent,
    Polling, Rights, RpcError, ServiceFigures, service, wait_all,
};
use support::alone::is_alone;
use support::{Gate, until};

/// What handlers of `wait` wait at.
static GATE: LazyLock<Gate> = LazyLock::new(Gate::default);

struct Worker;

#[service]
impl Worker {
    #[method]
    fn add(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }

    #[method]
    fn fail(&mut self) -> Result<(), String> {
        Err("as it was told".to_owned())
    }

    #[method]
    fn panics(&mut self) {
        panic!("as it was told");
    }

    #[method]
    async fn nap(&mut self, millis: u64) {
        actix::clock::sleep(Duration::from_millis(millis)).await;
    }

    #[method]
    async fn wait(&mut self) {
        GATE.passed().await;
    }

    #[method]
    async fn never(&mut self) {
        pending::<()>().await;
    }

    #[method(raw)]
    fn echo(&mut self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    #[method(stream)]
    fn count(&mut self, to: u32) -> impl Stream<Item = u32> {
        stream::iter(0..to)
    }

    #[method(parallel)]
    fn beside(_: &()) {}
}

impl slimerpc_actors::Share for Worker {
    type Shared = ();

    fn share(&self) -> Arc<()> {
        Arc::default()
    }
}

async fn pair(name: &str) -> (PeerAgent, PeerAgent) {
    let start = |alias: String| {
        let builder = PeerAgent::builder().alias(alias);
        builder.metrics_address("127.0.0.1:0").start()
    };
    let worker = start(format!("{name}:worker")).await.unwrap();
    worker.serve(Worker).await.unwrap();
    (worker, start(format!("{name}:driver")).await.unwrap())
}

/// The readings of the service's methods.
fn methods(services: Vec<ServiceFigures>) -> BTreeMap<String, MethodReading> {
    let all = services.into_iter().flat_map(|it| it.methods);
    all.map(|it| (it.method.clone(), it)).collect()
}

fn calls(agent: &PeerAgent) -> BTreeMap<String, MethodReading> {
    methods(agent.figures().unwrap().calls)
}

fn served(agent: &PeerAgent) -> BTreeMap<String, MethodReading> {
    methods(agent.figures().unwrap().served)
}

/// How calls ended, by the names of outcomes, without those that did not happen.
fn ends(reading: &MethodReading) -> Vec<(&'static str, u64)> {
    let all = Outcome::ALL.map(|outcome| (outcome.name(), reading.ended_with(outcome)));
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}

#[actix::test]
async fn each_call_is_counted_at_both_ends_by_how_it_ended() {
    let (worker, driver) = pair("counted").await;
    let proxy = driver.proxy::<Worker>(worker.alias()).await.unwrap();
    for number in 0..10 {
        assert_eq!(proxy.add(number, 1).await, Ok(number + 1));
    }
    assert!(proxy.fail().await.is_err());
    assert!(proxy.panics().await.is_err());
    assert_eq!(&*proxy.echo(&[7; 100_000]).await.unwrap(), &[7; 100_000]);
    assert_eq!(proxy.count(3).count().await, 3);
    proxy.beside().await.unwrap();
    proxy.tell(Add { a: 1, b: 1 }).await.unwrap();
    let expired = proxy.never().timeout(Duration::from_millis(20)).await;
    assert!(matches!(expired, Err(RpcError::Timeout { .. })));
    drop(proxy.never());
    let have_ended = || {
        let served = served(&worker);
        let never = served.get("never").map(|it| it.begun);
        never == Some(2) && served.values().all(|it| it.in_flight() == 0)
    };
    until("all have ended", have_ended).await;

    let (calls, served) = (calls(&driver), served(&worker));
    type Ends = &'static [(&'static str, u64)];
    let expected: [(&str, Ends, Ends); 7] = [
        ("add", &[("ok", 10), ("told", 1)], &[("ok", 11)]),
        ("beside", &[("ok", 1)], &[("ok", 1)]),
        ("count", &[("ok", 1)], &[("ok", 1)]),
        ("echo", &[("ok", 1)], &[("ok", 1)]),
        ("fail", &[("error", 1)], &[("error", 1)]),
        (
            "never",
            &[("timeout", 1), ("cancelled", 1)],
            &[("cancelled", 2)],
        ),
        ("panics", &[("error", 1)], &[("error", 1)]),
    ];
    assert_eq!(calls.len(), expected.len());
    for (method, at_caller, at_service) in expected {
        assert_eq!(ends(&calls[method]), at_caller, "{method}, at its caller");
        assert_eq!(
            ends(&served[method]),
            at_service,
            "{method}, at its service"
        );
        assert_eq!(calls[method].in_flight(), 0);
    }
    assert_eq!(served["beside"].waited.count(), 1);
    assert_eq!(calls["add"].took.count(), 10);
    assert_eq!(served["add"].took.count(), 11);
}

#[actix::test]
async fn calls_of_a_peer_that_is_lost_are_counted_as_that() {
    let (worker, driver) = pair("lost").await;
    let proxy = driver.proxy::<Worker>(worker.alias()).await.unwrap();
    let waiting = proxy.never();
    until("it has begun", || served(&worker).contains_key("never")).await;
    assert_eq!(calls(&driver)["never"].in_flight(), 1);
    let is_told = |what| {
        let incidents = driver.figures().unwrap().incidents;
        incidents
            .iter()
            .any(|((kind, _), count)| *kind == what && *count > 0)
    };
    // Who has never been heard is not lost.
    until("the peer is heard", || is_told("joined")).await;
    worker.shutdown().await.unwrap();
    assert!(matches!(waiting.await, Err(RpcError::PeerLost { .. })));
    assert!(matches!(
        proxy.add(1, 2).await,
        Err(RpcError::PeerLost { .. })
    ));
    let calls = calls(&driver);
    assert_eq!(ends(&calls["never"]), [("lost", 1)]);
    assert_eq!(ends(&calls["add"]), [("lost", 1)]);
    until("the loss is an incident", || is_told("lost")).await;
}

#[actix::test]
async fn what_a_connection_that_has_gone_had_counted_stays() {
    let (worker, driver) = pair("gone").await;
    for round in 1..=3 {
        let proxy = driver.proxy::<Worker>(worker.alias()).await.unwrap();
        proxy.add(1, 2).await.unwrap();
        drop(proxy);
        assert_eq!(calls(&driver)["add"].ended_with(Outcome::Ok), round);
    }
}

#[actix::test]
async fn waiting_for_a_handler_is_counted_apart_from_what_it_takes() {
    let (worker, driver) = pair("waiting").await;
    let proxy = driver.proxy::<Worker>(worker.alias()).await.unwrap();
    let (first, second) = (proxy.wait(), proxy.nap(1));
    until("it has begun", || served(&worker).contains_key("wait")).await;
    // Both have arrived, for all that anybody can tell.
    let millis = Duration::from_millis;
    actix::clock::sleep(millis(1_000)).await;
    GATE.open();
    first.await.unwrap();
    second.await.unwrap();
    let (wait, nap) = (&served(&worker)["wait"], &served(&worker)["nap"]);
    assert!(wait.took.quantile(1.0) >= millis(900), "{wait:?}");
    assert!(nap.waited.quantile(1.0) >= millis(500), "{nap:?}");
    // What it waited is no part of what it took.
    let at_caller = &calls(&driver)["nap"];
    assert!(
        at_caller.took.sum() >= nap.waited.sum(),
        "both: {at_caller:?}"
    );
    assert!(
        nap.took.sum() < at_caller.took.sum() - millis(400),
        "{nap:?}"
    );
}

/// A client of HTTP. The feature tls has reqwest ask for a provider of cryptography that the
/// process has chosen, even where it needs none.
fn client() -> reqwest::Client {
    #[cfg(feature = "tls")]
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

async fn get(agent: &PeerAgent, path: &str) -> (StatusCode, String) {
    let address = agent.metrics_address().unwrap();
    let asked = client().get(format!("http://{address}{path}"));
    let answer = asked.send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

#[actix::test]
async fn prometheus_reads_the_figures() {
    let (worker, driver) = pair("scraped").await;
    let proxy = driver.proxy::<Worker>(worker.alias()).await.unwrap();
    for _ in 0..5 {
        proxy.add(1, 2).await.unwrap();
    }
    let (status, text) = get(&driver, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    let labels =
        r#"agent="scraped:driver",rpc_system="slimerpc",rpc_service="Worker",rpc_method="add""#;
    for line in [
        format!(r#"slimerpc_client_calls_total{{{labels},outcome="ok"}} 5"#),
        format!("slimerpc_client_calls_in_flight{{{labels}}} 0"),
        format!("rpc_client_call_duration_seconds_count{{{labels}}} 5"),
        format!(r#"rpc_client_call_duration_seconds_bucket{{{labels},le="+Inf"}} 5"#),
        r#"slimerpc_incidents_total{agent="scraped:driver",kind="connected",detail="SHM"} 1"#
            .to_owned(),
        r#"slimerpc_memory_bytes{agent="scraped:driver",state="lent"} 0"#.to_owned(),
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
    }
    assert!(text.contains(&format!(
        r#"rpc_client_call_duration_seconds_recent{{{labels},quantile="0.999"}}"#
    )));
    let (_, text) = get(&worker, "/metrics").await;
    let served = labels.replace("driver", "worker");
    let line = format!(r#"slimerpc_server_calls_total{{{served},outcome="ok"}} 5"#);
    assert!(text.lines().any(|it| it == line), "{line} is not in {text}");

    assert_eq!(get(&driver, "/").await.0, StatusCode::NOT_FOUND);
    let address = driver.metrics_address().unwrap();
    let posted = client()
        .post(format!("http://{address}/metrics"))
        .send()
        .await;
    assert_eq!(posted.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    driver.shutdown().await.unwrap();
    drop(std::net::TcpListener::bind(address).unwrap());
}

#[actix::test]
async fn strangers_on_the_port_of_metrics_keep_no_scrape_waiting_for_ever() {
    let (_worker, driver) = pair("strangers").await;
    let address = driver.metrics_address().unwrap();
    let mut silent: Vec<_> = (0..20)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    for (number, stranger) in silent.iter_mut().enumerate() {
        let nonsense = vec![number as u8; 20_000];
        let _ = std::io::Write::write_all(stranger, &nonsense);
    }
    assert_eq!(get(&driver, "/metrics").await.0, StatusCode::OK);
}

#[actix::test]
async fn an_address_that_cannot_be_listened_at_is_refused_at_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [
        taken.local_addr().unwrap().to_string(),
        "198.51.100.7:9464".to_owned(),
        "localhost".to_owned(),
        "9464".to_owned(),
    ] {
        let builder = PeerAgent::builder().alias("refused:metrics");
        let refused = builder.metrics_address(&*address).start().await;
        let Err(AgentError::Setting { name, value, .. }) = refused else {
            panic!("{address}: {refused:?}");
        };
        assert_eq!((&*name, value), ("metrics_address", address));
    }
}

#[actix::test]
async fn a_call_that_waits_for_its_peer_is_counted_once() {
    let (worker, driver) = pair("waits").await;
    let proxy = driver.proxy::<Worker>(worker.alias()).await.unwrap();
    let proxy = proxy.with_reconnect_wait(Duration::from_secs(20));
    worker.shutdown().await.unwrap();
    until("it is lost", || proxy.channel().unwrap().closed().is_some()).await;
    let waiting = tokio::spawn(proxy.add(1, 2));
    let again = PeerAgent::builder()
        .alias(worker.alias())
        .start()
        .await
        .unwrap();
    again.serve(Worker).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(3));
    assert_eq!(ends(&calls(&driver)["add"]), [("ok", 1)]);

    again.shutdown().await.unwrap();
    until("it is lost", || proxy.channel().unwrap().closed().is_some()).await;
    let short = proxy.with_reconnect_wait(Duration::from_millis(20));
    assert!(short.add(1, 2).await.is_err());
    let add = &calls(&driver)["add"];
    assert_eq!(
        (ends(add), add.in_flight()),
        (vec![("ok", 1), ("lost", 1)], 0)
    );
}

#[actix::test]
async fn arguments_that_do_not_fit_are_a_failure_and_no_cancelled_call() {
    let (worker, driver) = pair("unfit").await;
    let proxy = driver.proxy::<Worker>(worker.alias()).await.unwrap();
    let too_much = vec![0; (1 << 30) + 1];
    assert!(proxy.echo(&too_much).await.is_err());
    assert_eq!(ends(&calls(&driver)["echo"]), [("error", 1)]);
}

/// Installs a recorder for all of this process. Returns what it prints.
fn recorder_of_the_program() -> metrics_exporter_prometheus::PrometheusHandle {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    page
}

#[actix::test]
async fn another_agent_of_an_alias_is_counted_on_by_the_recorder_of_the_program() {
    let this = "another_agent_of_an_alias_is_counted_on_by_the_recorder_of_the_program";
    if !is_alone(module_path!(), this) {
        return;
    }
    let page = recorder_of_the_program();
    for total in [3, 6] {
        let agent = PeerAgent::builder().alias("twice").metrics(true).start();
        let agent = agent.await.unwrap();
        agent.serve(Worker).await.unwrap();
        let proxy = agent.proxy::<Worker>("twice").await.unwrap();
        for _ in 0..3 {
            proxy.add(1, 2).await.unwrap();
        }
        let line = format!(
            r#"slimerpc_client_calls_total{{agent="twice",rpc_system="slimerpc",rpc_service="Worker",rpc_method="add",outcome="ok"}} {total}"#
        );
        until("they are told", || {
            page.render().lines().any(|it| it == line)
        })
        .await;
        agent.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn agents_of_one_alias_in_two_scopes_have_gauges_of_their_own() {
    let this = "agents_of_one_alias_in_two_scopes_have_gauges_of_their_own";
    if !is_alone(module_path!(), this) {
        return;
    }
    let page = recorder_of_the_program();
    let mut agents = Vec::new();
    for (scope, bytes) in [("", 1_000_000), ("a", 2_000_000), ("b", 3_000_000)] {
        let builder = PeerAgent::builder().alias("same").scope(scope);
        let agent = builder.metrics(true).start().await.unwrap();
        let buffer = agent.allocate(bytes, Rights::ReadWrite).unwrap();
        agents.push((agent, buffer));
    }
    let lent = |labels: &str| {
        let start = format!(r#"slimerpc_memory_bytes{{agent="same",{labels}state="lent"}} "#);
        let text = page.render();
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok())
    };
    until("each tells its own", || {
        let each = ["", r#"scope="a","#, r#"scope="b","#].map(lent);
        each.iter().all(|it| it.is_some_and(|it| it >= 1_000_000))
            && each[0] < each[1]
            && each[1] < each[2]
    })
    .await;
}

#[actix::test]
async fn nothing_is_counted_unless_somebody_wants_to_know() {
    let agent = PeerAgent::builder()
        .alias("uncounted")
        .start()
        .await
        .unwrap();
    assert!(agent.figures().is_none() && agent.metrics_address().is_none());
}

#[actix::test]
async fn the_recorder_that_the_program_has_installed_is_told() {
    let this = "the_recorder_that_the_program_has_installed_is_told";
    if !is_alone(module_path!(), this) {
        return;
    }
    let page = recorder_of_the_program();
    let builder = PeerAgent::builder().alias("told").metrics(true);
    let agent = builder.start().await.unwrap();
    agent.serve(Worker).await.unwrap();
    let proxy = agent.proxy::<Worker>("told").await.unwrap();
    proxy.add(1, 2).await.unwrap();
    let line = r#"slimerpc_client_calls_total{agent="told",rpc_system="slimerpc",rpc_service="Worker",rpc_method="add",outcome="ok"} 1"#;
    until("it is told", || page.render().lines().any(|it| it == line)).await;
    let Figures { calls, served, .. } = agent.figures().unwrap();
    assert_eq!((calls.len(), served.len()), (1, 1));
}

#[actix::test]
async fn slots_in_use_and_calls_that_wait_for_one_are_told() {
    let (worker, driver) = pair("slots").await;
    let proxy = driver.proxy::<Worker>(worker.alias()).await.unwrap();
    let waiting: Vec<_> = (0..20).map(|_| proxy.never()).collect();
    let rings = || driver.figures().unwrap().calls[0].rings;
    let has_parallel = proxy.channel().unwrap().geometry().slots();
    let seen = rings();
    assert_eq!((seen.in_use, seen.waiting), (16, 4), "{seen:?}");
    // Parallel methods have a ring of their own.
    assert_eq!(seen.free, has_parallel);
    drop(waiting);
    until("they are free again", || {
        let _ = proxy.channel().unwrap().credits();
        (rings().in_use, rings().waiting) == (0, 0)
    })
    .await;
}

#[actix::test]
async fn sleeps_are_told_at_both_ends() {
    let asleep = Polling::default().busy_poll(Duration::ZERO);
    let start = async |alias: &str| {
        let agent = PeerAgent::builder().alias(alias).polling(asleep.clone());
        agent.metrics_address("127.0.0.1:0").start().await.unwrap()
    };
    let (worker, driver) = (start("asleep:worker").await, start("asleep:driver").await);
    worker.serve(Worker).await.unwrap();
    let proxy = driver.proxy::<Worker>("asleep:worker").await.unwrap();
    for _ in 0..20 {
        proxy.nap(2).await.unwrap();
    }
    let at_caller = || driver.figures().unwrap().calls[0].connections.sleeps;
    // One is counted once; where the machine is busy, the answer may be there before the waiter is.
    assert!((1..=20).contains(&at_caller()), "{}", at_caller());
    let at_service = || {
        let mut served = worker.figures().unwrap().served;
        served.remove(0).connections
    };
    // A request wakes it, or the end of a nap does.
    until("the service has slept", || at_service().woken.count() > 0).await;
    let woken = at_service().woken;
    assert!(woken.count() <= at_service().sleeps, "{woken:?}");
    // Each call that ends wakes the waiter of all of them.
    let naps: Vec<_> = (0..10).map(|_| proxy.nap(2)).collect();
    wait_all(naps, None).await.unwrap();
    assert!(at_caller() <= 30, "{}", at_caller());
    let at_driver = &driver.figures().unwrap().calls[0].connections;
    assert_eq!(at_driver.woken.count(), 0, "callers run no handlers");
}

/// What the callers and the services of an agent have counted of `Worker`'s connections.
fn connections(agent: &PeerAgent) -> [ConnectionReading; 2] {
    let Figures { calls, served, .. } = agent.figures().unwrap();
    let of = |mut it: Vec<ServiceFigures>| it.pop().map(|it| it.connections);
    [calls, served].map(|it| of(it).unwrap_or_default())
}

#[actix::test]
async fn payloads_are_counted_at_both_ends_by_how_they_travelled() {
    let (worker, driver) = pair("payloads").await;
    let proxy = driver.proxy::<Worker>(worker.alias()).await.unwrap();
    let both = || {
        (
            connections(&driver)[0].payload,
            connections(&worker)[1].payload,
        )
    };
    assert_eq!(both(), Default::default());
    // A service counts its answer once that is on its way.
    let told = async |expected: PayloadBytes| {
        until("both have counted", || both() == (expected, expected)).await;
    };
    let (small, large) = ([7; 1_000], vec![8; 100_000]);
    assert_eq!(&*proxy.echo(&small).await.unwrap(), &small);
    let inline = PayloadBytes {
        sent_inline: 1_000,
        received_inline: 1_000,
        ..PayloadBytes::default()
    };
    told(inline).await;
    assert_eq!(&*proxy.echo(&large).await.unwrap(), &*large);
    let beyond = PayloadBytes {
        sent_by_rendezvous: 100_000,
        received_by_rendezvous: 100_000,
        ..inline
    };
    told(beyond).await;

    // More calls than slots: those that wait are counted, too.
    let calls: Vec<_> = (0..50).map(|_| proxy.echo(&small)).collect();
    wait_all(calls, None).await.unwrap();
    let calls: Vec<_> = (0..50).map(|_| proxy.echo(&large)).collect();
    wait_all(calls, None).await.unwrap();
    let many = PayloadBytes {
        sent_inline: 51_000,
        sent_by_rendezvous: 5_100_000,
        received_inline: 51_000,
        received_by_rendezvous: 5_100_000,
    };
    told(many).await;
    // What is not sent is not counted.
    assert!(proxy.echo(&vec![0; (1 << 30) + 1]).await.is_err());
    told(many).await;

    // Encoded arguments, a failure, a stream, one-way.
    assert_eq!(proxy.add(1, 2).await, Ok(3));
    let after_add = both().0;
    assert!(after_add.sent_inline > many.sent_inline);
    assert!(after_add.received_inline > many.received_inline);
    assert!(proxy.fail().await.is_err());
    let after_failure = both().0;
    assert!(after_failure.received_inline > after_add.received_inline);
    assert_eq!(proxy.count(100).count().await, 100);
    let after_stream = both().0;
    assert!(after_stream.received_inline >= after_failure.received_inline + 100);
    until(
        "the service has received what was sent, and sent that",
        || {
            let (at_caller, at_service) = both();
            at_service.received_inline == at_caller.sent_inline
                && at_service.sent_inline == at_caller.received_inline
        },
    )
    .await;
    proxy.tell(Add { a: 1, b: 1 }).await.unwrap();
    let (at_caller, _) = both();
    assert!(at_caller.sent_inline > after_stream.sent_inline);
    // Nobody waits for its result.
    assert_eq!(at_caller.received_inline, after_stream.received_inline);
    until("the service has answered it", || {
        let (at_caller, at_service) = both();
        at_service.received_inline == at_caller.sent_inline
            && at_service.sent_inline > at_caller.received_inline
    })
    .await;
}

#[actix::test]
async fn looks_for_arrivals_are_counted_also_those_of_connections_that_have_gone() {
    let (worker, driver) = pair("polls").await;
    let proxy = driver.proxy::<Worker>(worker.alias()).await.unwrap();
    for _ in 0..100 {
        proxy.add(1, 2).await.unwrap();
    }
    // Each request and each answer was found by at least one.
    let at_caller = connections(&driver)[0].polls;
    assert!(at_caller >= 100, "{at_caller}");
    until("the service tells", || connections(&worker)[1].polls >= 50).await;
    for _ in 0..100 {
        proxy.add(1, 2).await.unwrap();
    }
    drop(proxy);
    let gone = connections(&driver)[0].polls;
    assert!(gone >= at_caller + 100, "{gone} after {at_caller}");
}

#[actix::test]
async fn one_sided_transfers_are_counted_by_whoever_makes_them() {
    let (owner, user) = pair("one-sided").await;
    let buffer = owner.allocate(100_000, Rights::ReadWrite).unwrap();
    let remote = user.attach(&buffer.handle()).await.unwrap();
    remote.write_at(0, &[1; 50_000]).await.unwrap();
    remote.read(10, 1_234).await.unwrap();
    assert!(remote.read(99_999, 2).await.is_err());
    let counted = |agent: &PeerAgent| {
        let it = agent.figures().unwrap().one_sided;
        (it.read, it.written)
    };
    assert_eq!((counted(&user), counted(&owner)), ((1_234, 50_000), (0, 0)));
}

#[actix::test]
async fn the_last_second_of_an_agent_is_told_and_no_gauge_stays() {
    let this = "the_last_second_of_an_agent_is_told_and_no_gauge_stays";
    if !is_alone(module_path!(), this) {
        return;
    }
    let page = recorder_of_the_program();
    let agent = PeerAgent::builder().alias("brief").metrics(true).start();
    let agent = agent.await.unwrap();
    agent.serve(Worker).await.unwrap();
    let proxy = agent.proxy::<Worker>("brief").await.unwrap();
    proxy.echo(&[1; 100_000]).await.unwrap();
    let waits = proxy.never();
    let of = |name: &str, labels: &str| {
        let start = format!(r#"{name}{{agent="brief",{labels}}} "#);
        let text = page.render();
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        value.map(str::to_owned)
    };
    let labels = r#"rpc_system="slimerpc",rpc_service="Worker""#;
    let never = format!(r#"{labels},rpc_method="never""#);
    let in_use = format!(r#"{labels},state="in_use""#);
    until("it waits", || {
        of("slimerpc_client_ring_slots", &in_use).as_deref() == Some("1")
            && of("slimerpc_client_calls_in_flight", &never).as_deref() == Some("1")
            && of("slimerpc_memory_bytes", r#"state="idle""#).is_some_and(|it| it != "0")
    })
    .await;
    drop(waits);
    for _ in 0..3 {
        proxy.add(1, 2).await.unwrap();
    }
    agent.shutdown().await.unwrap();
    let add = format!(r#"{labels},rpc_method="add",outcome="ok""#);
    assert_eq!(
        of("slimerpc_client_calls_total", &add).as_deref(),
        Some("3")
    );
    for (name, labels) in [
        ("slimerpc_client_ring_slots", &*in_use),
        ("slimerpc_client_calls_in_flight", &never),
        ("slimerpc_server_calls_in_flight", &never),
        ("slimerpc_memory_bytes", r#"state="idle""#),
    ] {
        assert_eq!(of(name, labels).as_deref(), Some("0"), "{name}");
    }
    let add = format!(r#"{labels},rpc_method="add",quantile="0.5""#);
    let recent = of("rpc_client_call_duration_seconds_recent", &add);
    assert_eq!(recent.as_deref(), Some("NaN"));
}

/// The names of the metrics in a text of Prometheus', each with its labels.
fn exported(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all = BTreeMap::<_, BTreeSet<_>>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, labels)) = line
            .rsplit_once(' ')
            .map(|(it, _)| it.split_once('{').unwrap())
        {
            let labels = labels.split("\",").filter_map(|it| it.split_once('='));
            all.entry(name)
                .or_default()
                .extend(labels.map(|(label, _)| label));
        }
    }
    all
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// The labels in a list of them, with or without what they are to be.
fn labels(list: &str) -> impl Iterator<Item = &str> {
    let names = list
        .split(',')
        .map(|it| it.split(['=', '!']).next().unwrap_or(it).trim());
    names.filter(|it| it.chars().all(is_of_name))
}

/// Checks that a query asks for metrics and labels that there are.
fn check(query: &str, exported: &BTreeMap<&str, BTreeSet<&str>>) {
    let mut known = BTreeSet::from(["le"]);
    let mut is_any = false;
    for (at, _) in query.match_indices("rpc_") {
        let start = query[..at]
            .rfind(|it| !is_of_name(it))
            .map_or(0, |it| it + 1);
        let name = query[start..].split(|it| !is_of_name(it)).next().unwrap();
        if exported.values().any(|labels| labels.contains(name)) || start > at {
            continue;
        }
        let Some(has) = exported.get(name) else {
            panic!("no metric is named {name}: {query}");
        };
        is_any = true;
        known.extend(has);
        let rest = &query[start + name.len()..];
        if let Some(wanted) = rest.strip_prefix('{').and_then(|it| it.split('}').next()) {
            for label in labels(wanted) {
                assert!(has.contains(label), "{name} has no label {label}: {query}");
            }
        }
    }
    assert!(is_any, "no metric is asked for: {query}");
    for by in query
        .split("by (")
        .skip(1)
        .filter_map(|it| it.split(')').next())
    {
        for label in labels(by) {
            assert!(
                known.contains(label),
                "no metric has the label {label}: {query}"
            );
        }
    }
}

#[actix::test]
async fn the_queries_of_the_dashboard_and_the_alerts_ask_for_what_there_is() {
    let (worker, driver) = pair("queried").await;
    let proxy = driver.proxy::<Worker>(worker.alias()).await.unwrap();
    proxy.add(1, 2).await.unwrap();
    let text = get(&driver, "/metrics").await.1 + &get(&worker, "/metrics").await.1;
    let exported = exported(&text);

    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/grafana");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut queries: Vec<_> = targets
        .map(|it| it["expr"].as_str().unwrap().to_owned())
        .collect();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables = variables.iter().filter_map(|it| it["definition"].as_str());
    for variable in variables {
        let inside = variable
            .strip_prefix("label_values(")
            .unwrap()
            .strip_suffix(')')
            .unwrap();
        let (metric, label) = inside.split_once(", ").unwrap();
        queries.push(format!("sum by ({label}) ({metric})"));
    }
    let rules = read("alerts.yml");
    let rules = rules
        .split("expr:")
        .skip(1)
        .map(|it| it.split("labels:").next().unwrap());
    queries.extend(rules.map(str::to_owned));
    assert!(queries.len() >= 15, "{}", queries.len());
    queries.iter().for_each(|query| check(query, &exported));
}

#[actix::test]
async fn each_metric_of_an_agent_is_in_the_book_and_the_other_way_round() {
    let (worker, driver) = pair("documented").await;
    let proxy = driver.proxy::<Worker>(worker.alias()).await.unwrap();
    proxy.nap(20).await.unwrap();
    let text = get(&driver, "/metrics").await.1 + &get(&worker, "/metrics").await.1;
    let book = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/observing.md");
    let book = std::fs::read_to_string(book).unwrap();
    let mut named = BTreeSet::new();
    for row in book.lines().filter_map(|line| line.strip_prefix("| `")) {
        let cell = row.split('|').next().unwrap();
        let mut names = cell.split(['`', ',', ' ']).filter(|it| !it.is_empty());
        let first = names.next().unwrap();
        named.insert(first.to_owned());
        for suffix in names {
            named.insert(format!(
                "{}{suffix}",
                first.strip_suffix("_bucket").unwrap_or("")
            ));
        }
    }
    named.retain(|name| name.starts_with("slimerpc_") || name.starts_with("rpc_"));
    let exported = exported(&text).into_keys().map(str::to_owned).collect();
    assert_eq!(named, exported);
}

//! Agents while the control plane is away, and after: what is connected goes on, and who comes
//! later finds everybody.
#![allow(clippy::unwrap_used)]

use std::env;
use std::time::{Duration, Instant};

use serde_json::json;
use slimerpc::control::{Control, ControlError, NanoCtrl, Registration};
use slimerpc_actors::{AgentError, PeerAgent, Timeouts, service};
use support::{NanoCtrlServer, PATIENCE, free_port, within};

/// How long the control plane is away, in seconds; more of them only prove more of the same.
const OUTAGE: &str = "SLIME_TEST_OUTAGE_S";

#[derive(Default)]
struct Counter {
    total: i64,
}

#[service]
impl Counter {
    #[method]
    fn add(&mut self, n: i64) -> i64 {
        self.total += n;
        self.total
    }
}

fn outage() -> Duration {
    let seconds = env::var(OUTAGE).map_or(3, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

async fn agent(server: &NanoCtrlServer, alias: &str) -> PeerAgent {
    let builder = support::agent(alias.to_owned()).nanoctrl(server.url());
    builder.start().await.unwrap()
}

/// Asks again until a newcomer finds the service by its type, as it may be registered a little
/// later.
async fn found(agent: &PeerAgent) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if agent
            .discover::<Counter>()
            .await
            .is_ok_and(|found| found.len() == 1)
        {
            return true;
        }
        actix::clock::sleep(Duration::from_millis(100)).await;
    }
    false
}

#[actix::test]
async fn established_channels_outlive_nanoctrl_and_redis_and_newcomers_find_everything_again() {
    let mut server = NanoCtrlServer::start();
    let worker = agent(&server, "worker:0").await;
    worker.serve(Counter::default()).await.unwrap();
    let driver = agent(&server, "driver:0").await;
    let counter = driver.proxy::<Counter>("worker:0").await.unwrap();
    assert_eq!(counter.add(1).await.unwrap(), 1);

    server.stop();
    server.redis.stop();
    let (away, mut calls) = (Instant::now(), 1);
    while away.elapsed() < outage() {
        calls += 1;
        // One that waited for the control plane would wait for ever.
        let called = within("a call is answered", counter.add(1)).await;
        assert_eq!(called.unwrap(), calls);
        actix::clock::sleep(Duration::from_millis(20)).await;
    }
    server.redis.restart(); // It comes back empty.
    server.serve();
    let back = Instant::now();

    let newcomer = agent(&server, "driver:1").await;
    assert!(found(&newcomer).await, "the service is advertised again");
    println!(
        "found {:?} after the control plane was back",
        back.elapsed()
    );
    let counted = newcomer.proxy::<Counter>("worker:0").await.unwrap();
    assert_eq!(counted.add(1).await.unwrap(), calls + 1);
    assert_eq!(counter.add(1).await.unwrap(), calls + 2);
    for agent in [driver, newcomer, worker] {
        agent.shutdown().await.unwrap();
    }
    assert_eq!(server.redis.keys(), ["nano_meta:service_revision"]);
}

#[actix::test]
async fn connecting_waits_for_a_nanoctrl_that_is_away() {
    let mut server = NanoCtrlServer::start();
    let worker = agent(&server, "worker:0").await;
    worker.serve(Counter::default()).await.unwrap();
    let driver = support::agent("driver:0".to_owned())
        .nanoctrl(server.url())
        .timeouts(Timeouts::default().connect_timeout(Duration::from_secs(120)));
    let driver = driver.start().await.unwrap();
    server.stop();
    let (counter, ()) = tokio::join!(driver.proxy::<Counter>("worker:0"), async {
        actix::clock::sleep(Duration::from_millis(500)).await;
        server.serve();
    });
    assert_eq!(counter.unwrap().add(1).await.unwrap(), 1);
    for agent in [driver, worker] {
        agent.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn a_control_plane_that_is_not_there_is_reported_within_the_connect_timeout() {
    let within = Duration::from_secs(1);
    let url = format!("http://127.0.0.1:{}", free_port());
    let builder = PeerAgent::builder()
        .nanoctrl(&url)
        .timeouts(Timeouts::default().connect_timeout(within));
    let started = Instant::now();
    let error = builder.start().await.expect_err("nothing is there");
    assert!(error.to_string().contains(&url), "{error}");
    // By itself it would be 10 s.
    assert!(started.elapsed() < within * 9, "{:?}", started.elapsed());
}

/// As in another container: nothing can be known of its process.
#[actix::test]
async fn an_alias_of_which_nobody_knows_whether_its_agent_lives_can_be_waited_for() {
    let server = NanoCtrlServer::start();
    let dead = NanoCtrl::new(&server.url(), "").unwrap();
    let registration = Registration {
        alias: Some("w".to_owned()),
        resource: Some(json!({"slime": {"boot_id": "another", "pid": 4711}})),
        ..Registration::default()
    };
    dead.register(registration).await.unwrap();
    drop(dead);
    let builder = || PeerAgent::builder().nanoctrl(server.url()).alias("w");
    let taken = builder().start().await.expect_err("it is taken");
    assert!(
        matches!(taken, AgentError::Control(ControlError::AliasTaken { .. })),
        "{taken:?}"
    );
    let text = taken.to_string();
    assert!(text.contains("process 4711 on another host"), "{text}");
    assert!(
        text.contains("take_over") && text.contains("60 s"),
        "{text}"
    );

    let _: i64 = server.redis.run(&["EXPIRE", "agent:w", "2"]);
    let agent = builder()
        .timeouts(Timeouts::default().take_over(Duration::from_secs(20)))
        .start()
        .await;
    agent.unwrap().shutdown().await.unwrap();

    // Of agents in this process, too.
    let local = || PeerAgent::builder().local().alias("taken-over");
    let first = local().start().await.unwrap();
    let second = actix::spawn(
        local()
            .timeouts(Timeouts::default().take_over(Duration::from_secs(20)))
            .start(),
    );
    actix::clock::sleep(Duration::from_millis(300)).await;
    assert!(!second.is_finished());
    first.shutdown().await.unwrap();
    second.await.unwrap().unwrap().shutdown().await.unwrap();
}

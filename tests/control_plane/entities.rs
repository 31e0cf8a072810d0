//! What `NanoCtrl` agents do to their entities in Redis, and what those who watch see when
//! something goes wrong there.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream::BoxStream};
use serde_json::json;
use slimerpc::control::{
    Control, ControlError, Entity, EntityEvent, Mail, MailEvent, NanoCtrl, Registration,
};
use support::{NanoCtrlServer, Redis, fake_http::FakeHttp, free_port};
use tokio::time::{Instant, sleep, timeout};

/// Longer than anything here takes; a test that reaches it fails.
const SOON: Duration = Duration::from_secs(60);

async fn join(server: &NanoCtrlServer, scope: &str, alias: &str) -> NanoCtrl {
    let agent = NanoCtrl::new(&server.url(), scope)
        .unwrap()
        .request_timeout(Duration::from_secs(2))
        .poll_interval(Duration::from_secs(1));
    agent.register(named(alias)).await.unwrap();
    agent
}

/// Redis takes no such times, and a clock does not reach so far.
#[tokio::test]
async fn an_agent_with_times_without_end_is_sent_mail_and_sees_entities() {
    let server = NanoCtrlServer::start();
    let never = Duration::MAX;
    let agent = NanoCtrl::new(&server.url(), "")
        .unwrap()
        .register_timeout(never)
        .request_timeout(never)
        .poll_interval(never);
    agent.register(named("endless")).await.unwrap();
    let mut events = agent.mail();
    let mut follower = Follower::new(&agent).await;
    let other = join(&server, "", "other").await;
    let sent = Mail::new("greeting").with("peer", "other");
    other.send_mail("endless", &sent).await.unwrap();
    let received = async { while events.next().await != Some(MailEvent::Mail(sent.clone())) {} };
    timeout(SOON, received).await.unwrap();
    other.advertise(rpc("other/1")).await.unwrap();
    follower.until(&["other/1"]).await;
}

/// DLSlime's own server, which knows of no index.
struct Foreign(std::process::Child);

impl Foreign {
    fn start(redis: &Redis) -> (Self, String) {
        let port = free_port();
        let mut command = std::process::Command::new(crate::obs::dlslime_ctrl());
        command.args(["server", "--host", "127.0.0.1", "--port"]);
        command.arg(port.to_string());
        command.args(["--redis-url", &redis.url()]);
        command.stdout(std::process::Stdio::null());
        let server = Self(command.spawn().unwrap());
        let end = Instant::now() + SOON;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "it does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        (server, format!("http://127.0.0.1:{port}"))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Agents list what they renew. Whoever removes it is not always a server that knows the list.
#[tokio::test]
async fn nothing_stays_listed_at_a_server_of_dlslime() {
    let redis = Redis::start();
    let (_server, url) = Foreign::start(&redis);
    let agent = NanoCtrl::new(&url, "").unwrap();
    agent.register(named("lister")).await.unwrap();
    let listed = || -> Vec<String> { redis.run(&["SMEMBERS", "nanoctrl/entities/"]) };
    for id in ["lister/1", "lister/2"] {
        agent.advertise(rpc(id)).await.unwrap();
    }
    agent.heartbeat().await.unwrap();
    assert_eq!(listed().len(), 2);
    agent.retract("lister/1").await.unwrap();
    assert_eq!(listed(), ["service:lister/2"]);
    agent.clean_up().await.unwrap();
    let mut left = redis.keys();
    left.retain(|key| key.starts_with("nanoctrl/"));
    assert!(left.is_empty(), "{left:?}");
}

fn named(alias: &str) -> Registration {
    Registration {
        alias: Some(alias.to_owned()),
        address: "127.0.0.1".to_owned(),
        ..Registration::default()
    }
}

fn rpc(id: &str) -> Entity {
    Entity {
        id: id.to_owned(),
        kind: "rpc".to_owned(),
        metadata: json!({}),
    }
}

async fn ids(agent: &NanoCtrl) -> Vec<String> {
    let entities = agent.entities("rpc").await.unwrap();
    let mut ids: Vec<_> = entities.into_iter().map(|entity| entity.id).collect();
    ids.sort();
    ids
}

/// What a reader of events knows.
struct Follower {
    events: BoxStream<'static, EntityEvent>,
    known: BTreeSet<String>,
}

impl Follower {
    async fn new(agent: &NanoCtrl) -> Self {
        let mut follower = Self {
            events: agent.watch_entities("rpc"),
            known: BTreeSet::new(),
        };
        follower.read().await;
        follower
    }

    async fn read(&mut self) {
        match self.events.next().await.expect("it goes on") {
            EntityEvent::All(all) => self.known = all.into_iter().map(|it| it.id).collect(),
            EntityEvent::Added(it) => drop(self.known.insert(it.id)),
            EntityEvent::Removed { id } => drop(self.known.remove(&id)),
        }
    }

    /// Reads events until exactly these are known.
    async fn until(&mut self, wanted: &[&str]) {
        let reading = async {
            while !self.known.iter().eq(wanted) {
                self.read().await;
            }
        };
        let done = timeout(SOON, reading).await;
        done.unwrap_or_else(|_| panic!("{wanted:?} expected"));
    }
}

#[tokio::test]
async fn an_entity_lives_for_a_minute_after_each_heartbeat_and_clean_up_leaves_nothing() {
    let server = NanoCtrlServer::start();
    let agent = join(&server, "job", "a").await;
    agent.advertise(rpc("a/1")).await.unwrap();
    agent.advertise(rpc("a/2")).await.unwrap();
    let _: bool = server.redis.run(&["EXPIRE", "job:service:a/1", "5"]);
    agent.heartbeat().await.unwrap();
    let left: u64 = server.redis.run(&["TTL", "job:service:a/1"]);
    assert!((50..=60).contains(&left), "{left}");

    agent.clean_up().await.unwrap();
    let keys = server.redis.keys();
    assert!(!keys.iter().any(|key| key.contains("a/")), "{keys:?}");
}

#[tokio::test]
async fn entities_that_the_control_plane_has_forgotten_are_registered_again_by_the_heartbeat() {
    let server = NanoCtrlServer::start();
    let agent = join(&server, "", "a").await;
    for id in ["a/1", "a/2", "a/3"] {
        agent.advertise(rpc(id)).await.unwrap();
    }
    agent.retract("a/3").await.unwrap();
    let _: u64 = server.redis.run(&["DEL", "service:a/2"]);
    agent.heartbeat().await.unwrap();
    assert_eq!(ids(&agent).await, ["a/1", "a/2"]);
    let _: String = server.redis.run(&["FLUSHALL"]);
    agent.heartbeat().await.unwrap();
    assert_eq!(ids(&agent).await, ["a/1", "a/2"]);
}

#[tokio::test]
async fn an_entity_that_could_not_be_registered_is_by_a_later_heartbeat() {
    let mut server = NanoCtrlServer::start();
    let agent = join(&server, "", "a").await;
    server.stop();
    let refused = agent.advertise(rpc("a/1")).await.unwrap_err();
    assert!(
        matches!(refused, ControlError::NanoCtrlUnreachable { .. }),
        "{refused}"
    );
    server.serve();
    agent.heartbeat().await.unwrap();
    assert_eq!(ids(&agent).await, ["a/1"]);
}

#[tokio::test]
async fn an_agent_that_leaves_takes_no_entity_that_another_has_registered_in_its_place() {
    let server = NanoCtrlServer::start();
    let (first, second) = (join(&server, "", "a").await, join(&server, "", "b").await);
    for id in ["shared/1", "shared/2"] {
        first.advertise(rpc(id)).await.unwrap();
        second.advertise(rpc(id)).await.unwrap();
    }
    first.retract("shared/1").await.unwrap();
    first.clean_up().await.unwrap();
    assert_eq!(ids(&second).await, ["shared/1", "shared/2"]);
    second.clean_up().await.unwrap();
    let keys = server.redis.keys();
    assert!(!keys.iter().any(|key| key.contains("shared")), "{keys:?}");
}

#[tokio::test]
async fn without_nanoctrl_clean_up_still_removes_entities() {
    let mut server = NanoCtrlServer::start();
    let agent = join(&server, "", "a").await;
    agent.advertise(rpc("a/1")).await.unwrap();
    server.stop();
    agent.clean_up().await.unwrap_err();
    let keys = server.redis.keys();
    assert!(!keys.contains(&"service:a/1".to_owned()), "{keys:?}");
}

#[tokio::test]
async fn a_server_that_keeps_no_entities_says_so_and_heartbeats_go_on() {
    let server = NanoCtrlServer::start();
    let redis = server.redis.port;
    let old = FakeHttp::start(move |path| match path {
        "/start_peer_agent" => Some((
            200,
            format!(r#"{{"status":"ok","name":"a","redis_address":"127.0.0.1:{redis}"}}"#).into(),
        )),
        "/register" | "/unregister" | "/list_entities" => Some((404, Vec::new())),
        _ => Some((200, br#"{"status":"ok"}"#.to_vec())),
    });
    // This server keeps no agents either; the hash is written in its place.
    let _: u64 = server.redis.run(&["HSET", "agent:a", "addr", ""]);
    let agent = NanoCtrl::new(&old.url(), "").unwrap();
    agent.register(named("a")).await.unwrap();
    let refused = agent.advertise(rpc("a/1")).await.unwrap_err();
    assert!(
        matches!(refused, ControlError::Refused { status: 404, .. }),
        "{refused}"
    );
    agent.heartbeat().await.unwrap();
    agent.clean_up().await.unwrap();
}

#[tokio::test]
async fn entities_of_other_scopes_are_neither_listed_nor_told_of() {
    let server = NanoCtrlServer::start();
    let agents = [
        join(&server, "", "a").await,
        join(&server, "job:1", "a").await,
        join(&server, "job", "a").await,
    ];
    let mut followers = Vec::new();
    for agent in &agents {
        followers.push(Follower::new(agent).await);
    }
    for (agent, id) in agents.iter().zip(["0", "1", "2"]) {
        agent.advertise(rpc(id)).await.unwrap();
    }
    for ((agent, follower), id) in agents.iter().zip(&mut followers).zip(["0", "1", "2"]) {
        assert_eq!(ids(agent).await, [id]);
        follower.until(&[id]).await;
    }
}

#[tokio::test]
async fn whoever_watches_notices_that_an_entity_has_expired() {
    let server = NanoCtrlServer::start();
    let (owner, reader) = (join(&server, "", "a").await, join(&server, "", "b").await);
    owner.advertise(rpc("a/1")).await.unwrap();
    owner.advertise(rpc("a/2")).await.unwrap();
    let mut follower = Follower::new(&reader).await;
    let _: bool = server.redis.run(&["PEXPIRE", "service:a/1", "10"]);
    follower.until(&["a/2"]).await;
}

#[tokio::test]
async fn whoever_watches_notices_events_that_never_came() {
    let server = NanoCtrlServer::start();
    let (owner, reader) = (join(&server, "", "a").await, join(&server, "", "b").await);
    let mut follower = Follower::new(&reader).await;
    // An event that reached nobody: what it would have told of is there all the same.
    let info = r#"{"entity_id":"a/1","kind":"rpc","metadata":{}}"#;
    let _: u64 = server.redis.run(&["HSET", "service:a/1", "info", info]);
    let _: u64 = server
        .redis
        .run(&["SADD", "nanoctrl/entities/", "service:a/1"]);
    let _: u64 = server.redis.run(&["INCR", "nano_meta:service_revision"]);
    follower.until(&["a/1"]).await;
    owner.advertise(rpc("a/2")).await.unwrap();
    follower.until(&["a/1", "a/2"]).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_listed_anew_and_filled_by_heartbeats() {
    let mut server = NanoCtrlServer::start();
    let (owner, reader) = (join(&server, "", "a").await, join(&server, "", "b").await);
    owner.advertise(rpc("a/1")).await.unwrap();
    let mut follower = Follower::new(&reader).await;
    follower.until(&["a/1"]).await;
    server.redis.restart();
    follower.until(&[]).await;
    let deadline = Instant::now() + SOON;
    while let Err(error) = owner.heartbeat().await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(100)).await;
    }
    follower.until(&["a/1"]).await;
    owner.retract("a/1").await.unwrap();
    follower.until(&[]).await;
}

#[tokio::test]
async fn changes_during_an_outage_of_the_subscription_are_seen_after_it() {
    let server = NanoCtrlServer::start();
    let (owner, reader) = (join(&server, "", "a").await, join(&server, "", "b").await);
    owner.advertise(rpc("a/1")).await.unwrap();
    let mut follower = Follower::new(&reader).await;
    let _: u64 = server.redis.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    owner.retract("a/1").await.unwrap();
    owner.advertise(rpc("a/2")).await.unwrap();
    follower.until(&["a/2"]).await;
}

#[tokio::test]
async fn input_1_what_is_no_entity_is_skipped_in_lists_and_events() {
    let server = NanoCtrlServer::start();
    let (owner, reader) = (join(&server, "", "a").await, join(&server, "", "b").await);
    let redis = &server.redis;
    let _: String = redis.run(&["SET", "service:text", "no hash"]);
    for (key, info) in [
        ("service:1", "no json"),
        ("service:2", "[]"),
        ("service:3", r#"{"kind":"rpc"}"#),
        ("service:4", r#"{"kind":"rpc","entity_id":[]}"#),
        ("service:5", &"[".repeat(10_000)),
    ] {
        let _: u64 = redis.run(&["HSET", key, "info", info]);
    }
    owner.advertise(rpc("a/1")).await.unwrap();
    assert_eq!(ids(&reader).await, ["a/1"]);

    let mut follower = Follower::new(&reader).await;
    let long = "x".repeat(1 << 20);
    for message in [
        "",
        "nonsense",
        "{}",
        r#"{"event_type":"ADD","revision":9223372036854775807,"payload":7}"#,
        r#"{"event_type":"REMOVE","revision":1e99,"entity_id":"a/1"}"#,
        r#"{"event_type":"REMOVE","revision":-9,"entity_id":"unknown"}"#,
        &long,
    ] {
        let _: u64 = redis.run(&["PUBLISH", "nano_events:service_update", message]);
    }
    owner.advertise(rpc("a/2")).await.unwrap();
    follower.until(&["a/1", "a/2"]).await;
    let _: String = redis.run(&["SET", "nano_meta:service_revision", "7"]);
    owner.retract("a/1").await.unwrap();
    follower.until(&["a/2"]).await;
}

#[tokio::test]
async fn entities_and_those_who_watch_them_cost_little() {
    let server = NanoCtrlServer::start();
    let owner = NanoCtrl::new(&server.url(), "").unwrap();
    owner.register(named("a")).await.unwrap();
    for number in 0..20 {
        owner.advertise(rpc(&number.to_string())).await.unwrap();
    }
    let mut events = owner.watch_entities("rpc");
    assert!(matches!(events.next().await, Some(EntityEvent::All(all)) if all.len() == 20));
    let reading = tokio::spawn(async move { while events.next().await.is_some() {} });
    sleep(Duration::from_millis(500)).await;

    let before = server.redis.calls();
    sleep(Duration::from_secs(6)).await;
    let watching = server.redis.calls() - before;
    assert!(watching <= 4, "{watching} commands in 6 s of watching");

    let before = server.redis.calls();
    owner.heartbeat().await.unwrap();
    let beat = server.redis.calls() - before;
    // Every 15 s: with 20 entities less than four a second, most of them within two scripts.
    assert!(beat <= 58, "{beat} commands for a heartbeat");
    reading.abort();
}

//! What `NanoCtrl` agents leave in Redis, find there, and do to it.
#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt;
use serde_json::{Value, json};
use slimerpc::control::{Control, ControlError, Entity, Mail, MailEvent, NanoCtrl, Registration};
use support::NanoCtrlServer;
use tokio::time::{Instant, timeout};

/// Longer than anything here takes; a test that reaches it fails.
const SOON: Duration = Duration::from_secs(60);

async fn join(server: &NanoCtrlServer, scope: &str, alias: &str) -> NanoCtrl {
    let agent = NanoCtrl::new(&server.url(), scope).unwrap();
    agent.register(named(alias)).await.unwrap();
    agent
}

fn named(alias: &str) -> Registration {
    Registration {
        alias: Some(alias.to_owned()),
        address: "127.0.0.1".to_owned(),
        resource: Some(json!({"nics": [], "memory_keys": []})),
        ..Registration::default()
    }
}

fn hash(server: &NanoCtrlServer, key: &str) -> HashMap<String, String> {
    server.redis.run(&["HGETALL", key])
}

async fn next_event(agent: &NanoCtrl) -> Option<MailEvent> {
    let mut events = agent.mail();
    let event = timeout(SOON, events.next()).await;
    event.expect("an event comes")
}

fn left(peer: &str) -> Option<MailEvent> {
    let peer = peer.to_owned();
    Some(MailEvent::Left { peer })
}

#[tokio::test]
async fn the_hash_of_an_agent_has_the_fields_that_dlslime_reads() {
    let server = NanoCtrlServer::start();
    let agent = join(&server, "job", "w:0").await;
    agent.publish("b", json!(1)).await.unwrap();
    agent.publish("a", json!(2)).await.unwrap();
    agent.withdraw("c").await.unwrap();

    let hash = hash(&server, "job:agent:w:0");
    assert_eq!(hash["addr"], "127.0.0.1");
    assert_eq!(hash["memory_keys"], r#"["a","b"]"#);
    assert!(hash["updated_at"].parse::<u64>().unwrap() > 1_700_000_000);
    assert_eq!(hash["resource"], hash["topology"]);
    let resource: Value = serde_json::from_str(&hash["resource"]).unwrap();
    assert_eq!(resource["memory_keys"], json!(["a", "b"]));
    let ttl: i64 = server.redis.run(&["TTL", "job:agent:w:0"]);
    assert!((1..=60).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn clean_up_leaves_nothing_of_ours_in_redis() {
    for scope in ["", "job"] {
        let server = NanoCtrlServer::start();
        let agent = join(&server, scope, "w:0").await;
        let peer = join(&server, scope, "p").await;
        agent.publish("ring", json!(1)).await.unwrap();
        agent.set_topology(&["p".to_owned()]).await.unwrap();
        peer.send_mail("w:0", &Mail::new("note")).await.unwrap();
        assert!(server.redis.keys().len() >= 5);
        agent.clean_up().await.unwrap();
        peer.clean_up().await.unwrap();
        assert_eq!(server.redis.keys(), Vec::<String>::new(), "scope `{scope}`");
    }
}

#[tokio::test]
async fn without_nanoctrl_clean_up_still_removes_what_is_ours_and_says_so() {
    let mut server = NanoCtrlServer::start();
    let agent = join(&server, "", "w:0").await;
    agent.publish("ring", json!(1)).await.unwrap();
    agent.set_topology(&["p".to_owned()]).await.unwrap();
    server.stop();
    let error = agent.clean_up().await.unwrap_err();
    assert!(
        matches!(error, ControlError::NanoCtrlUnreachable { .. }),
        "{error}"
    );
    assert_eq!(server.redis.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn a_forgotten_agent_registers_again_and_publishes_everything_anew() {
    let server = NanoCtrlServer::start();
    let agent = join(&server, "", "w:0").await;
    agent.publish("ring", json!({"rkey": 7})).await.unwrap();
    agent.publish("gone", json!(1)).await.unwrap();
    agent.withdraw("gone").await.unwrap();
    agent.set_topology(&["p".to_owned()]).await.unwrap();
    let before = hash(&server, "agent:w:0");

    let _: i64 = server
        .redis
        .run(&["DEL", "agent:w:0", "mr:w:0:ring", "spec:topology:w:0"]);
    agent.heartbeat().await.unwrap();

    let mut after = hash(&server, "agent:w:0");
    after.insert("updated_at".to_owned(), before["updated_at"].clone());
    assert_eq!(after, before);
    let record: String = server.redis.run(&["GET", "mr:w:0:ring"]);
    assert_eq!(record, r#"{"rkey":7}"#);
    let topology: String = server.redis.run(&["GET", "spec:topology:w:0"]);
    assert!(topology.contains(r#""target_peers":["p"]"#), "{topology}");
    assert!(!server.redis.keys().contains(&"mr:w:0:gone".to_owned()));
    agent.heartbeat().await.unwrap();
}

#[tokio::test]
async fn publishing_does_not_resurrect_an_expired_registration() {
    let server = NanoCtrlServer::start();
    let agent = join(&server, "", "w:0").await;
    let _: i64 = server.redis.run(&["DEL", "agent:w:0"]);
    agent.publish("ring", json!(1)).await.unwrap();
    assert!(hash(&server, "agent:w:0").is_empty());
    agent.heartbeat().await.unwrap();
    assert_eq!(hash(&server, "agent:w:0")["memory_keys"], r#"["ring"]"#);
}

#[tokio::test]
async fn fence_1_an_agent_whose_name_another_took_notices_and_leaves_it_alone() {
    let server = NanoCtrlServer::start();
    let first = join(&server, "", "w:0").await;
    first.publish("ring", json!(1)).await.unwrap();
    let _: i64 = server.redis.run(&["DEL", "agent:w:0"]); // As if it had expired.
    let second = join(&server, "", "w:0").await;
    second.publish("ring", json!(2)).await.unwrap();

    let error = first.heartbeat().await.unwrap_err();
    assert!(matches!(error, ControlError::AliasTaken { .. }), "{error}");
    first.clean_up().await.unwrap();
    second.heartbeat().await.unwrap();
    let record: String = server.redis.run(&["GET", "mr:w:0:ring"]);
    assert_eq!(record, "2");
}

#[tokio::test]
async fn two_agents_with_one_alias_are_a_typed_error_for_the_second() {
    let server = NanoCtrlServer::start();
    let _first = join(&server, "", "w:0").await;
    let second = NanoCtrl::new(&server.url(), "").unwrap();
    let error = second.register(named("w:0")).await.unwrap_err();
    assert!(
        matches!(&error, ControlError::AliasTaken { alias, .. } if alias == "w:0"),
        "{error}"
    );
    let elsewhere = NanoCtrl::new(&server.url(), "job").unwrap();
    assert_eq!(elsewhere.register(named("w:0")).await.unwrap(), "w:0");
}

#[tokio::test]
async fn fence_1_an_agent_that_was_away_too_long_overwrites_nothing_of_who_took_its_name() {
    let server = NanoCtrlServer::start();
    let entity = |of: &str| Entity {
        id: "w:0/Calc".to_owned(),
        kind: "k".to_owned(),
        metadata: json!({"of": of}),
    };
    let first = join(&server, "", "w:0").await;
    first.publish("ring", json!(1)).await.unwrap();
    first.set_topology(&["p".to_owned()]).await.unwrap();
    first.advertise(entity("first")).await.unwrap();
    let _: i64 = server.redis.run(&["DEL", "agent:w:0", "service:w:0/Calc"]); // As if expired.
    let second = join(&server, "", "w:0").await;
    second.publish("ring", json!(2)).await.unwrap();
    second.set_topology(&["q".to_owned()]).await.unwrap();
    second.advertise(entity("second")).await.unwrap();

    let peers = ["r".to_owned()];
    let errors = [
        first.publish("ring", json!(3)).await.unwrap_err(),
        first.send_mail("p", &Mail::new("note")).await.unwrap_err(),
        first.set_topology(&peers).await.unwrap_err(),
        first.advertise(entity("first")).await.unwrap_err(),
        first.heartbeat().await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, ControlError::AliasTaken { .. }), "{error}");
    }
    first.withdraw("ring").await.unwrap();
    first.retract("w:0/Calc").await.unwrap();
    // What is another's is not kept alive by us either.
    let _: i64 = server.redis.run(&["EXPIRE", "agent:w:0", "5"]);
    first.heartbeat().await.unwrap_err();
    let ttl: i64 = server.redis.run(&["TTL", "agent:w:0"]);
    assert!(ttl <= 5, "{ttl}");
    first.clean_up().await.unwrap();

    second.heartbeat().await.unwrap();
    let record: String = server.redis.run(&["GET", "mr:w:0:ring"]);
    assert_eq!(record, "2");
    let topology: String = server.redis.run(&["GET", "spec:topology:w:0"]);
    assert!(topology.contains(r#"["q"]"#), "{topology}");
    let entities = second.entities("k").await.unwrap();
    assert_eq!(entities, [entity("second")]);
    assert!(!server.redis.keys().contains(&"stream:p".to_owned()));
}

#[tokio::test]
async fn an_agent_whose_name_is_free_again_has_it_back() {
    let server = NanoCtrlServer::start();
    let first = join(&server, "", "w:0").await;
    first.publish("ring", json!(1)).await.unwrap();
    let _: i64 = server.redis.run(&["DEL", "agent:w:0"]);
    let second = join(&server, "", "w:0").await;
    first.heartbeat().await.unwrap_err();
    second.clean_up().await.unwrap();
    first.heartbeat().await.unwrap();
    assert_eq!(first.lookup("w:0", "ring").await.unwrap(), Some(json!(1)));
    assert!(first.peer("w:0").await.unwrap().is_some());
}

#[tokio::test]
async fn an_agent_without_scope_listens_on_both_inbox_keys() {
    let server = NanoCtrlServer::start();
    let agent = join(&server, "", "w:0").await;
    let mut events = agent.mail();
    for (key, peer) in [("inbox:w:0", "a"), (":inbox:w:0", "b")] {
        let event = format!(r#"{{"peer":"{peer}","type":"cleanup"}}"#);
        let _: i64 = server.redis.run(&["LPUSH", key, &event]);
        let event = timeout(SOON, events.next()).await.unwrap();
        assert_eq!(event, left(peer));
    }
}

#[tokio::test]
async fn input_1_malformed_messages_are_skipped() {
    let server = NanoCtrlServer::start();
    let agent = join(&server, "", "w:0").await;
    let redis = &server.redis;
    let long = "x".repeat((1 << 20) + 1);
    for fields in [["peer", "a"], ["type\u{0}", "qp_ready"], ["type", &long]] {
        let _: String = redis.run(&["XADD", "stream:w:0", "*", fields[0], fields[1]]);
    }
    let client = redis::Client::open(redis.url()).unwrap();
    let mut add = redis::cmd("XADD");
    add.arg("stream:w:0")
        .arg("*")
        .arg("type")
        .arg(&[0xff_u8, 0xfe][..]);
    add.exec(&mut client.get_connection().unwrap()).unwrap();
    for element in [
        "",
        "{",
        "[]",
        r#"{"type":"cleanup"}"#,
        r#"{"type":"x","peer":"a"}"#,
        &long,
    ] {
        let _: i64 = redis.run(&["RPUSH", "inbox:w:0", element]);
    }
    let mail = Mail::new("qp_ready").with("peer", "b");
    agent.send_mail("w:0", &mail).await.unwrap();
    let _: i64 = redis.run(&["RPUSH", "inbox:w:0", r#"{"type":"cleanup","peer":"b"}"#]);

    let events: Vec<MailEvent> = timeout(SOON, agent.mail().take(2).collect()).await.unwrap();
    assert!(events.contains(&MailEvent::Mail(mail)), "{events:?}");
    assert!(events.contains(&left("b").unwrap()), "{events:?}");
}

#[tokio::test]
async fn input_1_records_that_are_no_records_are_errors() {
    let server = NanoCtrlServer::start();
    let agent = join(&server, "", "w:0").await;
    let _: String = server.redis.run(&["SET", "mr:p:text", "{"]);
    let _: String = server
        .redis
        .run(&["SET", "mr:p:long", &"1".repeat((1 << 20) + 1)]);
    let _: i64 = server.redis.run(&["LPUSH", "mr:p:list", "1"]);
    for name in ["text", "long", "list"] {
        let error = agent.lookup("p", name).await.unwrap_err();
        assert!(
            matches!(error, ControlError::Malformed { .. }),
            "{name}: {error}"
        );
    }
    let _: String = server.redis.run(&["SET", "agent:p", "not a hash"]);
    let error = agent.peer("p").await.unwrap_err();
    assert!(matches!(error, ControlError::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn registering_deletes_what_an_earlier_life_left_and_nothing_of_others() {
    let server = NanoCtrlServer::start();
    let redis = &server.redis;
    let longer = join(&server, "", "w:0").await;
    longer.publish("ring", json!(1)).await.unwrap();
    let stale = ["mr:w:ring", "mr:w:ring:rxe0:1:RoCE"];
    let others = ["mr:ww:ring", "mr:w:8:ring", "exchange:w:p"];
    for key in stale.iter().chain(&others) {
        let _: String = redis.run(&["SET", key, "{}"]);
    }
    let foreign = r#"{"agent_name":"w:7","mr_name":"ring"}"#;
    let _: String = redis.run(&["SET", "mr:w:7:ring", foreign]);
    for inbox in ["inbox:w", ":inbox:w"] {
        let event = r#"{"peer":"old","type":"cleanup"}"#;
        let _: i64 = redis.run(&["LPUSH", inbox, event]);
    }
    let _: String = redis.run(&["XADD", "stream:w", "*", "type", "qp_ready", "peer", "early"]);
    let _: i64 = redis.run(&["LPUSH", "mr:w:odd", "a list, not a record"]);
    for key in stale
        .iter()
        .chain(&["mr:w:odd", "mr:w:7:ring", "mr:w:gone"])
    {
        let _: i64 = redis.run(&["SADD", "nanoctrl/records//w", key]);
    }

    let agent = join(&server, "", "w").await;
    let keys = redis.keys();
    for key in stale.iter().chain(&["inbox:w", ":inbox:w", "mr:w:odd"]) {
        assert!(!keys.contains(&(*key).to_owned()), "{key} is stale");
    }
    for key in others
        .iter()
        .chain(&["mr:w:0:ring", "mr:w:7:ring", "stream:w"])
    {
        assert!(
            keys.contains(&(*key).to_owned()),
            "{key} is not ours, or waits for us"
        );
    }
    let early = Mail::new("qp_ready").with("peer", "early");
    assert_eq!(next_event(&agent).await, Some(MailEvent::Mail(early)));
}

#[tokio::test]
async fn an_agent_that_leaves_or_comes_back_takes_nothing_of_one_whose_name_begins_with_its_own() {
    for scope in ["", "job"] {
        let server = NanoCtrlServer::start();
        let longer = join(&server, scope, "worker:0").await;
        longer.publish("ring", json!(1)).await.unwrap();
        longer.publish("0:ring", json!(2)).await.unwrap();
        let shorter = join(&server, scope, "worker").await;
        shorter.publish("ring", json!(3)).await.unwrap();
        shorter.clean_up().await.unwrap();

        let killed = join(&server, scope, "worker").await;
        killed.publish("ring", json!(4)).await.unwrap();
        let agent = if scope.is_empty() {
            "agent:worker"
        } else {
            "job:agent:worker"
        };
        let _: i64 = server.redis.run(&["DEL", agent]); // As if it had expired.
        let restarted = join(&server, scope, "worker").await;
        restarted.clean_up().await.unwrap();

        let peer = join(&server, scope, "peer").await;
        for (name, record) in [("ring", 1), ("0:ring", 2)] {
            let found = peer.lookup("worker:0", name).await.unwrap();
            assert_eq!(found, Some(json!(record)), "{name} in `{scope}`");
        }
        assert_eq!(peer.lookup("worker", "ring").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_record_does_not_replace_that_of_another_agent_whose_key_is_the_same() {
    let server = NanoCtrlServer::start();
    let (first, second) = (join(&server, "", "w").await, join(&server, "", "w:0").await);
    first.publish("0:kv", json!(1)).await.unwrap();
    let error = second.publish("kv", json!(2)).await.unwrap_err();
    assert!(
        matches!(&error, ControlError::RecordTaken { key } if key == "mr:w:0:kv"),
        "{error}"
    );
    second.publish("other", json!(3)).await.unwrap();
    second.heartbeat().await.unwrap();
    second.clean_up().await.unwrap();
    assert_eq!(first.lookup("w", "0:kv").await.unwrap(), Some(json!(1)));

    first.clean_up().await.unwrap();
    let third = join(&server, "", "w:0").await;
    third.publish("kv", json!(4)).await.unwrap();
    assert_eq!(third.lookup("w:0", "kv").await.unwrap(), Some(json!(4)));
}

#[tokio::test]
async fn a_record_that_another_has_taken_meanwhile_is_left_to_it() {
    let server = NanoCtrlServer::start();
    let first = join(&server, "", "w").await;
    first.publish("0:kv", json!(1)).await.unwrap();
    first.publish("other", json!(2)).await.unwrap();
    let _: String = server.redis.run(&["FLUSHALL"]);
    let second = join(&server, "", "w:0").await;
    second.publish("kv", json!(3)).await.unwrap();

    first.heartbeat().await.unwrap();
    assert_eq!(first.lookup("w", "other").await.unwrap(), Some(json!(2)));
    assert_eq!(second.lookup("w:0", "kv").await.unwrap(), Some(json!(3)));
    first.clean_up().await.unwrap();
    assert_eq!(second.lookup("w:0", "kv").await.unwrap(), Some(json!(3)));
}

/// An agent's registration as a process of this host has left it that has ended since.
async fn leave_behind(server: &NanoCtrlServer, alias: &str) {
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let topology = slimerpc::control::topology::Topology::default();
    let mut described = topology.to_json("");
    described["slime"]["pid"] = ended.id().into();
    let dead = NanoCtrl::new(&server.url(), "").unwrap();
    let registration = Registration {
        resource: Some(described),
        ..named(alias)
    };
    dead.register(registration).await.unwrap();
    std::mem::forget(dead); // It does not leave.
}

/// As one process of this host.
fn alive(alias: &str) -> Registration {
    let topology = slimerpc::control::topology::Topology::default();
    Registration {
        resource: Some(topology.to_json("")),
        ..named(alias)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fence_1_of_many_who_wait_for_the_alias_of_a_dead_agent_one_has_it_and_keeps_it() {
    let server = NanoCtrlServer::start();
    for round in 0..10 {
        let alias = format!("w:{round}");
        leave_behind(&server, &alias).await;
        let waiting = (0..6).map(|_| {
            let agent = NanoCtrl::new(&server.url(), "").unwrap();
            let registration = alive(&alias);
            tokio::spawn(async move { agent.register(registration).await.map(|_| agent) })
        });
        let mut winners = Vec::new();
        for waited in futures_util::future::join_all(waiting).await {
            match waited.unwrap() {
                Ok(agent) => winners.push(agent),
                Err(error) => assert!(matches!(error, ControlError::AliasTaken { .. }), "{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "in round {round}");
        winners[0].heartbeat().await.unwrap();
        winners[0].clean_up().await.unwrap();
    }
}

#[tokio::test]
async fn fence_1_a_life_of_an_agent_that_is_over_removes_nothing_of_the_next() {
    let server = NanoCtrlServer::start();
    let post = |path: &str, body: Value| {
        let address = ([127, 0, 0, 1], server.port).into();
        crate::nanoctrl::http::post(address, path, &body.to_string()).status
    };
    let agent = join(&server, "", "w:0").await;
    agent.publish("ring", json!(1)).await.unwrap();
    let entity = Entity {
        id: "w:0/Calc".to_owned(),
        kind: "k".to_owned(),
        metadata: json!({}),
    };
    agent.advertise(entity).await.unwrap();
    let life = hash(&server, "agent:w:0")["incarnation"].clone();
    let removal = |life: &str| json!({"entity_id": "w:0/Calc", "incarnation": life});
    assert_eq!(post("/unregister", removal("earlier")), 200);
    assert_eq!(agent.entities("k").await.unwrap().len(), 1);
    assert_eq!(post("/unregister", removal(&life)), 200);
    assert_eq!(agent.entities("k").await.unwrap().len(), 0);

    let cleanup = |life: &str| json!({"agent_name": "w:0", "incarnation": life});
    assert_eq!(post("/cleanup", cleanup("earlier")), 409);
    assert_eq!(agent.lookup("w:0", "ring").await.unwrap(), Some(json!(1)));
    assert_eq!(post("/cleanup", cleanup(&life)), 200);
    assert!(hash(&server, "agent:w:0").is_empty());

    // A name that nobody has is cleaned up by whoever asks; one without a life, or without saying
    // which, too.
    assert_eq!(post("/cleanup", cleanup("earlier")), 200);
    let foreign = json!({"address": "127.0.0.1", "alias": "w:0"});
    assert_eq!(post("/start_peer_agent", foreign), 200);
    assert_eq!(post("/cleanup", cleanup("earlier")), 409);
    assert_eq!(post("/cleanup", json!({"agent_name": "w:0"})), 200);
    assert!(hash(&server, "agent:w:0").is_empty());
}

#[tokio::test]
async fn the_life_of_an_agent_is_known_as_soon_as_it_is_registered() {
    let server = NanoCtrlServer::start();
    let address = ([127, 0, 0, 1], server.port).into();
    let body = json!({"address": "127.0.0.1", "alias": "w:0", "incarnation": "7-x"});
    let post = |path: &str, body: &Value| {
        crate::nanoctrl::http::post(address, path, &body.to_string()).json()
    };
    assert_eq!(post("/start_peer_agent", &body)["name"], "w:0");
    assert_eq!(hash(&server, "agent:w:0")["incarnation"], "7-x");
    assert_eq!(post("/query", &json!({}))[0]["incarnation"], "7-x");
}

/// An agent with one of everything that an agent can have in Redis.
async fn settled(server: &NanoCtrlServer, scope: &str, alias: &str) -> NanoCtrl {
    let agent = join(server, scope, alias).await;
    agent.publish("slimerpc", json!({"a": 1})).await.unwrap();
    agent.publish("kv", json!({"rkey": 7})).await.unwrap();
    agent.set_topology(&["p".to_owned()]).await.unwrap();
    let entity = Entity {
        id: format!("{alias}/Calc"),
        kind: "k".to_owned(),
        metadata: json!({}),
    };
    agent.advertise(entity).await.unwrap();
    agent
}

#[tokio::test]
async fn whatever_redis_has_lost_of_an_agent_is_back_after_a_heartbeat() {
    for scope in ["", "job"] {
        let server = NanoCtrlServer::start();
        let agent = settled(&server, scope, "w:0").await;
        let keys = server.redis.keys();
        let passing = ["stream:", "nano_meta:"];
        let lasting = keys
            .iter()
            .filter(|key| !passing.iter().any(|it| key.contains(it)));
        let lasting: Vec<_> = lasting.cloned().collect();
        assert!(lasting.len() >= 9, "{lasting:?}");
        for key in &lasting {
            let _: i64 = server.redis.run(&["DEL", key]);
            agent.heartbeat().await.unwrap();
            let keys = server.redis.keys();
            assert!(keys.contains(key), "{key} is not back: {keys:?}");
        }
        for names in lasting.windows(3) {
            let _: i64 = server.redis.run(&["DEL", &names[0], &names[1], &names[2]]);
            agent.heartbeat().await.unwrap();
            let keys = server.redis.keys();
            assert!(
                names.iter().all(|key| keys.contains(key)),
                "{names:?}: {keys:?}"
            );
        }
        agent.withdraw("kv").await.unwrap();
        agent.heartbeat().await.unwrap();
        assert_eq!(agent.lookup("w:0", "kv").await.unwrap(), None);
        agent.send_mail("w:0", &Mail::new("note")).await.unwrap();
        assert!(matches!(next_event(&agent).await, Some(MailEvent::Mail(_))));
    }
}

#[tokio::test]
async fn nothing_of_an_agent_that_was_killed_stays() {
    let server = NanoCtrlServer::start();
    let mut agents = Vec::new();
    for number in 0..12 {
        let agent = settled(&server, "job", &format!("w:{number}")).await;
        agent.send_mail("w:0", &Mail::new("note")).await.unwrap();
        agents.push(agent);
    }
    // An agent that is told of one that left, and does not read it any more.
    let leaver = join(&server, "job", "p").await;
    leaver.clean_up().await.unwrap();
    let assert_all_leased = |longest: i64| {
        for key in server.redis.keys() {
            let left: i64 = server.redis.run(&["TTL", &key]);
            assert!((0..=longest).contains(&left), "{key} lives for {left} s");
        }
    };
    assert!(server.redis.keys().len() > 60);
    assert_all_leased(60);
    // Heartbeats renew leases and lengthen none.
    for agent in &agents {
        agent.heartbeat().await.unwrap();
    }
    assert_all_leased(60);
    // Mail for one that is not there yet waits for longer.
    agents[0]
        .send_mail("late", &Mail::new("note"))
        .await
        .unwrap();
    assert_all_leased(600);
    let left: i64 = server.redis.run(&["TTL", "job:stream:late"]);
    assert!(left > 60, "{left}");
    let late = join(&server, "job", "late").await;
    late.heartbeat().await.unwrap();
    assert_all_leased(60);
}

#[tokio::test]
async fn an_agent_never_looks_through_keys_of_others() {
    let server = NanoCtrlServer::start();
    server.redis.populate(300_000);
    let peer = settled(&server, "", "p").await;
    let agent = settled(&server, "", "w:0").await;
    agent.send_mail("p", &Mail::new("note")).await.unwrap();
    agent.heartbeat().await.unwrap();
    assert!(agent.peer("p").await.unwrap().is_some());
    assert_eq!(agent.entities("k").await.unwrap().len(), 2);
    assert_eq!(agent.list_agents().await.unwrap().len(), 2);
    agent.clean_up().await.unwrap();
    peer.clean_up().await.unwrap();
    assert_eq!(server.redis.looks_through_keys(), Vec::<String>::new());
}

#[tokio::test]
async fn an_agent_warns_of_a_redis_that_may_remove_its_keys() {
    let server = NanoCtrlServer::start();
    for (user, commands) in [
        ("all", "+@all"),
        ("config", "-info"),
        ("none", "-info -config"),
    ] {
        let mut words = vec!["ACL", "SETUSER", user, "on", ">x", "~*", "&*", "+@all"];
        words.extend(commands.split(' '));
        let _: String = server.redis.run(&words);
    }
    for (policy, user, is_told) in [
        ("noeviction", "all", false),
        ("allkeys-lru", "all", true),
        ("volatile-ttl", "config", true),
        ("allkeys-lru", "none", false),
    ] {
        let _: String = server
            .redis
            .run(&["CONFIG", "SET", "maxmemory-policy", policy]);
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let agent = NanoCtrl::new(&server.url(), "").unwrap();
        let agent = agent.redis(format!("redis://{user}:x@")).unwrap();
        agent.register(named("w:0")).await.unwrap();
        agent.clean_up().await.unwrap();
        let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let is_warned = said.contains("maxmemory-policy") && said.contains(policy);
        assert_eq!(is_warned, is_told, "{policy} {user}: {said}");
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_idle_pair_costs_less_than_one_redis_command_a_second_and_agent() {
    let server = NanoCtrlServer::start();
    let pair = [join(&server, "", "a").await, join(&server, "", "b").await];
    let mut streams = pair.each_ref().map(NanoCtrl::mail);
    let [a, b] = &mut streams;
    let window = Duration::from_secs(6);
    // The first reads connect; let that pass.
    let _ = timeout(
        Duration::from_millis(500),
        futures_util::future::join(a.next(), b.next()),
    )
    .await;
    let (before, start) = (server.redis.calls(), Instant::now());
    let quiet = timeout(window, futures_util::future::join(a.next(), b.next())).await;
    assert!(quiet.is_err(), "nothing is sent");
    let calls = server.redis.calls() - before;
    let per_second = calls as f64 / start.elapsed().as_secs_f64();
    println!("an idle pair costs {per_second:.2} Redis commands a second");
    assert!(per_second < 2.0, "{per_second:.2} commands a second");
}

#[tokio::test]
async fn mail_does_not_wait_for_the_polling_interval() {
    let server = NanoCtrlServer::start();
    let agent = join(&server, "", "a").await;
    let mut events = agent.mail();
    let sender = async {
        server.redis.blocks_somebody().await;
        let sent = Instant::now();
        agent.send_mail("a", &Mail::new("note")).await.unwrap();
        sent
    };
    let (event, sent) = tokio::join!(timeout(SOON, events.next()), sender);
    assert_eq!(event.unwrap(), Some(MailEvent::Mail(Mail::new("note"))));
    assert!(sent.elapsed() < Duration::from_secs(4));
}

//! The NanoCtrl server over HTTP, in front of a real Redis.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufReader, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::nanoctrl::fixture::Fixture;
use crate::nanoctrl::http;
use crate::nanoctrl::table::{self, Player};
use serde_json::{Value, json};
use slimerpc::nanoctrl::{Config, RedisSource};
use support::Redis;

const JSON: Option<&str> = Some("application/json");

fn play(table: &str) {
    let fixture = Fixture::new();
    let mut player = Player::new(&fixture);
    for case in table::parse(table) {
        player.play(&case);
    }
    fixture.stop();
}

#[test]
fn requests_are_answered_as_the_original_answers_them() {
    play(include_str!("nanoctrl/requests.txt"));
}

#[test]
fn odd_requests_are_answered_and_harm_nobody() {
    play(include_str!("nanoctrl/odd_requests.txt"));
}

#[test]
fn a_body_may_have_two_mebibytes_and_no_more() {
    let fixture = Fixture::new();
    let body = |length: usize| {
        let frame = r#"{"entity_id":"big","kind":"k","metadata":""}"#.len();
        let filling = "x".repeat(length - frame);
        format!(r#"{{"entity_id":"big","kind":"k","metadata":"{filling}"}}"#)
    };
    assert_eq!(fixture.post("/register", &body(2_097_152)).status, 200);

    let answer = fixture.post("/register", &body(2_097_153));
    assert_eq!(answer.status, 413);
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(
        answer.body,
        "Failed to buffer the request body: length limit exceeded"
    );
}

#[test]
fn a_chunked_body_is_limited_too() {
    let fixture = Fixture::new();
    let mut stream = http::connect(fixture.address());
    let head = "POST /query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = [b"100000\r\n", vec![b' '; 0x10_0000].as_slice(), b"\r\n"].concat();
    for _ in 0..3 {
        let _ = stream.write_all(&chunk);
    }
    let _ = stream.write_all(b"0\r\n\r\n");
    assert_eq!(
        http::receive(&mut BufReader::new(stream), "POST").status,
        413
    );
}

#[test]
fn a_connection_serves_many_requests() {
    let fixture = Fixture::new();
    let mut stream = http::connect(fixture.address());
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for _ in 0..3 {
        for (body, status) in [("{}", 200), ("{bad", 400), (r#"{"scope":1}"#, 422)] {
            http::send(&mut stream, "POST", "/query", JSON, body.as_bytes());
            assert_eq!(http::receive(&mut reader, "POST").status, status);
        }
        http::send(&mut stream, "GET", "/nope", None, b"");
        assert_eq!(http::receive(&mut reader, "GET").status, 404);
    }
}

#[test]
fn of_many_who_want_a_name_one_gets_it() {
    let fixture = Fixture::new();
    let address = fixture.address();
    let body = r#"{"address":"127.0.0.1","alias":"w"}"#;
    let contenders: Vec<_> = (0..16)
        .map(|_| thread::spawn(move || http::post(address, "/start_peer_agent", body).status))
        .collect();
    let mut answers: Vec<u16> = contenders.into_iter().map(|t| t.join().unwrap()).collect();
    answers.sort_unstable();
    assert_eq!(answers[0], 200);
    assert!(answers[1..].iter().all(|&status| status == 409));
}

#[test]
fn generated_names_are_all_different() {
    let fixture = Fixture::new();
    let address = fixture.address();
    let contenders: Vec<_> = (0..20)
        .map(|_| {
            thread::spawn(move || {
                let answer = http::post(address, "/start_peer_agent", r#"{"address":"127.0.0.1"}"#);
                answer.json()["name"].as_str().unwrap().to_owned()
            })
        })
        .collect();
    let names: BTreeSet<String> = contenders.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(names.len(), 20);
    assert!(names.contains("agent-14"), "{names:?}");
}

#[test]
fn declarations_at_the_same_time_lose_no_peer() {
    let fixture = Fixture::new();
    let address = fixture.address();
    let contenders: Vec<_> = (0..12)
        .map(|i| {
            thread::spawn(move || {
                let path = format!("/v1/desired_topology/w{i}");
                let body = r#"{"target_peers":["hub"],"symmetric":true}"#;
                http::post(address, &path, body).status
            })
        })
        .collect();
    for contender in contenders {
        assert_eq!(contender.join().unwrap(), 200);
    }
    let spec: String = fixture.redis(&["GET", "spec:topology:hub"]);
    let spec: Value = serde_json::from_str(&spec).unwrap();
    assert_eq!(spec["target_peers"].as_array().unwrap().len(), 12);
    assert_eq!(fixture.redis::<usize>(&["XLEN", "stream:hub"]), 12);
}

#[test]
fn a_stream_does_not_grow_without_end() {
    let fixture = Fixture::new();
    let targets: Vec<String> = (0..5000).map(|i| format!("w{i}")).collect();
    let body = json!({ "target_peers": targets }).to_string();
    let answer = fixture.post("/v1/desired_topology/hub", &body);
    assert_eq!(answer.status, 200);
    let length: usize = fixture.redis(&["XLEN", "stream:hub"]);
    assert!((1000..1200).contains(&length), "{length}");
}

#[test]
fn an_inbox_that_nobody_reads_does_not_grow_without_end() {
    let fixture = Fixture::new();
    fixture.post("/v1/desired_topology/a", r#"{"target_peers":["b"]}"#);
    let event = "x".to_owned();
    let old: Vec<&str> = std::iter::repeat_n(event.as_str(), 2000).collect();
    fixture.redis::<()>(&[&["RPUSH", "inbox:b"], old.as_slice()].concat());
    fixture.post("/cleanup", r#"{"agent_name":"a"}"#);
    assert_eq!(fixture.redis::<usize>(&["LLEN", "inbox:b"]), 1024);
    let newest: String = fixture.redis(&["LPOP", "inbox:b"]);
    assert_eq!(newest, r#"{"peer":"a","type":"cleanup"}"#);
}

#[test]
fn many_agents_are_listed_and_cleaned_up() {
    let fixture = Fixture::new();
    let mut redis = fixture.redis.connect();
    let mut pipe = redis::pipe();
    for i in 0..3000 {
        pipe.hset(format!("agent:w{i}"), "addr", "h").ignore();
        pipe.sadd("nanoctrl/agents/", format!("w{i}")).ignore();
        pipe.set(format!("mr:hub:{i}"), "{}").ignore();
        let record = format!("mr:hub:{i}");
        pipe.sadd("nanoctrl/records//hub", record).ignore();
        let spec = r#"{"target_peers":["hub"]}"#;
        pipe.set(format!("spec:topology:w{i}"), spec).ignore();
    }
    pipe.exec(&mut redis).unwrap();
    let agents = fixture.post("/query", "{}").json();
    assert_eq!(agents.as_array().unwrap().len(), 3000);
    let one = fixture.post("/query", r#"{"name":"w7"}"#).json();
    assert_eq!(one.as_array().unwrap().len(), 1);
    assert_eq!(one[0]["name"], "w7");
    assert_eq!(fixture.post("/query", r#"{"name":"x"}"#).body, "[]");

    // Where it takes longer than a request may, clients ask again.
    let clean_up = || fixture.post("/cleanup", r#"{"agent_name":"hub"}"#).status;
    let status = std::iter::repeat_with(clean_up).take(10);
    assert_eq!(status.into_iter().find(|status| *status != 503), Some(200));
    let told: Vec<String> = fixture.redis(&["KEYS", "inbox:*"]);
    assert_eq!(told.len(), 3000);
    let regions: Vec<String> = fixture.redis(&["KEYS", "mr:*"]);
    assert!(regions.is_empty());
}

#[test]
fn input_1_no_bytes_over_http_stop_the_server() {
    let fixture = Fixture::new();
    let samples: [&[u8]; 8] = [
        b"\0\xff\xfe\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /query HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /query HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /query HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"POST /query HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n{\xff\xff}",
        b"POST /v1/desired_topology/%00%ff%zz HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /query HTTP/1.1\r\nContent-Type: \xff\r\nContent-Length: 2\r\n\r\n{}",
    ];
    for sample in samples {
        let mut stream = http::connect(fixture.address());
        stream.write_all(sample).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.starts_with("HTTP/1.1 5"), "{text}");
    }
    assert_eq!(fixture.post("/query", "{}").body, "[]");
}

#[test]
fn input_1_no_bytes_in_redis_stop_the_server() {
    let fixture = Fixture::new();
    let mut redis = fixture.redis.connect();
    let junk: &[u8] = b"\xff\0{[";
    let mut pipe = redis::pipe();
    for field in ["addr", "device", "ib_port", "resource", "memory_keys"] {
        pipe.hset("agent:w", field, junk).ignore();
    }
    pipe.hset(b"agent:\xff", "addr", "h").ignore();
    for index in ["agents", "topologies"] {
        let names: [&[u8]; 4] = [b"w", b"x", b"y", b"\xff"];
        pipe.sadd(format!("nanoctrl/{index}/"), &names).ignore();
    }
    let entities: [&[u8]; 2] = [b"service:e", b"\xff"];
    pipe.sadd("nanoctrl/entities/", &entities).ignore();
    let records: [&[u8]; 2] = [b"mr:w:n", b"\xff"];
    pipe.sadd("nanoctrl/records//w", &records).ignore();
    pipe.sadd("nanoctrl/scopes", &[b"".as_slice(), b"\xff", b"%ff"])
        .ignore();
    pipe.hset("service:e", "info", junk).ignore();
    pipe.set("mr:w:n", junk).ignore();
    pipe.set("spec:topology:w", junk).ignore();
    pipe.set(b"spec:topology:\xff", r#"{"target_peers":["w"]}"#)
        .ignore();
    pipe.set("spec:topology:x", r#"{"target_peers":7}"#)
        .ignore();
    pipe.rpush("spec:topology:y", "z").ignore();
    pipe.exec(&mut redis).unwrap();

    let agents = fixture.post("/query", "{}").json();
    assert_eq!(agents[0]["ib_port"], 1);
    assert_eq!(agents[0]["resource"], Value::Null);
    assert_eq!(agents[0]["memory_keys"], json!([]));
    assert_eq!(agents.as_array().unwrap().len(), 2);
    for (path, body, status) in [
        ("/list_entities", "{}", 200),
        ("/list_scopes", "{}", 200),
        ("/get_entity_info", r#"{"entity_id":"e"}"#, 200),
        (
            "/heartbeat",
            r#"{"entity_type":"agent","entity_id":"w"}"#,
            200,
        ),
        ("/get_mr_info", r#"{"src":"","dst":"w","mr_name":"n"}"#, 200),
        (
            "/v1/desired_topology/a",
            r#"{"target_peers":["w","x"],"symmetric":true}"#,
            200,
        ),
        (
            "/v1/desired_topology/a",
            r#"{"target_peers":["y"],"symmetric":true}"#,
            500,
        ),
        ("/cleanup", r#"{"agent_name":"w"}"#, 200),
    ] {
        assert_eq!(fixture.post(path, body).status, status, "{path} {body}");
    }
}

#[test]
fn a_refused_request_changes_nothing() {
    let fixture = Fixture::new();
    fixture.redis::<()>(&["SET", "stream:b", "not a stream"]);
    fixture.redis::<()>(&["SET", "service:e", "not a hash"]);
    let topology = r#"{"target_peers":["b"],"symmetric":true}"#;
    for (path, body) in [
        ("/v1/desired_topology/a", topology),
        ("/register", r#"{"entity_id":"e","kind":"k"}"#),
    ] {
        let answer = fixture.post(path, body);
        assert_eq!(answer.status, 500);
        assert_eq!(
            answer.body,
            r#"{"message":"Redis: WRONGTYPE: Operation against a key holding the wrong kind of value","status":"error"}"#
        );
    }
    let mut keys: Vec<String> = fixture.redis(&["KEYS", "*"]);
    keys.sort();
    assert_eq!(keys, ["service:e", "stream:b"]);
}

#[test]
fn without_redis_requests_fail_at_once_and_succeed_when_it_is_back() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.post("/query", "{}").status, 200);

    fixture.redis.stop();
    for _ in 0..3 {
        let asked = Instant::now();
        let answer = fixture.post("/query", "{}");
        assert_eq!(answer.status, 500);
        assert!(answer.body.starts_with(r#"{"message":"Redis: "#));
        assert!(answer.body.ends_with(r#"","status":"error"}"#));
        assert!(asked.elapsed() < Duration::from_secs(3));
    }
    assert_eq!(
        http::request(fixture.address(), "GET", "/", None, b"").status,
        200
    );

    fixture.redis.restart();
    assert_eq!(fixture.post("/query", "{}").body, "[]");
}

#[test]
fn after_a_restart_of_redis_no_request_fails() {
    let mut fixture = Fixture::new();
    let body = r#"{"address":"127.0.0.1","alias":"w"}"#;
    assert_eq!(fixture.post("/start_peer_agent", body).status, 200);
    fixture.redis.restart();
    assert_eq!(fixture.post("/start_peer_agent", body).status, 200);
}

#[test]
fn a_redis_that_does_not_answer_holds_up_no_request_for_long() {
    let fixture = Fixture::new();
    fixture.redis.suspend();
    let asked = Instant::now();
    let answer = fixture.post("/query", "{}");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(
        answer.body,
        r#"{"message":"Redis: no answer in time","status":"error"}"#
    );
    assert!(asked.elapsed() < Duration::from_secs(8));
    fixture.redis.resume();
    let deadline = Instant::now() + Duration::from_secs(5);
    while fixture.post("/query", "{}").status != 200 {
        assert!(Instant::now() < deadline, "the server does not heal");
    }
}

#[test]
fn keys_of_others_are_never_looked_through() {
    let fixture = Fixture::new();
    fixture.redis.populate(300_000);
    for (path, body) in [
        ("/start_peer_agent", r#"{"address":"h","alias":"a"}"#),
        ("/start_peer_agent", r#"{"address":"h"}"#),
        ("/register", r#"{"entity_id":"e","kind":"k"}"#),
        (
            "/register_mr",
            r#"{"agent_name":"a","mr_name":"n","addr":1,"length":2,"rkey":3}"#,
        ),
        (
            "/v1/desired_topology/a",
            r#"{"target_peers":["b"],"symmetric":true}"#,
        ),
        ("/heartbeat", r#"{"entity_type":"agent","entity_id":"a"}"#),
        ("/query", "{}"),
        ("/list_entities", "{}"),
        ("/list_entities", r#"{"entity_type":"service"}"#),
        ("/list_scopes", "{}"),
        ("/cleanup", r#"{"agent_name":"a"}"#),
        ("/unregister", r#"{"entity_id":"e"}"#),
    ] {
        let answer = fixture.post(path, body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    let agents = fixture.post("/query", "{}").json();
    assert_eq!(agents[0]["name"], "agent-1");
    assert_eq!(fixture.redis.looks_through_keys(), Vec::<String>::new());
}

/// Every key has a time to live, which is at most so many seconds.
fn assert_all_leased(redis: &Redis, longest: i64) {
    for key in redis.keys() {
        let left: i64 = redis.run(&["TTL", &key]);
        assert!((0..=longest).contains(&left), "{key} lives for {left} s");
    }
}

#[test]
fn whatever_is_registered_has_a_lease() {
    let fixture = Fixture::new();
    let posts = |requests: &[(&str, &str)]| {
        for (path, body) in requests {
            assert_eq!(fixture.post(path, body).status, 200, "{path}");
        }
    };
    posts(&[
        ("/start_peer_agent", r#"{"address":"h","scope":"job"}"#),
        ("/start_peer_agent", r#"{"address":"h","alias":"py"}"#),
        ("/register", r#"{"entity_id":"e","kind":"k"}"#),
        ("/unregister", r#"{"entity_id":"e","entity_type":"none"}"#),
        (
            "/register_mr",
            r#"{"agent_name":"py","mr_name":"n","addr":1,"length":2,"rkey":3}"#,
        ),
        (
            "/v1/desired_topology/py",
            r#"{"target_peers":["late"],"symmetric":true}"#,
        ),
    ]);
    assert_all_leased(&fixture.redis, 3600);

    // What an agent of DLSlime has written itself gets a lease with its heartbeat.
    let redis = &fixture.redis;
    redis.run::<()>(&["SET", "mr:py:kv", "{}"]);
    redis.run::<()>(&["SET", "mr:py:kv:rxe0:1:RoCE", "{}"]);
    redis.run::<()>(&["PERSIST", "stream:py"]);
    let resource = r#"{"nics":[{"name":"rxe0","ports":[{"port":1,"link_type":"RoCE"}]}]}"#;
    redis.run::<()>(&[
        "HSET",
        "agent:py",
        "memory_keys",
        r#"["kv"]"#,
        "resource",
        resource,
    ]);
    posts(&[
        ("/heartbeat", r#"{"entity_type":"agent","entity_id":"py"}"#),
        ("/v1/desired_topology/x", r#"{"target_peers":["py"]}"#),
        ("/cleanup", r#"{"agent_name":"x"}"#),
    ]);
    assert_all_leased(redis, 3600);
    let record: i64 = redis.run(&["TTL", "mr:py:kv:rxe0:1:RoCE"]);
    assert!(record > 3000, "it is not published again: {record} s");

    // And goes with it.
    posts(&[("/cleanup", r#"{"agent_name":"py"}"#)]);
    let left: Vec<String> = redis.run(&["KEYS", "*py*"]);
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn what_has_expired_disappears_from_the_indexes() {
    let fixture = Fixture::new();
    let redis = &fixture.redis;
    for name in ["a", "b"] {
        let body = format!(r#"{{"address":"h","alias":"{name}","scope":"job"}}"#);
        assert_eq!(fixture.post("/start_peer_agent", &body).status, 200);
    }
    assert_eq!(
        fixture.post("/list_scopes", "{}").json()["scopes"],
        json!(["job"])
    );
    redis.run::<()>(&["DEL", "job:agent:a", "job:agent:b"]); // As if expired.
    assert_eq!(fixture.post("/query", r#"{"scope":"job"}"#).body, "[]");
    assert_eq!(redis.keys(), Vec::<String>::new());

    // Nor does an index grow that nobody reads.
    for _ in 0..200 {
        fixture.post("/start_peer_agent", r#"{"address":"h","alias":"one"}"#);
        redis.run::<()>(&["DEL", "agent:one"]);
        let dead: i64 = redis.run(&["SADD", "nanoctrl/agents/", "x1", "x2"]);
        assert!(dead >= 0);
    }
    let listed: usize = redis.run(&["SCARD", "nanoctrl/agents/"]);
    assert!(listed <= 3, "{listed}");
}

/// The Redis address that is told at `path`.
fn told(fixture: &Fixture, path: &str) -> String {
    let answer = fixture.post(path, r#"{"address":"127.0.0.1"}"#).json();
    answer["redis_address"].as_str().unwrap().to_owned()
}

#[test]
fn nobody_is_told_credentials_or_database_of_the_url() {
    let fixture = Fixture::with(|redis| {
        redis.run::<()>(&["ACL", "SETUSER", "u", "on", ">secret", "~*", "&*", "+@all"]);
        Config::with_redis(format!("redis://u:secret@127.0.0.1:{}/2", redis.port))
    });
    let port = fixture.redis.port;
    let agents = told(&fixture, "/start_peer_agent");
    assert_eq!(agents, format!("127.0.0.1:{port}"));
    let others = told(&fixture, "/get_redis_address");
    assert_eq!(others, format!("redis://{}:{port}", table::own_address()));
    let keyspace: String = fixture.redis(&["INFO", "keyspace"]);
    assert!(keyspace.contains("db2:keys="), "{keyspace}");
}

#[test]
fn nobody_is_told_credentials_or_database_of_the_advertised_address() {
    for (advertised, others) in [
        ("198.51.100.2:8888", "198.51.100.2:8888"),
        ("u:p@198.51.100.2:8888/3", "198.51.100.2:8888"),
        (
            "redis://u:p/w@198.51.100.2:8888/3?protocol=resp3",
            "redis://198.51.100.2:8888",
        ),
    ] {
        let fixture = Fixture::with(|redis| Config::with_redis(redis.url()).advertise(advertised));
        assert_eq!(told(&fixture, "/start_peer_agent"), "198.51.100.2:8888");
        assert_eq!(told(&fixture, "/get_redis_address"), others);
    }
}

#[test]
fn a_private_redis_is_on_loopback_keeps_nothing_and_ends_with_the_server() {
    let fixture = Fixture::with(|_| Config::new(RedisSource::Private));
    let url = fixture.server.private_redis().unwrap();
    assert_eq!(told(&fixture, "/get_redis_address"), url);
    let client = redis::Client::open(url).unwrap();
    let mut redis = client.get_connection().unwrap();
    for (setting, expected) in [("save", ""), ("appendonly", "no"), ("bind", "127.0.0.1")] {
        let mut ask = redis::cmd("CONFIG");
        let found: (String, String) = ask.arg("GET").arg(setting).query(&mut redis).unwrap();
        assert_eq!(found, (setting.to_owned(), expected.to_owned()));
    }
    fixture.stop();
    assert!(client.get_connection().is_err());
}

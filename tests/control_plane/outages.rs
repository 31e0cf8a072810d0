//! `NanoCtrl` when the server or Redis is not there, comes late, goes away, hangs, or talks
//! nonsense.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU16, Ordering},
};
use std::time::Duration;

use crate::nanoctrl::fixture::Fixture;
use futures_util::StreamExt;
use serde_json::json;
use slimerpc::control::{
    Control, ControlError, Entity, EntityEvent, Mail, MailEvent, NanoCtrl, Registration,
};
use slimerpc::nanoctrl::Config;
use support::{NanoCtrlServer, Redis, fake_http::FakeHttp, free_port, until};
use tokio::time::{Instant, sleep, timeout};

/// The bound given to every request.
const REQUEST: Duration = Duration::from_secs(2);

/// The bound given to registering.
const REGISTER: Duration = Duration::from_secs(1);

/// More than these bounds on a busy machine, and less than what they are by themselves: 10 s for
/// registering, 5 s for each request.
const IN_TIME: Duration = Duration::from_secs(8);

/// Longer than an outage is noticed; a test that reaches it fails.
const SOON: Duration = Duration::from_secs(60);

fn agent(url: &str) -> NanoCtrl {
    NanoCtrl::new(url, "")
        .unwrap()
        .register_timeout(SOON)
        .request_timeout(REQUEST)
}

fn named(alias: &str) -> Registration {
    Registration {
        alias: Some(alias.to_owned()),
        address: "127.0.0.1".to_owned(),
        ..Registration::default()
    }
}

/// Registers with the server at `url`, and gives the error and how long it took.
async fn refusal(url: &str) -> (ControlError, Duration) {
    let start = Instant::now();
    let agent = agent(url).register_timeout(REGISTER);
    let agent = agent.request_timeout(REGISTER / 2);
    let error = agent.register(named("a")).await.unwrap_err();
    (error, start.elapsed())
}

/// The error of registering with a server that has answered, however late.
async fn answer(url: &str) -> ControlError {
    let agent = NanoCtrl::new(url, "").unwrap();
    let agent = agent.register_timeout(SOON).request_timeout(SOON);
    agent.register(named("a")).await.unwrap_err()
}

#[tokio::test]
async fn a_server_that_is_not_there_is_reported_within_the_register_timeout() {
    let url = format!("http://127.0.0.1:{}", free_port());
    let (error, took) = refusal(&url).await;
    assert!(
        matches!(error, ControlError::NanoCtrlUnreachable { .. }),
        "{error}"
    );
    assert!(error.to_string().contains(&url), "{error}");
    assert!(took < IN_TIME, "{took:?}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_reported_within_the_register_timeout() {
    let (error, took) = refusal(&FakeHttp::start(|_| None).url()).await;
    assert!(matches!(error, ControlError::Timeout { .. }), "{error}");
    assert!(took < IN_TIME, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_up_late_is_waited_for() {
    let mut server = NanoCtrlServer::prepare();
    let agent = NanoCtrl::new(&server.url(), "").unwrap();
    let (registered, ()) = tokio::join!(agent.register(named("a")), async {
        sleep(Duration::from_millis(300)).await;
        tokio::task::block_in_place(|| server.serve());
    });
    assert_eq!(registered.unwrap(), "a");
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again_and_one_that_refuses_is_not() {
    let troubled = FakeHttp::start(|_| Some((500, b"{\"message\":\"Redis pool\"}".to_vec())));
    let asking = NanoCtrl::new(&troubled.url(), "").unwrap();
    let asking = tokio::spawn(async move { asking.register(named("a")).await });
    until("it is asked again", || troubled.paths().len() > 1).await;
    // As long as it may: 10 s.
    let error = asking.await.unwrap().unwrap_err();
    assert!(
        matches!(error, ControlError::Refused { status: 500, .. }),
        "{error}"
    );

    let refusing = FakeHttp::start(|_| Some((422, b"missing field".to_vec())));
    let error = answer(&refusing.url()).await;
    assert!(
        matches!(error, ControlError::Refused { status: 422, .. }),
        "{error}"
    );
    assert_eq!(refusing.paths(), ["/start_peer_agent"]);
}

/// It cannot tell who has an alias, and is asked again.
#[tokio::test]
async fn an_alias_of_which_a_busy_server_does_not_say_who_has_it_is_tried_again() {
    let redis = Redis::start();
    let taken = AtomicBool::new(true);
    let name = format!(
        r#"{{"name":"a","redis_address":"127.0.0.1:{}"}}"#,
        redis.port
    );
    let server = FakeHttp::start(move |path| match path {
        "/start_peer_agent" if taken.swap(false, Ordering::SeqCst) => Some((409, Vec::new())),
        "/start_peer_agent" => Some((200, name.clone().into())),
        "/query" => Some((500, Vec::new())),
        _ => Some((200, br#"{"status":"ok"}"#.to_vec())),
    });
    let agent = NanoCtrl::new(&server.url(), "").unwrap();
    let agent = agent.register_timeout(Duration::from_secs(120));
    assert_eq!(agent.register(named("a")).await.unwrap(), "a");
}

/// Nothing is done by a server that is too busy, so whatever agents want of it they ask again.
#[tokio::test]
async fn a_busy_server_is_asked_again_until_the_request_timeout() {
    let left = AtomicU16::new(3);
    let busy_at_first = FakeHttp::start(move |_| {
        let is_busy = left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        Some(match is_busy {
            true => (503, Vec::new()),
            false => (200, b"[]".to_vec()),
        })
    });
    let patient = NanoCtrl::new(&busy_at_first.url(), "").unwrap();
    let patient = patient.request_timeout(Duration::from_secs(120));
    assert_eq!(patient.list_agents().await.unwrap(), []);
    assert_eq!(busy_at_first.paths().len(), 4);

    let busy = FakeHttp::start(|_| Some((503, b"too many requests".to_vec())));
    let patient = NanoCtrl::new(&busy.url(), "").unwrap();
    let error = patient.list_agents().await.unwrap_err();
    assert!(
        matches!(error, ControlError::Refused { status: 503, .. }),
        "{error}"
    );
    assert!(busy.paths().len() > 1);
}

/// It has not waited for what a busy agent was slow to send, and has done nothing.
#[tokio::test]
async fn a_server_that_did_not_wait_for_a_request_is_asked_again() {
    let redis = Redis::start();
    let name = format!(
        r#"{{"name":"a","redis_address":"127.0.0.1:{}"}}"#,
        redis.port
    );
    let asked = Mutex::<HashSet<String>>::default();
    let server = FakeHttp::start(move |path| {
        Some(match path {
            _ if asked.lock().unwrap().insert(path.to_owned()) => (408, Vec::new()),
            "/start_peer_agent" => (200, name.clone().into()),
            _ => (200, b"[]".to_vec()),
        })
    });
    let patient = |url: &str| {
        let agent = NanoCtrl::new(url, "").unwrap();
        let long = Duration::from_secs(120);
        agent.register_timeout(long).request_timeout(long)
    };
    let agent = patient(&server.url());
    assert_eq!(agent.register(named("a")).await.unwrap(), "a");
    assert_eq!(agent.list_agents().await.unwrap(), []);

    // It may say so before anything is sent.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let port = server.port;
    std::thread::spawn(move || {
        for (number, mut client) in listener.incoming().map_while(Result::ok).enumerate() {
            if number < 3 {
                let gives_up = b"HTTP/1.1 408 \r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
                client.write_all(gives_up).unwrap();
                std::mem::forget(client);
                continue;
            }
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            for (mut from, mut into) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                std::thread::spawn(move || std::io::copy(&mut from, &mut into));
            }
        }
    });
    assert_eq!(patient(&url).list_agents().await.unwrap(), []);
}

/// One that the server was too busy for comes again, behind a later one of the same agent.
#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_that_is_repeated_takes_no_peer_away() {
    let server = NanoCtrlServer::start();
    let (port, listener) = (server.port, TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let url = format!("http://{}", listener.local_addr().unwrap());
    let refused = Arc::new(AtomicBool::new(false));
    let refuses = refused.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut from, mut into) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut into));
            let (mut client, mut server, refused) = (client, server, refuses.clone());
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = client.read(&mut bytes) {
                    let is_declaration = bytes.starts_with(b"POST /v1/desired_topology");
                    if is_declaration && !refused.swap(true, Ordering::SeqCst) {
                        let busy = b"HTTP/1.1 503 \r\ncontent-length: 0\r\n\r\n";
                        client.write_all(busy).unwrap();
                    } else {
                        server.write_all(&bytes[..count]).unwrap();
                    }
                }
            });
        }
    });
    let agent = Arc::new(NanoCtrl::new(&url, "").unwrap().request_timeout(SOON));
    agent.register(named("a")).await.unwrap();
    let declaring = Arc::clone(&agent);
    let first = tokio::spawn(async move { declaring.set_topology(&["b".to_owned()]).await });
    until("it is refused", || refused.load(Ordering::SeqCst)).await;
    let both = ["b".to_owned(), "c".to_owned()];
    agent.set_topology(&both).await.unwrap();
    first.await.unwrap().unwrap();
    let declared: String = server.redis.run(&["GET", "spec:topology:a"]);
    assert!(declared.contains(r#"["b","c"]"#), "{declared}");
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_reported_in_time_and_the_name_is_given_back() {
    let answer = r#"{"status":"ok","name":"a","redis_address":"127.0.0.1:1"}"#;
    let server = FakeHttp::registering(answer);
    let (error, took) = refusal(&server.url()).await;
    assert!(
        matches!(error, ControlError::RedisUnreachable { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert!(took < IN_TIME, "{took:?}");
    assert_eq!(server.paths(), ["/start_peer_agent", "/cleanup"]);
}

#[tokio::test]
async fn input_1_answers_that_make_no_sense_are_malformed() {
    let answers = [
        "",
        "[",
        "{}",
        r#"{"name":"a"}"#,
        r#"{"name":"b","redis_address":"h:1"}"#,
        r#"{"name":"a","redis_address":"h:1/2"}"#,
        r#"{"name":"a","redis_address":"redis://user:pw@h:1"}"#,
        r#"{"name":7,"redis_address":"h:1"}"#,
    ];
    for text in answers {
        let error = answer(&FakeHttp::registering(text).url()).await;
        assert!(
            matches!(error, ControlError::Malformed { .. }),
            "{text}: {error}"
        );
    }
}

#[tokio::test]
async fn input_1_an_endless_answer_is_not_read_to_its_end() {
    let server = FakeHttp::start(|_| Some((200, vec![b' '; 8 << 20])));
    let error = answer(&server.url()).await;
    assert!(matches!(error, ControlError::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn input_1_a_redis_that_is_none_is_an_error_in_time() {
    let talker = FakeHttp::start(|_| Some((200, b"hello".to_vec())));
    let answer = format!(
        r#"{{"name":"a","redis_address":"127.0.0.1:{}"}}"#,
        talker.port
    );
    let server = FakeHttp::registering(answer.leak());
    let (error, took) = refusal(&server.url()).await;
    let is_typed = matches!(
        error,
        ControlError::RedisUnreachable { .. } | ControlError::Malformed { .. }
    );
    assert!(is_typed, "{error}");
    assert!(took < IN_TIME, "{took:?}");
}

/// Calls everything that needs Redis and asserts that each call fails in time.
async fn assert_redis_is_missed(agent: &NanoCtrl) {
    let start = Instant::now();
    let errors = [
        agent.peer("b").await.unwrap_err(),
        agent.lookup("b", "r").await.unwrap_err(),
        agent.send_mail("a", &Mail::new("note")).await.unwrap_err(),
        agent.publish("ring", json!(1)).await.unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(error, ControlError::RedisUnreachable { .. }),
            "{error}"
        );
    }
    agent.heartbeat().await.unwrap_err();
    assert!(start.elapsed() < 2 * IN_TIME, "{:?}", start.elapsed());
}

/// Beats until the control plane takes it.
async fn recover(agent: &NanoCtrl) {
    let recovered = async {
        while let Err(error) = agent.heartbeat().await {
            println!("not yet: {error}");
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, recovered).await.expect("the agent recovers");
}

#[tokio::test]
async fn after_redis_lost_everything_the_agent_and_its_mail_are_back() {
    let mut server = NanoCtrlServer::start();
    let agent = agent(&server.url());
    agent.register(named("a")).await.unwrap();
    let mut events = agent.mail();
    agent.send_mail("a", &Mail::new("first")).await.unwrap();
    assert_eq!(
        events.next().await,
        Some(MailEvent::Mail(Mail::new("first")))
    );

    server.redis.stop();
    let reader = tokio::spawn(async move { events.next().await });
    assert_redis_is_missed(&agent).await;
    server.redis.restart();
    recover(&agent).await;

    // What was published in vain has been remembered.
    let record = agent.lookup("a", "ring").await.unwrap();
    assert_eq!(record, Some(json!(1)));
    agent.send_mail("a", &Mail::new("second")).await.unwrap();
    let event = timeout(SOON, reader).await.unwrap().unwrap();
    assert_eq!(event, Some(MailEvent::Mail(Mail::new("second"))));
}

#[tokio::test]
async fn a_redis_that_hangs_delays_nobody_longer_than_the_request_timeout() {
    let server = NanoCtrlServer::start();
    let agent = agent(&server.url());
    agent.register(named("a")).await.unwrap();
    agent.peer("a").await.unwrap();
    server.redis.suspend();
    assert_redis_is_missed(&agent).await;
    server.redis.resume();
    recover(&agent).await;
    assert!(agent.peer("a").await.unwrap().is_some());
}

#[tokio::test]
async fn an_outage_is_waited_out_without_a_busy_loop() {
    let mut server = NanoCtrlServer::start();
    let agent = agent(&server.url());
    agent.register(named("a")).await.unwrap();
    let mut events = agent.mail();
    server.redis.stop();
    // Somebody else listens there now and hangs up on everybody: attempts can be counted.
    let listener = std::net::TcpListener::bind(("127.0.0.1", server.redis.port)).unwrap();
    let counter = std::thread::spawn(move || {
        listener.set_nonblocking(true).unwrap();
        let start = std::time::Instant::now();
        let mut attempts = 0;
        while start.elapsed() < Duration::from_secs(2) {
            match listener.accept() {
                Ok(_) => attempts += 1,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        attempts
    });
    let quiet = timeout(Duration::from_secs(2), events.next()).await;
    assert!(quiet.is_err());
    let attempts = counter.join().unwrap();
    println!("{attempts} attempts in 2 s");
    // Two readers, pausing 0.1, 0.2, 0.4, 0.8, 1.6 s; the server's pool tries as well.
    assert!((2..60).contains(&attempts), "{attempts} attempts");
}

#[tokio::test]
async fn mail_ends_at_once_during_an_outage() {
    let mut server = NanoCtrlServer::start();
    let agent = agent(&server.url());
    agent.register(named("a")).await.unwrap();
    let mut events = agent.mail();
    server.redis.stop();
    let mut reader = tokio::spawn(async move { events.next().await });
    // By then it looks every 3 s, first 0.1 s after the beginning, then 0.3, 0.7, 1.5, 3.1, 6.1.
    let early = timeout(Duration::from_millis(3300), &mut reader).await;
    assert!(early.is_err(), "it waits for Redis");
    let error = agent.clean_up().await.unwrap_err();
    let end = timeout(Duration::from_secs(2), reader).await;
    assert_eq!(end.expect("it ends at once").unwrap(), None);
    println!("{error}");
}

/// Waits until Redis has the key.
async fn appears(server: &NanoCtrlServer, key: &str) {
    let is_there = || server.redis.keys().contains(&key.to_owned());
    until(&format!("{key} is there"), is_there).await;
}

fn entity(id: &str) -> Entity {
    Entity {
        id: id.to_owned(),
        kind: "k".to_owned(),
        metadata: json!({}),
    }
}

/// An agent that has something of everything.
async fn settled(server: &NanoCtrlServer) -> NanoCtrl {
    let agent = agent(&server.url());
    agent.register(named("a")).await.unwrap();
    agent.publish("ring", json!(1)).await.unwrap();
    agent.set_topology(&["b".to_owned()]).await.unwrap();
    agent.advertise(entity("a/Calc")).await.unwrap();
    agent
}

const EVERYTHING: [&str; 4] = ["agent:a", "mr:a:ring", "spec:topology:a", "service:a/Calc"];

#[tokio::test]
async fn a_redis_that_comes_back_empty_has_everything_again_before_the_next_heartbeat() {
    let mut server = NanoCtrlServer::start();
    let agent = settled(&server).await;
    let mut events = agent.mail();
    let reader = tokio::spawn(async move {
        loop {
            if let Some(MailEvent::Mail(mail)) = events.next().await
                && mail.kind == "note"
            {
                return mail;
            }
        }
    });
    // Nobody calls `heartbeat` here: who reads the mail notices.
    server.redis.blocks_somebody().await;
    server.redis.restart();
    let back = Instant::now();
    for key in EVERYTHING {
        appears(&server, key).await;
    }
    println!("everything is back {:?} after Redis", back.elapsed());
    // Agents send a heartbeat every 15 s.
    assert!(back.elapsed() < Duration::from_secs(12));
    let ttl: i64 = server.redis.run(&["TTL", "agent:a"]);
    assert!((1..=60).contains(&ttl), "{ttl}");
    agent.send_mail("a", &Mail::new("note")).await.unwrap();
    let mail = timeout(SOON, reader).await.unwrap().unwrap();
    assert_eq!(mail.kind, "note");
}

#[tokio::test]
async fn after_one_failed_heartbeat_the_agent_comes_back_by_itself() {
    let mut server = NanoCtrlServer::start();
    let agent = settled(&server).await;
    server.redis.stop();
    server.stop();
    agent.heartbeat().await.unwrap_err();
    sleep(Duration::from_secs(1)).await;
    server.redis.restart();
    server.serve();
    for key in EVERYTHING {
        appears(&server, key).await;
    }
    agent.heartbeat().await.unwrap();
}

#[tokio::test]
async fn while_nanoctrl_is_away_redis_is_enough_to_stay_registered() {
    let mut server = NanoCtrlServer::start();
    let agent = settled(&server).await;
    let reader = NanoCtrl::new(&server.url(), "").unwrap();
    reader.register(named("b")).await.unwrap();
    server.stop();
    for key in ["agent:a", "service:a/Calc"] {
        let _: i64 = server.redis.run(&["EXPIRE", key, "5"]);
    }
    let error = agent.heartbeat().await.unwrap_err();
    assert!(
        matches!(error, ControlError::NanoCtrlUnreachable { .. }),
        "{error}"
    );
    for key in ["agent:a", "service:a/Calc"] {
        let ttl: i64 = server.redis.run(&["TTL", key]);
        assert!(ttl > 50, "{key}: {ttl}");
    }
    // Peers find each other and write to each other as before.
    assert!(reader.peer("a").await.unwrap().is_some());
    reader.send_mail("a", &Mail::new("note")).await.unwrap();
    agent.publish("ring", json!(2)).await.unwrap();
    assert_eq!(reader.lookup("a", "ring").await.unwrap(), Some(json!(2)));
}

#[tokio::test]
async fn a_nanoctrl_that_is_restarted_with_another_redis_is_followed_there() {
    let mut server = NanoCtrlServer::start();
    let agent = settled(&server).await;
    let mut events = agent.mail();
    let reader = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if event == MailEvent::Mail(Mail::new("note")) {
                return;
            }
        }
    });
    server.stop();
    server.redis = support::Redis::start(); // The old one ends.
    server.serve();
    for key in EVERYTHING {
        appears(&server, key).await;
    }
    agent.send_mail("a", &Mail::new("note")).await.unwrap();
    timeout(SOON, reader)
        .await
        .expect("mail comes through the new Redis")
        .unwrap();
}

#[tokio::test]
async fn mail_is_read_although_the_clock_of_redis_was_set_back() {
    let mut server = NanoCtrlServer::start();
    let agent = agent(&server.url());
    agent.register(named("a")).await.unwrap();
    let mut events = agent.mail();
    let _: String = server
        .redis
        .run(&["XADD", "stream:a", "9999999999999-0", "type", "early"]);
    let early = timeout(SOON, events.next()).await.unwrap();
    assert_eq!(early, Some(MailEvent::Mail(Mail::new("early"))));
    let reader = tokio::spawn(async move { events.next().await });
    server.redis.blocks_somebody().await;
    server.redis.restart();
    recover(&agent).await;
    agent.send_mail("a", &Mail::new("late")).await.unwrap();
    let late = timeout(SOON, reader).await.expect("mail is read").unwrap();
    assert_eq!(late, Some(MailEvent::Mail(Mail::new("late"))));
}

/// An address that leads to whichever Redis is the master, for those who connect. Connections that
/// there are stay where they lead to.
struct Vip {
    port: u16,
    target: Arc<AtomicU16>,
}

impl Vip {
    fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(target));
        let to = Arc::clone(&target);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let port = to.load(Ordering::SeqCst);
                let Ok(redis) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                for (mut from, mut into) in [
                    (client.try_clone().unwrap(), redis.try_clone().unwrap()),
                    (redis, client),
                ] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut into);
                        let _ = into.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        Self { port, target }
    }
}

/// Waits until the replica has what its master has.
async fn in_step(replica: &Redis) {
    let deadline = Instant::now() + SOON;
    loop {
        let about: String = replica.run(&["INFO", "replication"]);
        if about.contains("master_link_status:up") {
            return;
        }
        assert!(Instant::now() < deadline, "{about}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn replicate(replica: &Redis, master: &Redis) {
    // Otherwise it writes a file into the current folder.
    let _: String = replica.run(&["CONFIG", "SET", "repl-diskless-load", "swapdb"]);
    let _: String = replica.run(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
}

#[test]
fn after_a_failover_everybody_turns_to_the_new_master_although_the_old_ones_connections_stay() {
    let (other, mut vip) = (Redis::start(), None);
    let server = Fixture::with(|redis| {
        replicate(&other, redis);
        let vip = vip.insert(Vip::start(redis.port));
        Config::with_redis(format!("redis://127.0.0.1:{}", vip.port))
    });
    let (old, vip) = (&server.redis, vip.unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let url = format!("http://{}", server.address());
        let agent = NanoCtrl::new(&url, "").unwrap();
        agent.register(named("a")).await.unwrap();
        agent.publish("ring", json!(1)).await.unwrap();
        let mut events = agent.mail();
        let mut entities = agent.watch_entities("k");
        assert_eq!(entities.next().await, Some(EntityEvent::All(Vec::new())));
        let reader = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if event == MailEvent::Mail(Mail::new("after")) {
                    return;
                }
            }
        });
        let watcher = tokio::spawn(async move {
            while let Some(event) = entities.next().await {
                match event {
                    EntityEvent::Added(entity) if entity.id == "late" => return,
                    EntityEvent::All(all) if all.iter().any(|it| it.id == "late") => return,
                    _ => {}
                }
            }
        });
        in_step(&other).await;

        let _: String = other.run(&["REPLICAOF", "NO", "ONE"]);
        replicate(old, &other);
        // Those who look for the master again find the old one for a while.
        let target = Arc::clone(&vip.target);
        let port = other.port;
        let moving = tokio::spawn(async move {
            sleep(Duration::from_millis(700)).await;
            target.store(port, Ordering::SeqCst);
        });
        let failover = Instant::now();
        agent.publish("ring", json!(2)).await.unwrap();
        agent.heartbeat().await.unwrap();
        let next = NanoCtrl::new(&url, "").unwrap();
        next.register(named("b")).await.unwrap();
        next.send_mail("a", &Mail::new("after")).await.unwrap();
        let late = Entity {
            id: "late".to_owned(),
            kind: "k".to_owned(),
            metadata: json!({}),
        };
        next.advertise(late).await.unwrap();
        timeout(SOON, reader).await.expect("mail arrives").unwrap();
        timeout(SOON, watcher)
            .await
            .expect("events arrive")
            .unwrap();
        println!("{:?} after the failover", failover.elapsed());
        moving.await.unwrap();
        // What was there is there, and what is new is in the new one first.
        assert_eq!(next.lookup("a", "ring").await.unwrap(), Some(json!(2)));
        let record: String = other.run(&["GET", "mr:a:ring"]);
        assert_eq!(record, "2");
        let keys = other.keys();
        for key in ["agent:a", "agent:b", "service:late"] {
            assert!(keys.contains(&key.to_owned()), "{keys:?}");
        }
        for agent in [agent, next] {
            agent.clean_up().await.unwrap();
        }
    });
}

#[tokio::test]
async fn a_redis_that_is_being_loaded_is_waited_for_and_a_replica_is_named_as_one() {
    let (master, replica) = (Redis::start(), Redis::start());
    replicate(&replica, &master);
    in_step(&replica).await;
    let answer = format!(
        r#"{{"name":"a","redis_address":"127.0.0.1:{}"}}"#,
        replica.port
    );
    let server = FakeHttp::registering(answer.leak());
    let (error, took) = refusal(&server.url()).await;
    assert!(
        matches!(error, ControlError::RedisRefused { .. }),
        "{error}"
    );
    let (text, master) = (error.to_string(), format!("127.0.0.1:{}", master.port));
    assert!(text.contains("replica") && text.contains(&master), "{text}");
    assert!(took < IN_TIME, "{took:?}");
    // It becomes a master while it is asked.
    let agent = NanoCtrl::new(&server.url(), "").unwrap();
    let (registered, ()) = tokio::join!(agent.register(named("a")), async {
        sleep(Duration::from_millis(300)).await;
        let _: String = replica.run(&["REPLICAOF", "NO", "ONE"]);
    });
    assert_eq!(registered.unwrap(), "a");
}

#[tokio::test]
async fn registering_ends_in_time_although_redis_accepts_and_never_answers() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let answer = format!(r#"{{"name":"a","redis_address":"127.0.0.1:{port}"}}"#);
    let server = FakeHttp::registering(answer.leak());
    let agent = NanoCtrl::new(&server.url(), "").unwrap();
    let agent = agent.register_timeout(REGISTER);
    let start = Instant::now();
    let error = agent.register(named("a")).await.unwrap_err();
    assert!(matches!(error, ControlError::Timeout { .. }), "{error}");
    assert!(start.elapsed() < IN_TIME, "{:?}", start.elapsed());
    assert_eq!(server.paths(), ["/start_peer_agent", "/cleanup"]);
}

/// Registering is carried out, and the answer is lost.
#[tokio::test]
async fn an_attempt_to_register_that_was_not_answered_does_not_take_the_alias_from_the_next() {
    let server = NanoCtrlServer::start();
    let (port, listener) = (server.port, TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().map_while(Result::ok).enumerate() {
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut from, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut into));
            if number > 0 {
                let (mut from, mut into) = (server, client);
                std::thread::spawn(move || std::io::copy(&mut from, &mut into));
            } else {
                std::mem::forget((server, client));
            }
        }
    });
    let agent = NanoCtrl::new(&url, "").unwrap().request_timeout(REGISTER);
    let registration = Registration {
        resource: Some(json!({"slime": {}})),
        ..named("a")
    };
    assert_eq!(agent.register(registration.clone()).await.unwrap(), "a");
    let other = NanoCtrl::new(&url, "").unwrap();
    let error = other.register(registration).await.unwrap_err();
    assert!(matches!(error, ControlError::AliasTaken { .. }), "{error}");
}

/// A way to a server on which registrations are late, once it is told so.
struct LateRegistrations {
    url: String,
    is_late: Arc<AtomicBool>,
    /// Those that are under way.
    held: Arc<AtomicU16>,
    /// Those that have reached the server.
    passed: Arc<AtomicU16>,
}

impl LateRegistrations {
    const LATE: Duration = Duration::from_millis(300);

    fn start(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let way = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            is_late: Arc::default(),
            held: Arc::default(),
            passed: Arc::default(),
        };
        let (is_late, held, passed) = (way.is_late.clone(), way.held.clone(), way.passed.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let (mut from, mut into) =
                    (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from, &mut into));
                let (is_late, held, passed) = (is_late.clone(), held.clone(), passed.clone());
                let (mut client, mut server) = (client, server);
                std::thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(count @ 1..) = client.read(&mut bytes) {
                        let is_registration = bytes.starts_with(b"POST /start_peer_agent");
                        if is_registration && is_late.load(Ordering::SeqCst) {
                            held.fetch_add(1, Ordering::SeqCst);
                            std::thread::sleep(Self::LATE);
                        }
                        server.write_all(&bytes[..count]).unwrap();
                        passed.fetch_add(is_registration.into(), Ordering::SeqCst);
                    }
                });
            }
        });
        way
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_leaves_while_it_is_registered_again_stays_away() {
    let server = NanoCtrlServer::start();
    let way = LateRegistrations::start(server.port);
    let agent = Arc::new(NanoCtrl::new(&way.url, "").unwrap());
    agent.register(named("a")).await.unwrap();
    server.redis.run::<()>(&["FLUSHALL"]);
    way.is_late.store(true, Ordering::SeqCst);
    let renewing = Arc::clone(&agent);
    let renewal = tokio::spawn(async move { renewing.heartbeat().await });
    let is_held = || way.held.load(Ordering::SeqCst) > 0;
    until("the agent registers again", is_held).await;

    agent.clean_up().await.unwrap();
    // As the end of an agent ends its tasks.
    renewal.abort();
    let _ = renewal.await;
    drop(agent);
    let has_passed = || way.passed.load(Ordering::SeqCst) == 2;
    until("the registration has reached the server", has_passed).await;
    // Long enough for the server to carry it out, if nobody has waited for that.
    sleep(LateRegistrations::LATE).await;
    assert_eq!(server.redis.keys(), [""; 0]);
}

/// Where `localhost` is `::1` first, as on Debian, and everything listens on 127.0.0.1.
#[tokio::test]
async fn localhost_is_the_address_at_which_something_answers() {
    const HELPER: &str = "SLIME_TEST_LOCALHOST";
    const NAME: &str = "outages::localhost_is_the_address_at_which_something_answers";
    if let Ok(port) = std::env::var(HELPER) {
        let first = tokio::net::lookup_host("localhost:1").await.unwrap().next();
        assert!(first.unwrap().is_ipv6(), "{first:?}");
        let agent = NanoCtrl::new(&format!("http://localhost:{port}"), "").unwrap();
        let registration = Registration {
            address: String::new(),
            ..named("a")
        };
        agent.register(registration).await.unwrap();
        let peer = agent.peer("a").await.unwrap().unwrap();
        assert_eq!(peer.address, "127.0.0.1");
        return agent.clean_up().await.unwrap();
    }
    let server = NanoCtrlServer::start();
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "::1 localhost\n127.0.0.1 localhost\n").unwrap();
    let script = "mount --bind \"$0\" /etc/hosts || exit 77; exec \"$1\" --exact \"$2\"";
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .arg(hosts.path());
    command.arg(std::env::current_exe().unwrap()).arg(NAME);
    let ended = command
        .env(HELPER, server.port.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    // A chroot has no mounts of its own, if its root is not one.
    let is_refused = ended.stderr.starts_with(b"unshare:") || ended.status.code() == Some(77);
    if !rustix::process::geteuid().is_root() || is_refused {
        eprintln!("SKIPPED: this needs root, and may mount over /etc/hosts");
        return;
    }
    assert!(
        ended.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

//! Settings from the environment: each takes effect, gives way to the builder's, and is refused at
//! `start()` if it makes no sense. The environment is that of child processes, which run `child`
//! below.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use slimerpc_actors::{
    Builder, CodecLimits, Limits, PeerAgent, PeerEvent, Polling, Stream, Timeouts, service,
};
use support::alone::test_process;

#[derive(Default)]
struct Slow;

#[service]
impl Slow {
    #[method]
    async fn never(&mut self) {
        std::future::pending::<()>().await;
    }
}

#[derive(Default)]
struct Quick;

#[service]
impl Quick {
    #[method]
    fn twice(&mut self, n: u64) -> u64 {
        2 * n
    }

    #[method(stream)]
    fn items(&mut self) -> impl Stream<Item = u64> {
        futures_util::stream::iter([1])
    }
}

/// Says what an agent is like in the environment that it finds.
#[actix::test]
#[ignore = "run by the others"]
async fn child() {
    println!(); // The harness has begun a line.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stdout)
        .init();
    let worker = match PeerAgent::builder().alias("settings:worker").start().await {
        Ok(worker) => worker,
        Err(error) => return println!("refused: {error}"),
    };
    let shape = worker.geometry();
    println!("{} x {}", shape.slots(), shape.slot_size());
    let limits = CodecLimits::current();
    println!("limits: {} {}", limits.depth, limits.pickle_values);
    let built = PeerAgent::builder().limits(Limits::default().max_inflight(3).slot_size(2048));
    let built = built.timeouts(Timeouts::default().connect_timeout(Duration::from_millis(70)));
    let built = built.start().await.unwrap();
    let shape = built.geometry();
    println!("built: {} x {}", shape.slots(), shape.slot_size());
    let started = Instant::now();
    built.proxy::<Slow>("nobody").await.unwrap_err();
    println!("built: tried for {} ms", started.elapsed().as_millis());

    if std::env::var_os("SLIME_RPC_CONNECT_TIMEOUT_MS").is_some() {
        let started = Instant::now();
        worker.proxy::<Slow>("nobody").await.unwrap_err();
        println!("tried for {} ms", started.elapsed().as_millis());
    }
    if std::env::var_os("SLIME_RPC_CALL_TIMEOUT_MS").is_some() {
        worker.serve(Slow).await.unwrap();
        let slow = worker.proxy::<Slow>(worker.alias()).await.unwrap();
        println!("called: {}", slow.never().await.unwrap_err());
    }
}

/// What the child says with these variables.
fn with(variables: &[(&str, &str)]) -> String {
    let mut child = test_process(module_path!(), "child");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLIME_RPC_")) {
        child.env_remove(name);
    }
    let output = child.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{variables:?}: {said}");
    said
}

/// The number before `unit` in the line that starts with `start`.
fn millis(said: &str, start: &str) -> u64 {
    let line = said.lines().find_map(|line| line.strip_prefix(start));
    let number = line.unwrap().trim_end_matches(" ms").parse();
    number.unwrap()
}

#[test]
fn settings_come_from_the_environment_unless_they_are_set() {
    let said = with(&[]);
    assert!(said.contains("\n16 x 32768\n"), "{said}");
    assert!(said.contains("\nlimits: 128 16777216\n"), "{said}");
    let said = with(&[
        ("SLIME_RPC_SLOT_SIZE", ""),
        ("SLIME_RPC_MAX_INFLIGHT", " 4 "),
    ]);
    assert!(said.contains("\n4 x 32768\n"), "{said}");
    let said = with(&[
        ("SLIME_RPC_SLOT_SIZE", "8192"),
        ("SLIME_RPC_MAX_INFLIGHT", "5"),
        ("SLIME_RPC_CONNECT_TIMEOUT_MS", "400"),
        ("SLIME_RPC_CALL_TIMEOUT_MS", "30"),
        ("SLIME_RPC_BUSY_POLL_US", "0"),
        ("SLIME_RPC_SERVER_WORKERS", "2"),
        ("SLIME_RPC_RETRY_CNT", "3"),
        ("SLIME_RPC_MAX_DEPTH", "77"),
        ("SLIME_RPC_MAX_PICKLE_VALUES", "1000"),
    ]);
    assert!(said.contains("\n5 x 8192\n"), "{said}");
    assert!(said.contains("\nlimits: 77 1000\n"), "{said}");
    assert!(said.contains("built: 3 x 2048\n"), "{said}");
    assert!(
        (400..5_000).contains(&millis(&said, "tried for ")),
        "{said}"
    );
    assert!(
        (70..400).contains(&millis(&said, "built: tried for ")),
        "{said}"
    );
    assert!(said.contains("called: ") && said.contains("30ms"), "{said}");
}

#[test]
fn nonsense_in_the_environment_is_refused_by_name_and_value() {
    for (name, value, says) in [
        ("SLIME_RPC_SLOT_SIZE", "big", "SLIME_RPC_SLOT_SIZE"),
        ("SLIME_RPC_SLOT_SIZE", "0", "slot_size"),
        ("SLIME_RPC_FABRICS", "shm,udp", "fabrics"),
        ("SLIME_RPC_FABRICS", "shm,shm", "fabrics"),
        ("SLIME_RPC_TCP_BIND", "eth0:7000", "tcp_bind"),
        ("SLIME_RPC_TCP_BIND", "0.0.0.0", "tcp_advertise"),
        ("SLIME_RPC_TCP_ADVERTISE", "here", "tcp_advertise"),
        ("SLIME_RPC_MAX_DEPTH", "0", "max_depth"),
        ("SLIME_RPC_MAX_PICKLE_VALUES", "0", "max_pickle_values"),
        ("SLIME_RPC_MAX_DEPTH", "deep", "SLIME_RPC_MAX_DEPTH"),
        (
            "SLIME_RPC_SLOT_SIZE",
            "18446744073709551616",
            "SLIME_RPC_SLOT_SIZE",
        ),
        ("SLIME_RPC_MAX_INFLIGHT", "-1", "SLIME_RPC_MAX_INFLIGHT"),
        ("SLIME_RPC_MAX_INFLIGHT", "0", "max_inflight"),
        ("SLIME_RPC_SERVER_WORKERS", "0", "workers"),
        (
            "SLIME_RPC_SERVER_WORKERS",
            "many",
            "SLIME_RPC_SERVER_WORKERS",
        ),
        ("SLIME_RPC_BUSY_POLL_US", "1.5", "SLIME_RPC_BUSY_POLL_US"),
        ("SLIME_RPC_BUSY_POLL_US", "11000000", "busy_poll"),
        ("SLIME_RPC_CONNECT_TIMEOUT_MS", "0", "connect_timeout"),
        ("SLIME_RPC_CALL_TIMEOUT_MS", "0", "call_timeout"),
        ("SLIME_RPC_STREAM_PATIENCE_MS", "0", "stream_patience"),
        ("SLIME_RPC_IDLE_AFTER_MS", "19", "idle_after"),
        ("SLIME_RPC_IDLE_AFTER_MS", "5min", "SLIME_RPC_IDLE_AFTER_MS"),
        ("SLIME_RPC_MAX_PAYLOAD", "0", "max_payload"),
        ("SLIME_RPC_MAX_PAYLOAD", "32751", "max_payload"),
        ("SLIME_RPC_MAX_PAYLOAD", "1GiB", "SLIME_RPC_MAX_PAYLOAD"),
        ("SLIME_RPC_PAYLOAD_MEMORY", "0", "payload_memory"),
        ("SLIME_RPC_PAYLOAD_MEMORY", "-1", "SLIME_RPC_PAYLOAD_MEMORY"),
        ("SLIME_RPC_MIN_RNR_TIMER", "32", "min_rnr_timer"),
        ("SLIME_RPC_RNR_RETRY", "8", "rnr_retry"),
        ("SLIME_RPC_ACK_TIMEOUT", "0", "timeout"),
        ("SLIME_RPC_RETRY_CNT", "7", "retry_cnt"),
        ("SLIME_RPC_RETRY_CNT", "256", "SLIME_RPC_RETRY_CNT"),
        ("SLIME_RPC_LOG", "slimerpc=loud", "SLIME_RPC_LOG"),
        ("SLIME_RPC_METRICS", "maybe", "SLIME_RPC_METRICS"),
        ("SLIME_RPC_METRICS_ADDR", "here", "metrics_address"),
    ] {
        let said = with(&[(name, value)]);
        let refused = said.lines().find(|line| line.starts_with("refused: "));
        let refused = refused.unwrap_or_else(|| panic!("{name}={value} is accepted: {said}"));
        assert!(refused.contains(says), "{name}={value}: {refused}");
    }
}

#[actix::test]
async fn tcp0_listens_where_it_is_told_to_and_otherwise_says_why_it_does_not() {
    let agent = |bind: &str| PeerAgent::builder().device("tcp0").tcp_bind(bind).start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    for (bind, why) in [
        ("192.0.2.7".to_owned(), "an address of this host"),
        (taken.to_string(), "set other `ports`"),
        ("nowhere.invalid:7000".to_owned(), "does not resolve"),
        ("[::1".to_owned(), "a host name"),
    ] {
        let refused = agent(&bind).await.unwrap_err().to_string();
        assert!(
            refused.contains(why) && refused.contains(&bind[..bind.len().min(7)]),
            "{refused}"
        );
        assert!(refused.contains("tcp_bind"), "{refused}");
    }
    for name in ["localhost", "localhost:20000-30000"] {
        agent(name).await.unwrap().shutdown().await.unwrap();
    }
    let everywhere = PeerAgent::builder().device("TCP0").tcp_bind("::");
    let error = everywhere.clone().start().await.unwrap_err().to_string();
    assert!(error.contains("tcp_advertise"), "{error}");
    // This host may have no IPv6.
    let everywhere = everywhere
        .tcp_bind("0.0.0.0:20000-30000")
        .tcp_advertise("127.0.0.1");
    let worker = everywhere.start().await.unwrap();
    worker.serve(Quick).await.unwrap();
    let driver = agent("127.0.0.1").await.unwrap();
    let quick = driver.proxy::<Quick>(worker.alias()).await.unwrap();
    assert_eq!(quick.twice(4).await, Ok(8));
}

#[test]
fn a_variable_that_is_no_setting_is_warned_of_once() {
    let said = with(&[
        ("SLIME_RPC_SLOTSIZE", "8192"),
        ("SLIME_RPC_CALL_TIMEOUT", "30"),
        ("SLIME_RPC_WORKERS", ""),
        ("SLIME_RPC_MAX_INFLIGHT", "16"),
    ]);
    for (name, nearest) in [
        ("SLIME_RPC_SLOTSIZE", "SLIME_RPC_SLOT_SIZE"),
        ("SLIME_RPC_CALL_TIMEOUT", "SLIME_RPC_CALL_TIMEOUT_MS"),
    ] {
        let warning = format!("name={name:?} nearest={nearest:?}");
        assert_eq!(said.matches(&warning).count(), 1, "{warning}: {said}");
    }
    assert_eq!(said.matches("is no setting").count(), 2, "{said}");
}

/// A time is "never", or refused by name: with each, agents find each other, call, and notice that
/// one leaves.
#[actix::test]
async fn times_without_end_are_never_or_refused() {
    type Set = fn(Builder, Duration) -> Builder;
    let settings: [(&str, Set); 9] = [
        ("", |builder, time| {
            builder.timeouts(Timeouts::default().connect_timeout(time))
        }),
        ("", |builder, time| {
            builder.timeouts(Timeouts::default().reconnect_wait(time))
        }),
        ("", |builder, time| {
            builder.timeouts(Timeouts::default().call_timeout(time))
        }),
        ("", |builder, time| {
            builder.timeouts(Timeouts::default().stream_patience(time))
        }),
        ("", |builder, time| {
            builder.timeouts(Timeouts::default().idle_after(time))
        }),
        ("", |builder, time| {
            builder.polling(Polling::default().detection(time))
        }),
        ("", |builder, time| {
            builder.polling(
                Polling::default()
                    .heartbeat(time - Duration::from_nanos(1))
                    .detection(time),
            )
        }),
        ("heartbeat", |builder, time| {
            builder.polling(Polling::default().heartbeat(time))
        }),
        ("busy_poll", |builder, time| {
            builder.polling(Polling::default().busy_poll(time))
        }),
    ];
    for (at, (refused, set)) in settings.into_iter().enumerate() {
        for never in [
            Duration::MAX,
            Duration::from_secs(u64::MAX / 2),
            Duration::from_secs(u64::MAX / 4),
            Duration::from_millis(u64::MAX),
            Duration::from_secs(400 * 365 * 24 * 3600),
        ] {
            let what = format!("setting {at}, {never:?}");
            let worker = set(PeerAgent::builder(), never).start().await;
            if !refused.is_empty() {
                let error = worker.unwrap_err().to_string();
                assert!(error.contains(refused), "{what}: {error}");
                continue;
            }
            let worker = worker.unwrap();
            worker.serve(Quick).await.unwrap();
            let driver = set(PeerAgent::builder(), never).start().await.unwrap();
            let quick = driver.proxy::<Quick>(worker.alias()).await.unwrap();
            assert_eq!(quick.twice(21).await, Ok(42), "{what}");
            assert_eq!(quick.items().next().await, Some(Ok(1)), "{what}");
            let mut events = quick.watch().await.unwrap();
            let mut next = async || {
                let event = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
                event.unwrap_or_else(|_| panic!("{what}: nothing is noticed"))
            };
            // Of a peer whose heartbeats have not come, nobody is told that it leaves.
            let first = next().await;
            assert!(
                matches!(first, Some(PeerEvent::Connected { .. })),
                "{what}: {first:?}"
            );
            worker.shutdown().await.unwrap();
            while !next().await.expect("it is watched").is_end() {}
            driver.shutdown().await.unwrap();
        }
    }
}

#[test]
fn times_without_end_in_the_environment_are_never_or_refused() {
    let most = u64::MAX.to_string();
    for name in ["SLIME_RPC_DETECTION_MS", "SLIME_RPC_STREAM_PATIENCE_MS"] {
        let said = with(&[(name, &most)]);
        assert!(said.contains("\n16 x 32768\n"), "{name}: {said}");
    }
    for (name, setting) in [
        ("SLIME_RPC_HEARTBEAT_MS", "heartbeat"),
        ("SLIME_RPC_BUSY_POLL_US", "busy_poll"),
    ] {
        let said = with(&[(name, &most)]);
        let refused = said.lines().find(|line| line.starts_with("refused: "));
        assert!(refused.unwrap().contains(setting), "{name}: {said}");
    }
}

#[actix::test]
async fn who_has_one_core_does_not_poll_unless_told_to() {
    let all = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap());
    // Of this thread, on which the agents are built.
    sched_setaffinity(None, &one).unwrap();
    let worker = PeerAgent::builder().alias("one-core:worker");
    let worker = worker.start().await.unwrap();
    worker.serve(Slow).await.unwrap();
    let told = Duration::from_micros(70);
    for (builder, expected) in [
        (PeerAgent::builder(), Duration::ZERO),
        (
            PeerAgent::builder().polling(Polling::default().busy_poll(told)),
            told,
        ),
    ] {
        let caller = builder.start().await.unwrap();
        let proxy = caller.proxy::<Slow>(worker.alias()).await.unwrap();
        assert_eq!(proxy.channel().unwrap().busy_poll(), expected);
        caller.shutdown().await.unwrap();
    }
}

//! What agents say of themselves: published by ours, read by `nanoctrl obs` and by DLSlime's
//! `dlslime-ctrl` 0.1.23.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use slimerpc::control::ObsReader;
use slimerpc::control::obs::{
    ObsRecord, SlimerpcObs, SlimerpcPeerState, SlimerpcServiceState, SlimerpcValue,
};
use slimerpc_actors::{AgentError, Builder, PeerAgent, service};
use support::alone::test_process;
use support::{NanoCtrlServer, Redis, free_port, until, within};

#[derive(Default)]
struct Calc;

#[service]
impl Calc {
    #[method]
    fn add(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }

    #[method]
    fn length(&mut self, text: String) -> usize {
        text.len()
    }

    #[method]
    fn fail(&mut self) {
        panic!("as it was told");
    }
}

fn agent(server: &NanoCtrlServer, alias: &str) -> Builder {
    let builder = PeerAgent::builder().alias(alias).device("shm0");
    builder.nanoctrl(server.url()).obs(true)
}

/// The record of an agent without a scope, if there is one.
fn record(redis: &Redis, alias: &str) -> Option<ObsRecord> {
    let text: Option<Vec<u8>> = redis.run(&["GET", &format!("obs:peer:{alias}")]);
    Some(ObsRecord::parse(&text?).unwrap())
}

/// Waits for a record of the agent of which this is true, and returns it.
async fn said(redis: &Redis, alias: &str, is_so: impl Fn(&SlimerpcObs) -> bool) -> ObsRecord {
    let mut last = None;
    let look = || {
        last = record(redis, alias);
        let ours = last.as_ref().and_then(|record| record.slimerpc.as_ref());
        ours.is_some_and(&is_so)
    };
    until("the agent says so", look).await;
    last.unwrap()
}

fn millis_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis() as u64
}

fn nanoctrl(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nanoctrl"));
    // Whatever runs for the developer is none of the test's business.
    let nowhere = std::env::temp_dir().join("nanoctrl-that-never-ran");
    command.env("NANOCTRL_RUNTIME_DIR", nowhere);
    command.env_remove("NANOCTRL_REDIS_URL");
    command.env_remove("DLSLIME_CTRL_REDIS_URL");
    command.arg(name);
    command
}

fn printed(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// What ours prints.
fn ours(redis: &Redis, words: &[&str]) -> String {
    let mut command = nanoctrl("obs");
    command.args(words).args(["--redis-url", &redis.url()]);
    printed(command.output().unwrap())
}

/// What DLSlime's prints.
fn theirs(redis: &Redis, words: &[&str]) -> String {
    let mut command = Command::new(dlslime_ctrl());
    command.arg("obs").args(words);
    command.args(["--redis-url", &redis.url()]);
    printed(command.output().unwrap())
}

/// DLSlime's own program, out of PyPI.
pub(crate) fn dlslime_ctrl() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        const PACKAGE: &str = "dlslime-ctrl==0.1.23";
        let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join(PACKAGE);
        let program = environment.join("bin/dlslime-ctrl");
        if program.exists() {
            return program;
        }
        let run = |command: &mut Command| {
            let status = command.stdout(Stdio::null()).status();
            let is_done = status.as_ref().is_ok_and(|status| status.success());
            assert!(
                is_done,
                "{command:?}: {status:?}; this test installs {PACKAGE} from PyPI, and needs python3, its module venv (Debian: \
                 python3-venv) and the network for that"
            );
        };
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment));
        let mut pip = Command::new(environment.join("bin/pip"));
        run(pip.args(["install", "-q", "--disable-pip-version-check", PACKAGE]));
        program
    })
}

/// The cells of a table that `obs` prints, without its head.
fn cells(table: &str) -> Vec<Vec<&str>> {
    let rows = table.lines().filter(|line| line.starts_with('│'));
    rows.skip(1).map(row).collect()
}

fn row(line: &str) -> Vec<&str> {
    let cells = line.trim_matches('│').split('┆');
    cells.map(str::trim).collect()
}

#[actix::test]
async fn dlslime_ctrl_reads_what_ours_say_and_ours_reads_the_same() {
    let server = NanoCtrlServer::start();
    let redis = &server.redis;
    let worker = agent(&server, "worker:0").start().await.unwrap();
    worker.serve(Calc).await.unwrap();
    let driver = agent(&server, "driver:0").start().await.unwrap();
    let calc = driver.proxy::<Calc>("worker:0").await.unwrap();
    let large = "x".repeat(100_000);
    assert_eq!(calc.length(large).await, Ok(100_000));
    let has_moved = |it: &SlimerpcObs| it.peers.len() == 1 && it.payload.received_bytes > 0;
    let record = said(redis, "driver:0", has_moved).await;
    let at_caller = record.slimerpc.unwrap().payload;
    let record = said(redis, "worker:0", has_moved).await;
    let at_service = record.slimerpc.as_ref().unwrap().payload;
    assert_eq!(at_caller.sent_bytes, at_service.received_bytes);
    assert_eq!(at_caller.received_bytes, at_service.sent_bytes);
    assert!(at_caller.sent_bytes > 100_000, "{at_caller:?}");
    assert!(
        (1..100).contains(&at_caller.received_bytes),
        "{at_caller:?}"
    );
    // The service has read the arguments, and sent the answer.
    let moved = at_service.received_bytes + at_service.sent_bytes;
    let (summary, nic) = (&record.summary, &record.nics[0]);
    for bytes in [summary.submitted_bytes_total, summary.completed_bytes_total] {
        assert_eq!(bytes, moved);
    }
    assert_eq!(nic.completed_bytes_total, moved);
    assert_eq!(nic.assign_total, summary.assign_total);
    // In the period of the call it had a bandwidth, which then falls by half in each.
    assert!(
        record.ewma_bandwidth_bps > 0.0 && nic.ewma_bandwidth_bps > 0.0,
        "{record:?}"
    );

    for reader in [theirs, ours] {
        let peers = reader(redis, &["peers"]);
        let rows = cells(&peers);
        assert_eq!(rows.len(), 2, "{peers}");
        let pid = std::process::id().to_string();
        for (row, alias) in rows.iter().zip(["driver:0", "worker:0"]) {
            assert_eq!((row[0], row[2], row[4]), (alias, &*pid, "alive"), "{peers}");
        }
        // Beside its own answer the service has moved what its caller sent.
        let bytes = |row: &[&str]| row.iter().any(|cell| cell.starts_with("97.7"));
        assert!(!bytes(&rows[0]) && bytes(&rows[1]), "{peers}");
        let nics = reader(redis, &["nics"]);
        assert_eq!(cells(&nics)[0][..2], ["driver:0", "shm0"], "{nics}");
        assert!(bytes(&cells(&nics)[1]), "{nics}");
        let links = reader(redis, &["links"]);
        let link = ["driver:0", "shm0", "worker:0", "shm0", "connected"];
        assert_eq!(cells(&links)[0][..5], link, "{links}");
        let status = reader(redis, &["status"]);
        assert!(
            status.contains("Peers: 2 alive, 0 stale, 0 stopped"),
            "{status}"
        );
        let status: Value = serde_json::from_str(&reader(redis, &["status", "--json"])).unwrap();
        assert_eq!(
            (&status["alive"], &status["stopped"]),
            (&json!(2), &json!(0))
        );
    }

    let list = |words: &[&str]| {
        let mut command = nanoctrl("agents");
        command.args(["--peers", "--address", &server.url()]);
        command.env("NANOCTRL_REDIS_URL", redis.url());
        printed(command.args(words).output().unwrap())
    };
    let peers = list(&[]);
    let row: Vec<_> = peers
        .lines()
        .nth(1)
        .unwrap()
        .split("  ")
        .map(str::trim)
        .filter(|it| !it.is_empty())
        .collect();
    let why = "same host, user and network namespace";
    assert_eq!(
        row,
        ["driver:0", "worker:0", "alive", "shm", why],
        "{peers}"
    );
    let peers: Value = serde_json::from_str(&list(&["--json", "--all-scopes"])).unwrap();
    assert_eq!(
        (&peers[1]["alias"], &peers[1]["scope"]),
        (&json!("worker:0"), &json!(""))
    );

    driver.shutdown().await.unwrap();
    for reader in [theirs, ours] {
        let peers = reader(redis, &["peers"]);
        let rows = cells(&peers);
        assert_eq!((rows[0][0], rows[0][4]), ("driver:0", "stopped"), "{peers}");
        assert_eq!((rows[1][0], rows[1][4]), ("worker:0", "alive"), "{peers}");
    }
    let left: i64 = redis.run(&["PTTL", "obs:peer:driver:0"]);
    assert!((1..=10_000).contains(&left), "{left} ms");
}

#[actix::test]
async fn both_print_a_record_of_the_original_alike() {
    let redis = Redis::start();
    let now = millis_now();
    write(&redis, "obs:peer:driver:0", &original("driver:0", now));
    let old = original("worker:10", now - 60_000);
    write(&redis, "obs:peer:worker:10", &old);
    write(&redis, "job:obs:peer:w", &original("w", now));
    for view in ["status", "peers", "nics", "links"] {
        let theirs = theirs(&redis, &[view]);
        let ours = ours(&redis, &[view]);
        // Ages go on, and ours marks whose rows are stale.
        let same = |text: &str| {
            let text = text.replace(" (stale)", "").replace('─', "");
            let lines = text
                .lines()
                .filter(|line| line.contains(['│', ':']) && !line.contains("Note"));
            let word = |word: &str| match word.ends_with(['s', 'm'])
                && word.starts_with(|c: char| c.is_ascii_digit())
            {
                true => "AGE".to_owned(),
                false => word.to_owned(),
            };
            let words = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>();
            lines.map(words).collect::<Vec<_>>()
        };
        assert_eq!(same(&ours), same(&theirs), "{ours}{theirs}");
    }
    let json = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
    let words = ["peers", "--json", "--scope", "job"];
    assert_eq!(json(ours(&redis, &words)), json(theirs(&redis, &words)));
    for view in ["nics", "links"] {
        let words = [view, "--json", "--scope", "job"];
        let (mut ours, mut theirs) = (json(ours(&redis, &words)), json(theirs(&redis, &words)));
        for item in [&mut ours[0], &mut theirs[0]] {
            assert!(item["age_ms"].take().is_u64());
        }
        assert_eq!(ours, theirs);
    }
}

fn write(redis: &Redis, key: &str, record: &Value) {
    redis.run::<()>(&["SET", key, &record.to_string()]);
}

/// A record as DLSlime's reporter writes it.
fn original(alias: &str, at: u64) -> Value {
    json!({
        "schema_version": 1, "session_id": format!("{alias}:42:{at}"), "peer_id": alias, "host": "gpu7",
        "pid": 42, "reported_at_ms": at,
        "summary": {
            "assign_total": 10, "batch_total": 5, "submitted_bytes_total": 123_456_789,
            "completed_bytes_total": 123_456_700, "failed_bytes_total": 89, "pending_ops": 3,
            "pending_by_op": {"read": 1, "write": 2}, "error_total": 2,
            "user_mr_count": 1, "user_mr_bytes": 4096, "sys_mr_count": 2, "sys_mr_bytes": 512_000_000,
            "mr_count": 3, "mr_bytes": 512_004_096,
        },
        "nics": [{
            "nic": "rxe0", "nic_bdf": "", "assign_total": 10, "batch_total": 5,
            "submitted_bytes_total": 123_456_789, "completed_bytes_total": 123_456_700,
            "failed_bytes_total": 89, "pending_ops": 3, "error_total": 2, "post_batch_total": 5,
            "post_wr_total": 10, "post_bytes_total": 123_456_789, "post_failures_total": 0,
            "cq_errors_total": 1, "ewma_bandwidth_bps": 9_876_543_210.5,
            "by_op": {"write": {"assign": 1, "pending": 0}},
        }],
        "ewma_bandwidth_bps": 9_876_543_210.5,
        "connections": [{
            "conn_id": "x", "peer": "worker:1", "local_nic": "rxe0", "remote_nic": "rxe1",
            "state": "connected", "connected": true,
        }],
    })
}

#[actix::test]
async fn a_record_says_what_the_agent_is_and_what_became_of_its_peers_and_services() {
    let server = NanoCtrlServer::start();
    let redis = &server.redis;
    let began = millis_now();
    let worker = agent(&server, "worker:0").start().await.unwrap();
    worker.serve_with(|| Calc).named("calc").await.unwrap();
    let driver = agent(&server, "driver:0").start().await.unwrap();
    let calc = driver
        .proxy_named::<Calc>("worker:0", "calc")
        .await
        .unwrap();
    assert_eq!(calc.add(1, 2).await, Ok(3));
    assert!(calc.fail().await.is_err());

    let counted = |it: &SlimerpcObs| it.calls.iter().map(|it| it.calls).sum::<u64>() == 2;
    let record = said(redis, "driver:0", counted).await;
    let summary = &record.summary;
    assert_eq!(
        (
            summary.assign_total,
            summary.error_total,
            summary.pending_ops
        ),
        (2, 1, 0)
    );
    let it = record.slimerpc.unwrap();
    let calls: Vec<_> = it
        .calls
        .iter()
        .map(|it| (&*it.service, &*it.method, it.calls, it.errors))
        .collect();
    assert_eq!(calls, [("calc", "add", 1, 0), ("calc", "fail", 1, 1)]);
    assert!(
        it.calls[0].p50_us > 0.0 && it.calls[0].p999_us >= it.calls[0].p50_us,
        "{:?}",
        it.calls
    );

    let restarted = |it: &SlimerpcObs| {
        it.services
            .first()
            .is_some_and(|it| (it.restarts, it.callers) == (1, 1))
            && it.services[0].state == SlimerpcServiceState::Up
    };
    let record = said(redis, "worker:0", restarted).await;
    assert!((1..=180_000).contains(&redis.run::<i64>(&["PTTL", "obs:peer:worker:0"])));
    assert!(record.reported_at_ms >= began && !record.host.is_empty());
    assert_eq!(record.pid, u64::from(std::process::id()));
    assert!(
        record
            .session_id
            .starts_with(&format!("worker:0:{}:", record.pid))
    );
    assert!(record.summary.mr_count >= 4, "{:?}", record.summary);
    assert!(record.summary.mr_bytes > 1 << 20, "{:?}", record.summary);
    let it = record.slimerpc.unwrap();
    assert_eq!(
        (&*it.services[0].name, &*it.services[0].type_name),
        ("calc", "Calc")
    );
    let methods = &it.services[0].methods;
    let names: Vec<_> = methods
        .iter()
        .map(|it| (&*it.name, it.calls, it.errors))
        .collect();
    assert_eq!(names, [("add", 1, 0), ("fail", 1, 1)]);
    assert!(methods[0].p50_us > 0.0, "{methods:?}");
    assert_eq!(record.summary.assign_total, 2);
    assert_eq!(it.settings["max_inflight"], SlimerpcValue::Whole(16));
    assert_eq!(it.settings["devices"].to_string(), "shm0");
    assert_eq!(
        it.settings["control"].to_string(),
        format!("NanoCtrl at {}", server.url())
    );
    assert_eq!((it.period_ms, it.incarnation.len()), (1000, 16));
    let kinds: Vec<_> = it
        .events
        .iter()
        .map(|it| (&*it.kind, &*it.subject))
        .collect();
    assert_eq!(kinds, [("joined", "driver:0"), ("restarted", "calc")]);
    assert!(
        it.events[1].text.contains("as it was told"),
        "{:?}",
        it.events
    );
    let peer = &it.peers[0];
    assert_eq!((&*peer.alias, &*peer.fabric), ("driver:0", "shm"));
    assert_eq!(peer.fabric_why, "same host, user and network namespace");
    assert_eq!(peer.state, SlimerpcPeerState::Alive);
    assert!(peer.since_ms >= began);

    driver.shutdown().await.unwrap();
    let is_gone = |it: &SlimerpcObs| it.peers[0].state == SlimerpcPeerState::Gone;
    let it = said(redis, "worker:0", is_gone).await.slimerpc.unwrap();
    assert_eq!(it.peers[0].why, "it has left");
    let last = it.events.last().unwrap();
    assert_eq!((&*last.kind, &*last.subject), ("left", "driver:0"));
    let last = record_of_stopped(redis, "driver:0");
    assert!(!last.slimerpc.unwrap().events.is_empty());
}

fn record_of_stopped(redis: &Redis, alias: &str) -> ObsRecord {
    let last = record(redis, alias).expect("the last record stays for a while");
    assert_eq!(last.status.as_deref(), Some("stopped"));
    last
}

#[actix::test]
async fn nothing_is_published_unless_it_is_wanted() {
    let server = NanoCtrlServer::start();
    let is_silent = || !server.redis.keys().iter().any(|key| key.contains("obs:"));
    let silent = agent(&server, "worker:0").obs(false).start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(is_silent(), "{:?}", server.redis.keys());
    silent.shutdown().await.unwrap();
    assert!(is_silent(), "{:?}", server.redis.keys());
}

#[actix::test]
async fn fence_1_a_displaced_agent_does_not_speak_for_the_one_that_has_its_name() {
    let server = NanoCtrlServer::start();
    let redis = &server.redis;
    let displaced = agent(&server, "worker:0").start().await.unwrap();
    said(redis, "worker:0", |_| true).await;
    redis.run::<()>(&["HSET", "agent:worker:0", "incarnation", "another"]);
    write(redis, "obs:peer:worker:0", &original("worker:0", 7));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    displaced.shutdown().await.unwrap();
    assert_eq!(record(redis, "worker:0").unwrap().host, "gpu7");
}

#[actix::test]
async fn an_outage_of_redis_costs_records_and_nothing_else() {
    let mut server = NanoCtrlServer::start();
    let worker = agent(&server, "worker:0").start().await.unwrap();
    worker.serve(Calc).await.unwrap();
    let calc = worker.proxy::<Calc>("worker:0").await.unwrap();
    said(&server.redis, "worker:0", |_| true).await;
    server.redis.suspend();
    for n in 0..100 {
        assert_eq!(calc.add(n, 1).await, Ok(n + 1));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.redis.resume();
    let now = millis_now();
    let look = || record(&server.redis, "worker:0").is_some_and(|it| it.reported_at_ms > now);
    until("records go on", look).await;
    server.redis.stop();
    // Its last record is not waited for longer than the control plane itself.
    let _ = within("the agent has left", worker.shutdown()).await;
}

#[actix::test]
async fn input_1_hostile_records_are_skipped_and_counted() {
    let redis = Redis::start();
    let now = millis_now();
    write(&redis, "obs:peer:fine", &original("fine", now));
    let mut odd = original("odd", now);
    odd["schema_version"] = json!(2);
    write(&redis, "obs:peer:odd", &odd);
    write(&redis, "obs:peer:liar", &original("fine", now));
    redis.run::<()>(&["HSET", "obs:peer:hash", "a", "b"]);
    redis.run::<()>(&["SET", "obs:peer:torn", "{\"schema_version\":1,"]);
    redis.run::<()>(&["SET", "obs:peer:deep", &"[".repeat(100_000)]);
    // Half a gibibyte, of which no more than one mebibyte may be asked for.
    redis.run::<()>(&["SETRANGE", "obs:peer:huge", &(500 << 20).to_string(), "x"]);
    for n in 0..20 {
        redis.run::<()>(&["SET", &format!("obs:peer:\x1b[31m{n}"), "7"]);
    }
    let mut script = original("<script>alert(1)</script>\x1b[31m", u64::MAX);
    script["host"] = json!("\u{9b}31m".repeat(10_000));
    script["summary"]["assign_total"] = json!(u64::MAX);
    let key = format!("obs:peer:{}", script["peer_id"].as_str().unwrap());
    write(&redis, &key, &script);

    let before = redis.run::<String>(&["INFO", "stats"]);
    let scan = ObsReader::new(&redis.url().into())
        .unwrap()
        .read("")
        .await
        .unwrap();
    assert_eq!(
        (scan.records.len(), scan.skipped_total, scan.left_out),
        (2, 26, 0)
    );
    assert_eq!(scan.skipped.len(), 16);
    let sent = |statistics: &str| -> u64 {
        let mut lines = statistics.lines();
        let line = lines.find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        line.unwrap().trim().parse().unwrap()
    };
    let after = redis.run::<String>(&["INFO", "stats"]);
    assert!(
        sent(&after) - sent(&before) < 2 << 20,
        "no more than its beginning is read"
    );

    let status = ours(&redis, &["status"]);
    assert!(status.contains("Peers: 2 alive"), "{status}");
    assert!(status.contains(&format!("assign={}", u64::MAX)), "{status}");
    assert!(status.contains("26 records cannot be read"), "{status}");
    assert!(status.contains("and 10 more"), "{status}");
    for view in ["peers", "nics", "links", "status"] {
        let text = ours(&redis, &[view]);
        assert!(!text.contains(['\x1b', '\u{9b}']), "{text:?}");
        let output = nanoctrl("obs")
            .args([view, "--json", "--redis-url", &redis.url()])
            .output()
            .unwrap();
        assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok());
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(
            told.contains("26 records") && !told.contains('\x1b'),
            "{told:?}"
        );
    }
}

#[actix::test]
async fn stale_and_stopped_agents_are_marked_and_scopes_are_apart() {
    let redis = Redis::start();
    let now = millis_now();
    write(&redis, "obs:peer:old", &original("old", now - 60_000));
    write(&redis, "job[7]:obs:peer:w", &original("w", now - 60_000));
    write(&redis, "job7:obs:peer:other", &original("other", now));
    let mut stopped = original("stopped", now);
    stopped["status"] = json!("stopped");
    write(&redis, "obs:peer:stopped", &stopped);
    let peers = ours(&redis, &["peers"]);
    let states: Vec<_> = cells(&peers).iter().map(|row| (row[0], row[4])).collect();
    assert_eq!(states, [("old", "stale"), ("stopped", "stopped")]);
    let links = ours(&redis, &["links"]);
    assert!(
        links.contains("connected (stale)") && links.contains("connected (stopped)"),
        "{links}"
    );
    let nics = ours(&redis, &["nics"]);
    assert!(nics.contains("1m (stale)"), "{nics}");
    let patient = ours(
        &redis,
        &["peers", "--stale-ms", "120000", "--scope", "job[7]"],
    );
    let rows = cells(&patient);
    assert_eq!((rows.len(), rows[0][0], rows[0][4]), (1, "w", "alive"));
    let none = ours(&redis, &["peers", "--scope", "nobody"]);
    assert_eq!(none, "(no obs snapshots found)\n");
}

#[test]
fn watching_goes_on_each_second_and_ends_with_ctrl_c() {
    let redis = Redis::start();
    write(&redis, "obs:peer:w", &original("w", millis_now()));
    let mut command = nanoctrl("obs");
    command.args(["status", "--watch", "--json", "--redis-url", &redis.url()]);
    let mut watching = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    for alive in [1, 0] {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["alive"], alive);
        redis.run::<()>(&["DEL", "obs:peer:w"]);
    }
    kill_process(Pid::from_child(&watching), Signal::INT).unwrap();
    assert!(watching.wait().unwrap().success());

    // Whoever reads it may go before.
    let mut watching = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(watching.stdout.take());
    assert!(watching.wait().unwrap().success());
}

#[test]
fn where_redis_is_can_be_told_in_three_ways_and_errors_say_what_to_do() {
    let server = NanoCtrlServer::start();
    write(&server.redis, "obs:peer:w", &original("w", millis_now()));
    let mut named = nanoctrl("obs");
    named.arg("peers");
    let named = printed(
        named
            .env("NANOCTRL_REDIS_URL", server.redis.url())
            .output()
            .unwrap(),
    );
    assert!(named.contains("│ w "), "{named}");
    let complaint = |url: &str| {
        let output = nanoctrl("obs")
            .args(["status", "--redis-url", url])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let nobody = complaint(&format!("redis://127.0.0.1:{}", free_port()));
    assert!(nobody.contains("cannot be reached"), "{nobody}");
    let login = complaint(&format!(
        "redis://u:hunter2@127.0.0.1:{}",
        server.redis.port
    ));
    assert!(
        login.contains("--redis-url") && !login.contains("hunter2"),
        "{login}"
    );
    let odd = complaint("http://u:hunter2@h");
    assert!(
        odd.contains("redis://") && !odd.contains("hunter2"),
        "{odd}"
    );
}

/// Says what becomes of an agent in the environment that it finds.
#[actix::test]
#[ignore = "run by the others"]
async fn child() {
    println!();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stdout)
        .init();
    match PeerAgent::builder().alias("w").device("shm0").start().await {
        Ok(agent) => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            println!("started {}", agent.alias());
            agent.shutdown().await.unwrap();
        }
        Err(error) => println!("refused: {error}"),
    }
}

fn started_with(variables: &[(&str, &str)]) -> String {
    let mut child = test_process(module_path!(), "child");
    for variable in [
        "DLSLIME_OBS",
        "DLSLIME_OBS_TIME_STEP_MS",
        "DLSLIME_OBS_REDIS",
    ] {
        child.env_remove(variable);
    }
    child.envs(variables.iter().copied());
    printed(child.output().unwrap())
}

#[test]
fn variables_turn_it_on_as_they_do_for_dlslime_and_odd_ones_are_refused() {
    let server = NanoCtrlServer::start();
    let url = server.url();
    let control = ("SLIME_RPC_CONTROL", &*url);
    let is_there = || record(&server.redis, "w").map(|it| it.slimerpc.unwrap().period_ms);
    let on = ("DLSLIME_OBS", "1");
    started_with(&[control]);
    started_with(&[control, ("DLSLIME_OBS", "0")]);
    started_with(&[control, on, ("DLSLIME_OBS_REDIS", "0")]);
    assert_eq!(is_there(), None);
    let said = started_with(&[control, on, ("DLSLIME_OBS_TIME_STEP_MS", "50")]);
    assert_eq!(is_there(), Some(50), "{said}");
    for (name, value, why) in [
        ("DLSLIME_OBS", "perhaps", "1 or 0"),
        ("DLSLIME_OBS_TIME_STEP_MS", "0", "10 to 3,600,000 ms"),
        ("DLSLIME_OBS_TIME_STEP_MS", "soon", "a whole number"),
    ] {
        let said = started_with(&[control, on, (name, value)]);
        let refused = said.lines().find(|line| line.starts_with("refused: "));
        let refused = refused.unwrap_or_else(|| panic!("{name}={value}: {said}"));
        assert!(refused.contains(name) && refused.contains(why), "{refused}");
    }
    let alone = started_with(&[("SLIME_RPC_CONTROL", "local"), on]);
    assert!(alone.contains("DLSLIME_OBS has no effect"), "{alone}");
    assert!(alone.contains("started w"), "{alone}");
}

#[actix::test]
async fn a_program_that_wants_records_where_there_is_no_redis_does_not_start() {
    let refused = PeerAgent::builder().local().obs(true).start().await;
    let Err(AgentError::Setting { name, allowed, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(name == "obs" && allowed.contains("NanoCtrl"), "{allowed}");
}

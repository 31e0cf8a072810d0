//! `nanoctrl services` and `nanoctrl agents`, as a user types them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use serde_json::{Value, json};
use slimerpc::control::{Control, Entity, Host, NanoCtrl, Registration};
use slimerpc_actors::{PeerAgent, service};
use support::{NanoCtrlServer, fake_http::FakeHttp, free_port};

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

fn nanoctrl(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nanoctrl"));
    // Whatever runs for the developer is none of the test's business.
    let nowhere = std::env::temp_dir().join("nanoctrl-that-never-ran");
    command.env("NANOCTRL_RUNTIME_DIR", nowhere);
    command.args(words).output().unwrap()
}

/// What it printed.
fn printed(words: &[&str]) -> String {
    let output = nanoctrl(words);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

async fn worker(server: &NanoCtrlServer, alias: &str, scope: &str) -> PeerAgent {
    let builder = PeerAgent::builder().alias(alias).scope(scope);
    let builder = builder.device("shm0").nanoctrl(server.url());
    let worker = builder.start().await.unwrap();
    worker.serve(Calc).await.unwrap();
    worker
}

#[actix::test]
async fn services_are_printed_as_a_table_and_as_json() {
    let server = NanoCtrlServer::start();
    let url = server.url();
    assert_eq!(printed(&["services", "--address", &url]), "no services\n");
    let worker = worker(&server, "worker:0", "").await;
    worker.serve(Calc).named("second").await.unwrap();

    let table = printed(&["services", "--address", &url]);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|it| it.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert_eq!(
        lines[0],
        ["ALIAS", "SERVICE", "TYPE", "CODEC", "UP", "METHODS"]
    );
    assert_eq!(lines[1][..4], ["worker:0", "Calc", "Calc", "bincode"]);
    assert_eq!(lines[1][5..], ["add", "sub"]);
    assert_eq!(lines[2][..3], ["worker:0", "second", "Calc"]);

    let json: Value =
        serde_json::from_str(&printed(&["services", "--json", "--address", &url])).unwrap();
    assert_eq!(json[1]["service"], "second");
    assert_eq!(json[1]["methods"], json!(["add", "sub"]));
}

#[actix::test]
async fn agents_of_this_host_are_listed_without_a_server() {
    let runtime = tempfile::tempdir().unwrap();
    let listed = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nanoctrl"));
        command.env("XDG_RUNTIME_DIR", runtime.path()).args(words);
        let output = command.args(["--ctrl", "host"]).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    assert_eq!(listed(&["agents"]), (true, "no agents\n".to_owned()));
    let agent = Host::at(runtime.path().join("slimerpc"), "job");
    let registration = Registration {
        alias: Some("worker:0".to_owned()),
        address: "192.0.2.1".to_owned(),
        ..Registration::default()
    };
    agent.register(registration).await.unwrap();
    let junk = Entity {
        id: "junk".to_owned(),
        kind: "rpc-worker".to_owned(),
        metadata: json!({}),
    };
    agent.advertise(junk).await.unwrap();
    assert_eq!(listed(&["agents"]), (true, "no agents\n".to_owned()));
    let (_, table) = listed(&["agents", "--scope", "job"]);
    assert!(
        table.lines().count() == 2 && table.contains("192.0.2.1"),
        "{table}"
    );
    let (_, services) = listed(&["services", "--scope", "job"]);
    assert!(services.contains("skipped junk"), "{services}");
    for refused in [&["agents", "--all-scopes"][..], &["agents", "--port", "1"]] {
        let (is_success, said) = listed(refused);
        assert!(
            !is_success && said.contains("cannot be used with"),
            "{said}"
        );
    }
    fs::set_permissions(
        runtime.path().join("slimerpc"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let (is_success, said) = listed(&["agents"]);
    assert!(!is_success && said.contains("mode 755"), "{said}");
    drop(agent);
    fs::remove_dir_all(runtime.path()).unwrap();
    let (is_success, said) = listed(&["agents"]);
    let reason = "XDG_RUNTIME_DIR names a directory that does not exist";
    assert!(!is_success && said.contains(reason), "{said}");
}

#[actix::test]
async fn agents_are_printed_as_a_table_and_as_json() {
    let server = NanoCtrlServer::start();
    let url = server.url();
    let _worker = worker(&server, "worker:0", "").await;
    let python = NanoCtrl::new(&url, "").unwrap();
    let registration = Registration {
        alias: Some("python:0".to_owned()),
        address: "127.0.0.1".to_owned(),
        device: Some("mlx5_0".to_owned()),
        ib_port: Some(1),
        link_type: Some("RoCE".to_owned()),
        resource: Some(json!({"host": {"hostname": "gpu7"}, "nics": []})),
    };
    python.register(registration).await.unwrap();

    let table = printed(&["agents", "--address", &url]);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|it| it.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0],
        ["ALIAS", "KIND", "HOST", "PID", "ADDRESS", "DEVICE", "LINK"]
    );
    assert_eq!(
        lines[1],
        [
            "python:0",
            "dlslime",
            "gpu7",
            "-",
            "127.0.0.1",
            "mlx5_0",
            "RoCE"
        ]
    );
    let pid = std::process::id().to_string();
    assert_eq!(
        (lines[2][0], lines[2][1], lines[2][3]),
        ("worker:0", "native", &*pid)
    );

    let json: Value =
        serde_json::from_str(&printed(&["agents", "--json", "--address", &url])).unwrap();
    assert_eq!(json[0]["alias"], "python:0");
    assert_eq!(json[1]["pid"], std::process::id());
}

#[actix::test]
async fn only_the_scope_asked_for_is_listed() {
    let server = NanoCtrlServer::start();
    let url = server.url();
    let _worker = worker(&server, "worker:0", "job").await;
    for what in ["services", "agents"] {
        assert_eq!(printed(&[what, "--address", &url]), format!("no {what}\n"));
        assert_eq!(printed(&[what, "--address", &url, "--json"]), "[]\n");
        let table = printed(&[what, "--address", &url, "--scope", "job"]);
        assert!(table.contains("worker:0"), "{table}");
    }
}

#[actix::test]
async fn a_port_names_the_server_and_all_scopes_are_listed_at_once() {
    let server = NanoCtrlServer::start();
    let port = server.port.to_string();
    let mut workers = Vec::new();
    for (alias, scope) in [("w:0", ""), ("w:1", "job-1"), ("w:2", "a:b%")] {
        workers.push(worker(&server, alias, scope).await);
    }
    for words in [["--port", &port], ["--address", &server.url()]] {
        let listed = printed(&[&["agents", "--all-scopes"], &words[..]].concat());
        let lines: Vec<Vec<&str>> = listed
            .lines()
            .map(|it| it.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0][..2], ["SCOPE", "ALIAS"], "{listed}");
        let found: Vec<_> = lines[1..].iter().map(|it| it[0]).collect();
        assert_eq!(found, ["w:0", "a:b%", "job-1"], "{listed}");
    }
    let host = ["--host", "127.0.0.1", "--port", &port];
    let listed = printed(&[&["services", "--json", "--all-scopes"], &host[..]].concat());
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let found: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (&it["scope"], &it["alias"]))
        .collect();
    let scopes = [("", "w:0"), ("a:b%", "w:2"), ("job-1", "w:1")];
    let scopes = scopes.map(|(scope, alias)| (json!(scope), json!(alias)));
    assert!(
        found
            .into_iter()
            .eq(scopes.iter().map(|(scope, alias)| (scope, alias))),
        "{listed}"
    );
    let one = printed(&[&["agents", "--scope", "job-1"], &host[..]].concat());
    assert!(
        one.contains("w:1") && !one.contains("w:0") && !one.contains("SCOPE"),
        "{one}"
    );
    assert!(
        String::from_utf8_lossy(&nanoctrl(&["status", "--port", &port]).stdout)
            .contains("health: ok")
    );
    for words in [
        &["agents", "--all-scopes", "--scope", "x"][..],
        &["agents", "--port", "1", "--address", "h"],
    ] {
        assert_eq!(nanoctrl(words).status.code(), Some(2), "{words:?}");
    }
    for worker in workers {
        worker.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn agents_that_call_each_other_leave_nothing_without_a_lease_and_look_through_no_keys() {
    let server = NanoCtrlServer::start();
    // The keys, if nobody but we has looked through them.
    let keys = || {
        assert_eq!(server.redis.looks_through_keys(), Vec::<String>::new());
        let keys = server.redis.keys();
        let _: String = server.redis.run(&["CONFIG", "RESETSTAT"]);
        keys
    };
    let (short, long) = (
        worker(&server, "w", "").await,
        worker(&server, "w:0", "").await,
    );
    for peer in ["w", "w:0"] {
        let driver = worker(&server, "driver", "").await;
        let calc = driver.proxy::<Calc>(peer).await.unwrap();
        assert_eq!(calc.add(1, 2).await.unwrap(), 3);
        for key in keys() {
            let left: i64 = server.redis.run(&["TTL", &key]);
            assert!((0..=60).contains(&left), "{key} lives for {left} s");
        }
        driver.shutdown().await.unwrap();
    }
    // What begins with the name of one that leaves stays callable for those who come.
    short.shutdown().await.unwrap();
    let late = worker(&server, "late", "").await;
    let calc = late.proxy::<Calc>("w:0").await.unwrap();
    assert_eq!(calc.sub(3, 2).await.unwrap(), 1);
    late.shutdown().await.unwrap();
    long.shutdown().await.unwrap();
    let left = keys();
    assert!(
        left.iter().all(|key| key.contains("nano_meta:")),
        "{left:?}"
    );
}

#[actix::test]
async fn a_server_that_lists_no_scopes_is_named() {
    let server = FakeHttp::start(|_| Some((404, Vec::new())));
    let output = nanoctrl(&["agents", "--all-scopes", "--address", &server.url()]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error.contains("--scope") && error.lines().count() == 1,
        "{error}"
    );
}

#[actix::test]
async fn input_1_odd_names_do_not_reach_the_terminal_as_they_are() {
    let server = NanoCtrlServer::start();
    let url = server.url();
    let anybody = NanoCtrl::new(&url, "").unwrap();
    anybody.register(Registration::default()).await.unwrap();
    let entity = |id: &str, metadata| Entity {
        id: id.to_owned(),
        kind: "rpc-worker".to_owned(),
        metadata,
    };
    let odd = json!({"alias": "w", "incarnation": "1", "service": "\u{1b}[2Jred", "type": "T",
        "methods": ["m".repeat(500)], "codec": "c", "wire_version": 1, "since": 1});
    anybody.advertise(entity("1", odd)).await.unwrap();
    anybody
        .advertise(entity("\u{1b}[2J", json!(7)))
        .await
        .unwrap();
    let output = nanoctrl(&["services", "--address", &url]);
    assert!(output.status.success());
    for bytes in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains('\u{1b}') && text.contains("[2J"), "{text:?}");
        assert!(text.len() < 400, "{text}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let url = format!("http://127.0.0.1:{}", free_port());
    for what in ["services", "agents"] {
        let output = nanoctrl(&[what, "--address", &url]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            error.contains(&url) && error.contains("nanoctrl start"),
            "{error}"
        );
    }
    let output = nanoctrl(&["services", "--address", &url, "--scope", "a/b"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("`a/b` cannot be used as scope"), "{error}");
}

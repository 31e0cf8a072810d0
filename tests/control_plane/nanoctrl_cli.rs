//! The `nanoctrl` command line, as a user types it.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::nanoctrl::http;
use support::{Redis, free_port, wait_until};
use tempfile::TempDir;

/// A user of `nanoctrl` with a runtime folder of their own and nothing else in the environment.
struct User {
    home: TempDir,
    port: u16,
    variables: Vec<(String, String)>,
}

impl User {
    fn new() -> Self {
        Self::at(free_port())
    }

    fn at(port: u16) -> Self {
        Self {
            home: TempDir::new().unwrap(),
            port,
            variables: Vec::new(),
        }
    }

    fn set(&mut self, prefix: &str, name: &str, value: &str) {
        let variable = format!("{prefix}_{name}");
        self.variables.push((variable, value.to_owned()));
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nanoctrl"));
        command.args(words).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.env("TMPDIR", self.home.path());
        let names_folder = |(name, _): &(String, String)| name.ends_with("RUNTIME_DIR");
        if !self.variables.iter().any(names_folder) {
            // Without that, servers of other tests would be told of.
            command.env("NANOCTRL_RUNTIME_DIR", self.home.path().join("nanoctrl"));
        }
        command.envs(self.variables.iter().cloned());
        command
    }

    /// A command of one whose session has a folder for files like these.
    fn in_session(&self, words: &[&str]) -> Command {
        let mut command = self.command(words);
        command.env_remove("NANOCTRL_RUNTIME_DIR");
        command.env("XDG_RUNTIME_DIR", self.home.path());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Starts a server in the background; what it said.
    fn start(&self, more: &[&str]) -> String {
        let port = self.port.to_string();
        let mut words = vec!["start", "--host", "127.0.0.1", "--port", &port];
        words.extend(more);
        succeeded(&self.run(&words))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("nanoctrl/nanoctrl.log")).unwrap()
    }

    /// The Redis address that the server tells an agent at `address`.
    fn told_at(&self, address: &str) -> String {
        let server = ([127, 0, 0, 1], self.port).into();
        let body = format!(r#"{{"address":"{address}"}}"#);
        let answer = http::post(server, "/start_peer_agent", &body).json();
        answer["redis_address"].as_str().unwrap().to_owned()
    }

    fn answers(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.run(&["stop", "--force"]);
    }
}

fn succeeded(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    text
}

/// What a command that failed has printed to standard error.
fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn pid_in(text: &str) -> i32 {
    let (_, rest) = text.split_once("(pid=").unwrap();
    rest.split_once(')').unwrap().0.parse().unwrap()
}

/// Processes whose parent is `pid`.
fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = threads
        .flatten()
        .map(|thread| fs::read_to_string(thread.path().join("children")));
    let pids = lists.flatten().collect::<Vec<_>>().concat();
    pids.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

fn is_gone(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Ends a child with SIGTERM; its exit code.
fn terminate(mut child: Child) -> Option<i32> {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut code = None;
    wait_until("the server has ended", || {
        code = child.try_wait().unwrap().map(|status| status.code());
        code.is_some()
    });
    code.flatten()
}

#[test]
fn start_status_stop() {
    let (user, redis) = (User::new(), Redis::start());
    let asked = user.run(&["status"]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&asked.stdout).starts_with("nanoctrl is not running\n"));

    let started = user.start(&["--redis-url", &redis.url()]);
    let pid = pid_in(&started);
    assert!(
        started.starts_with(&format!("nanoctrl started (pid={pid})\n")),
        "{started}"
    );
    assert!(started.contains(&format!("address: http://127.0.0.1:{}\n", user.port)));
    assert!(!started.contains("private"), "{started}");
    assert!(user.answers());

    let status = succeeded(&user.run(&["status"]));
    assert!(
        status.contains(&format!("pid: {pid}\n")) && status.contains("health: ok\n"),
        "{status}"
    );

    let again = user.start(&["--redis-url", &redis.url()]);
    assert_eq!(again, format!("nanoctrl is already running (pid={pid})\n"));

    let stopped = succeeded(&user.run(&["stop"]));
    assert_eq!(stopped, format!("nanoctrl stopped (pid={pid})\n"));
    assert!(is_gone(pid) && !user.answers());
    assert_eq!(succeeded(&user.run(&["stop"])), "nanoctrl is not running\n");
    assert_eq!(user.run(&["status"]).status.code(), Some(1));
}

#[test]
fn a_redis_of_its_own_ends_with_the_server() {
    let user = User::new();
    let there_is_one = TcpStream::connect("127.0.0.1:6379").is_ok();
    let started = user.start(&["--wait", "1e19"]);
    let private = !there_is_one;
    assert_eq!(
        started.contains("redis: a private one"),
        private,
        "{started}"
    );
    let pid = pid_in(&started);
    let redis = children(pid);
    assert_eq!(redis.len(), usize::from(private));
    // That is never.
    succeeded(&user.run(&["stop", "--timeout", "1e19"]));
    for redis in redis {
        wait_until("the private Redis has ended", || is_gone(redis));
    }
}

#[test]
fn a_private_redis_ends_with_a_server_that_was_killed() {
    let user = User::new();
    if TcpStream::connect("127.0.0.1:6379").is_ok() {
        // With a Redis on the default port there is no private one; the test above says so.
        return;
    }
    let pid = pid_in(&user.start(&[]));
    let redis = children(pid);
    assert_eq!(redis.len(), 1);
    let server = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
    wait_until("the private Redis has ended", || is_gone(redis[0]));
    assert_eq!(
        user.run(&["status"]).status.code(),
        Some(1),
        "the files of a dead server are not believed"
    );
}

#[test]
fn a_private_redis_that_was_killed_is_replaced_at_its_address() {
    let user = User::new();
    if TcpStream::connect("127.0.0.1:6379").is_ok() {
        // With a Redis on the default port there is no private one; the test above says so.
        return;
    }
    let pid = pid_in(&user.start(&[]));
    let (address, redis) = (user.told_at("127.0.0.1"), children(pid));
    let killed = rustix::process::Pid::from_raw(redis[0]).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    wait_until(
        "another private Redis runs",
        || matches!(children(pid).as_slice(), [other] if *other != redis[0]),
    );
    wait_until("the server uses it", || {
        let server = ([127, 0, 0, 1], user.port).into();
        http::post(server, "/query", "{}").status == 200
    });
    assert_eq!(user.told_at("127.0.0.1"), address);
}

#[test]
fn a_server_in_the_foreground_ends_cleanly_on_sigterm() {
    let (user, redis) = (User::new(), Redis::start());
    for words in [&["server"][..], &[]] {
        let port = user.port.to_string();
        let mut command = user.command(words);
        command.args([
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--redis-url",
            &redis.url(),
        ]);
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        wait_until("the server answers", || user.answers());
        assert_eq!(terminate(child), Some(0));
        assert!(!user.answers());
    }
}

#[test]
fn a_server_that_is_open_to_all_says_so_once_and_never_its_token() {
    let redis = Redis::start();
    for (host, token, warns) in [
        ("0.0.0.0", None, 1),
        ("0.0.0.0", Some("hunter2-hunter2"), 0),
        ("127.0.0.1", None, 0),
    ] {
        let mut user = User::new();
        user.set("NANOCTRL", "RUST_LOG", "trace");
        if let Some(token) = token {
            user.set("NANOCTRL", "TOKEN", token);
        }
        let port = user.port.to_string();
        let words = ["server", "--host", host, "--port", &port];
        let said = user.home.path().join("said");
        let mut command = user.command(&words);
        command.args(["--redis-url", &redis.url()]);
        let child = command
            .stdout(File::create(&said).unwrap())
            .spawn()
            .unwrap();
        wait_until("the server answers", || user.answers());
        assert!(user.run(&["agents", "--port", &port]).status.success());
        assert_eq!(terminate(child), Some(0));
        let said = fs::read_to_string(said).unwrap();
        assert_eq!(said.matches("set NANOCTRL_TOKEN").count(), warns, "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_server_in_the_foreground_ends_its_private_redis_on_sigterm() {
    let user = User::new();
    if TcpStream::connect("127.0.0.1:6379").is_ok() {
        // With a Redis on the default port there is no private one.
        return;
    }
    let port = user.port.to_string();
    let mut command = user.command(&["server", "--host", "127.0.0.1", "--port", &port]);
    let said = user.home.path().join("said");
    let child = command
        .stdout(File::create(&said).unwrap())
        .spawn()
        .unwrap();
    wait_until("the server answers", || user.answers());
    let redis = children(child.id().cast_signed());
    assert_eq!(redis.len(), 1);
    assert_eq!(terminate(child), Some(0));
    assert!(is_gone(redis[0]));
    let said = fs::read_to_string(said).unwrap();
    assert!(said.contains("private redis-server started"), "{said}");
    let left: Vec<_> = fs::read_dir(user.home.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn both_prefixes_work_for_every_variable() {
    let redis = Redis::start();
    for prefix in ["NANOCTRL", "DLSLIME_CTRL"] {
        let mut user = User::new();
        let folder = user.home.path().join("elsewhere");
        user.set(prefix, "RUNTIME_DIR", folder.to_str().unwrap());
        user.set(prefix, "REDIS_URL", &redis.url());
        user.set(prefix, "REDIS_ADVERTISE", "198.51.100.2:8888");
        user.set(prefix, "RUST_LOG", "off");

        let pid = pid_in(&user.start(&[]));
        let noted = fs::read_to_string(folder.join("nanoctrl.pid")).unwrap();
        assert_eq!(noted, pid.to_string());
        assert_eq!(user.told_at("127.0.0.1"), "198.51.100.2:8888");
        succeeded(&user.run(&["stop"]));
        let log = fs::read_to_string(folder.join("nanoctrl.log")).unwrap();
        assert_eq!(log, "");
    }
}

#[test]
fn agents_elsewhere_are_told_the_public_address() {
    let (mut user, redis) = (User::new(), Redis::start());
    user.set("REDIS", "PUBLIC_ADDRESS", "198.51.100.1:7777");
    user.start(&["--redis-url", &redis.url()]);
    assert_eq!(user.told_at("10.9.8.7"), "198.51.100.1:7777");
    let local = format!("127.0.0.1:{}", redis.port);
    assert_eq!(user.told_at("127.0.0.1"), local);
}

#[test]
fn both_prefixes_name_the_redis_and_nanoctrl_wins() {
    let (user, redis) = (User::new(), Redis::start());
    let nowhere = format!("redis://127.0.0.1:{}", free_port());
    let cases: [&[(&str, &str)]; 3] = [
        &[("NANOCTRL_REDIS_URL", &redis.url())],
        &[("DLSLIME_CTRL_REDIS_URL", &redis.url())],
        &[
            ("DLSLIME_CTRL_REDIS_URL", &nowhere),
            ("NANOCTRL_REDIS_URL", &redis.url()),
        ],
    ];
    for variables in cases {
        let port = user.port.to_string();
        // The environment overrides the option.
        let words = [
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--redis-url",
            &nowhere,
        ];
        let mut command = user.command(&words);
        command
            .envs(variables.iter().copied())
            .stdout(Stdio::null());
        let child = command.spawn().unwrap();
        wait_until("the server answers", || user.answers());
        assert_eq!(terminate(child), Some(0), "{variables:?}");
    }
}

#[test]
fn a_redis_that_is_not_there_is_an_error_that_names_it() {
    let user = User::new();
    let url = format!("redis://user:secret@127.0.0.1:{}", free_port());
    let port = user.port.to_string();
    let told = failed(&user.run(&["start", "--port", &port, "--redis-url", &url]));
    assert!(told.contains("redis://127.0.0.1:"), "{told}");
    assert!(!told.contains("secret"), "{told}");
    assert!(!user.log().contains("secret"));
    let told = failed(&user.run(&["start", "--port", &port, "--redis-url", "not a url"]));
    assert!(told.contains("not a url"), "{told}");
}

#[test]
fn without_any_redis_the_error_names_the_ways_out() {
    if TcpStream::connect("127.0.0.1:6379").is_ok() {
        // There is one: nothing to complain about, as `a_redis_of_its_own_ends_with_the_server`
        // checks.
        return;
    }
    let user = User::new();
    let empty = TempDir::new().unwrap();
    for word in ["start", "server"] {
        let mut command = user.command(&[word]);
        let told = failed(&command.env("PATH", empty.path()).output().unwrap());
        for way in [
            "install redis-server",
            "start a Redis at redis://127.0.0.1:6379",
            "--redis-url redis://HOST:PORT, or NANOCTRL_REDIS_URL",
        ] {
            assert!(told.contains(way), "{told}");
        }
    }
}

#[test]
fn a_port_that_is_taken_is_an_error() {
    let (user, redis) = (User::new(), Redis::start());
    let taken = std::net::TcpListener::bind(("127.0.0.1", user.port)).unwrap();
    let port = user.port.to_string();
    let words = [
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--redis-url",
        &redis.url(),
    ];
    let told = failed(&user.run(&words));
    assert!(told.contains(&format!("127.0.0.1:{port}")), "{told}");
    drop(taken);
}

#[test]
fn another_server_at_the_address_is_left_alone() {
    let (user, redis) = (User::new(), Redis::start());
    user.start(&["--redis-url", &redis.url()]);
    let other = User::at(user.port);
    let told = other.start(&["--redis-url", &redis.url()]);
    assert!(told.contains("nanoctrl did not start"), "{told}");
    assert_eq!(
        succeeded(&other.run(&["stop"])),
        "nanoctrl is not running\n"
    );
    assert!(user.answers());
}

#[test]
fn a_stale_pid_of_another_program_is_not_signalled() {
    let user = User::new();
    let folder = user.home.path().join("nanoctrl");
    fs::create_dir_all(&folder).unwrap();
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    write(&folder, "nanoctrl.pid", &sleeper.id().to_string());
    let meta = format!(
        r#"{{"pid":{},"address":"http://127.0.0.1:1","cmd":["nanoctrl","server"],"log":"/x","started_at":1}}"#,
        sleeper.id()
    );
    write(&folder, "nanoctrl.meta.json", &meta);
    assert_eq!(succeeded(&user.run(&["stop"])), "nanoctrl is not running\n");
    assert!(sleeper.try_wait().unwrap().is_none(), "it was signalled");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

#[test]
fn a_token_is_wanted_brought_and_shown_nowhere() {
    let (mut user, redis) = (User::new(), Redis::start());
    redis.run::<()>(&["CONFIG", "SET", "requirepass", "hunter1"]);
    user.set("NANOCTRL", "TOKEN", "hunter2");
    let url = format!("redis://:hunter1@127.0.0.1:{}", redis.port);
    let started = user.start(&["--redis-url", &url]);
    let pid = pid_in(&started);
    let meta = fs::read_to_string(user.home.path().join("nanoctrl/nanoctrl.meta.json")).unwrap();
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    for shown in [started, user.log(), meta, command] {
        assert!(!shown.contains("hunter"), "{shown}");
    }
    let status = succeeded(&user.run(&["status"]));
    assert!(!status.contains("token:"), "{status}");
    assert_eq!(succeeded(&user.run(&["agents"])), "no agents\n");

    user.variables.clear();
    let status = succeeded(&user.run(&["status"]));
    let told = "health: ok\ntoken: needed, and none was brought; set NANOCTRL_TOKEN\n";
    assert!(status.contains(told), "{status}");
    let status = succeeded(&user.run(&["status", "--token", "wrong"]));
    assert!(
        status.contains("token: needed, and another one was brought"),
        "{status}"
    );
    let error = failed(&user.run(&["services"]));
    assert!(
        error.contains("wants a token") && error.contains("NANOCTRL_TOKEN"),
        "{error}"
    );
    let error = failed(&user.run(&["services", "--token", "wrong"]));
    assert!(
        error.contains("refuses our token") && !error.contains("wrong"),
        "{error}"
    );
    assert_eq!(
        succeeded(&user.run(&["services", "--token", "hunter2"])),
        "no services\n"
    );
}

#[test]
fn a_token_that_cannot_be_sent_keeps_the_server_from_starting() {
    let (user, redis) = (User::new(), Redis::start());
    let port = user.port.to_string();
    for word in ["start", "server"] {
        let words = [
            word,
            "--port",
            &port,
            "--redis-url",
            &redis.url(),
            "--token",
            "two words",
        ];
        let error = failed(&user.run(&words));
        assert!(error.contains("token cannot be used"), "{error}");
        assert!(!error.contains("two words"), "{error}");
    }
}

#[test]
fn a_redis_that_may_remove_keys_is_warned_of_and_one_that_does_not_say_is_not() {
    for (acl, is_told) in [("+@all", true), ("-info", true), ("-info -config", false)] {
        let (user, redis) = (User::new(), Redis::start());
        redis.run::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
        let mut words = vec!["ACL", "SETUSER", "u", "on", ">x", "~*", "&*", "+@all"];
        words.extend(acl.split(' '));
        redis.run::<()>(&words);
        user.start(&[
            "--redis-url",
            &format!("redis://u:x@127.0.0.1:{}", redis.port),
        ]);
        let log = user.log();
        let is_warned = log.contains("WARN") && log.contains("allkeys-lru");
        assert_eq!(is_warned, is_told, "{acl}: {log}");
    }
}

/// Runs a command whose standard output goes there; its exit status and what it says of errors.
fn run_into(user: &User, words: &[&str], output: impl Into<Stdio>) -> (Option<i32>, String) {
    let mut command = user.command(words);
    let command = command.stdout(output).stderr(Stdio::piped());
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), errors)
}

#[test]
fn a_reader_that_has_gone_ends_no_command_and_a_full_disk_fails_it_with_one_line() {
    let (user, redis) = (User::new(), Redis::start());
    let (url, port) = (redis.url(), user.port.to_string());
    let start = [
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--redis-url",
        &url,
    ];
    let commands: [&[&str]; 10] = [
        &start,
        &["services"],
        &["services", "--json"],
        &["agents"],
        &["agents", "--json", "--all-scopes"],
        &["status"],
        &["--help"],
        &["services", "--help"],
        &["--version"],
        &["stop"],
    ];
    for words in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(
            run_into(&user, words, writer),
            (Some(0), String::new()),
            "{words:?}"
        );
    }
    for words in commands {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (code, errors) = run_into(&user, words, full);
        assert_eq!(code, Some(1), "{words:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{words:?}: {errors}");
        assert!(
            errors.contains("cannot write to standard output"),
            "{words:?}: {errors}"
        );
    }
    // Nor is there a panic if nothing can be said at all.
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for words in [
        &["status"][..],
        &["stop"],
        &["agents"],
        &["no-such-command"],
    ] {
        let mut command = user.command(words);
        let status = command.stdout(full()).stderr(full()).status().unwrap();
        assert!(matches!(status.code(), Some(1 | 2)), "{words:?}: {status}");
    }
}

#[test]
fn a_server_whose_log_nobody_reads_any_more_goes_on() {
    let (user, redis) = (User::new(), Redis::start());
    let (url, port) = (redis.url(), user.port.to_string());
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut command = user.command(&["server", "--port", &port, "--redis-url", &url]);
    let server = command.stdout(full()).stderr(full()).spawn().unwrap();
    wait_until("the server answers", || user.answers());
    assert_eq!(
        user.told_at("127.0.0.1"),
        format!("127.0.0.1:{}", redis.port)
    );
    assert_eq!(terminate(server), Some(0));
}

#[test]
fn a_server_that_was_started_with_another_environment_is_found_or_told_of() {
    let (user, redis) = (User::new(), Redis::start());
    // Started without XDG_RUNTIME_DIR, it is found with it.
    let port = user.port.to_string();
    let words = ["start", "--port", &port, "--redis-url", &redis.url()];
    let started = user
        .in_session(&words)
        .env_remove("XDG_RUNTIME_DIR")
        .output();
    let pid = pid_in(&succeeded(&started.unwrap()));
    let run = |word| user.in_session(&[word]).output().unwrap();
    assert!(succeeded(&run("status")).contains(&format!("pid: {pid}\n")));
    let stopped = succeeded(&run("stop"));
    assert_eq!(stopped, format!("nanoctrl stopped (pid={pid})\n"));

    // Started with it, it cannot be found without or with another, but is told of.
    let pid = pid_in(&succeeded(&user.in_session(&words).output().unwrap()));
    let elsewhere = TempDir::new().unwrap();
    for (word, is_in_session) in [
        ("stop", false),
        ("stop", true),
        ("status", false),
        ("status", true),
    ] {
        let mut command = user.in_session(&[word]);
        command.env("TMPDIR", elsewhere.path());
        match is_in_session {
            true => command.env("XDG_RUNTIME_DIR", elsewhere.path()),
            false => command.env_remove("XDG_RUNTIME_DIR"),
        };
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        let looked = elsewhere.path().join("nanoctrl").display().to_string();
        assert!(errors.contains(&looked), "{errors}");
        assert!(
            errors.contains("answers at http://127.0.0.1:3000"),
            "{errors}"
        );
        let (_, told) = errors.split_once(&format!("(pid={pid})")).expect(&errors);
        let folder = user.home.path().join("nanoctrl");
        let hint = format!("NANOCTRL_RUNTIME_DIR={}", folder.display());
        assert!(told.lines().nth(1).unwrap().contains(&hint), "{errors}");
    }
    let mut stop = user.command(&["stop"]);
    let folder = user.home.path().join("nanoctrl");
    stop.env_clear().env("NANOCTRL_RUNTIME_DIR", folder);
    let stopped = succeeded(&stop.output().unwrap());
    assert_eq!(stopped, format!("nanoctrl stopped (pid={pid})\n"));
}

/// They may be another user's, or of a server in another container.
#[test]
fn files_of_a_server_that_cannot_be_seen_are_left_as_they_are() {
    let user = User::new();
    let folder = user.home.path().join("nanoctrl");
    fs::create_dir_all(&folder).unwrap();
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let meta = r#"{"pid":1,"address":"http://127.0.0.1:1","cmd":["x"],"log":"/x","started_at":1}"#;
    write(&folder, "nanoctrl.pid", &ended.id().to_string());
    write(&folder, "nanoctrl.meta.json", meta);
    for word in ["status", "stop", "agents"] {
        user.run(&[word]);
        let files: Vec<_> = fs::read_dir(&folder).unwrap().flatten().collect();
        assert_eq!(files.len(), 2, "after {word}: {files:?}");
    }
}

/// Anybody may have made the folder for temporary files.
#[test]
fn the_runtime_folder_of_another_user_is_neither_believed_nor_touched() {
    const NOBODY: u32 = 65534;
    let user = User::new();
    let folder = user.home.path().join("nanoctrl");
    fs::create_dir_all(&folder).unwrap();
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    write(&folder, "nanoctrl.pid", &sleeper.id().to_string());
    if std::os::unix::fs::chown(&folder, Some(NOBODY), None).is_err() {
        eprintln!("SKIPPED: this needs root");
    } else {
        for word in ["status", "stop"] {
            let mut command = user.in_session(&[word]);
            let output = command.env_remove("XDG_RUNTIME_DIR").output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.starts_with("nanoctrl is not running\n"), "{said}");
        }
        assert!(sleeper.try_wait().unwrap().is_none(), "it was signalled");
        assert!(folder.join("nanoctrl.pid").exists());
        let port = user.port.to_string();
        let mut start = user.in_session(&["start", "--port", &port]);
        let told = failed(&start.env_remove("XDG_RUNTIME_DIR").output().unwrap());
        assert!(told.contains("belongs to somebody else"), "{told}");
    }
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn help_names_commands_and_variables() {
    let user = User::new();
    let help = succeeded(&user.run(&["--help"]));
    for word in [
        "server",
        "start",
        "status",
        "stop",
        "NANOCTRL_REDIS_URL",
        "NANOCTRL_TOKEN",
        "Examples",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    for word in ["server", "start"] {
        let help = succeeded(&user.run(&[word, "--help"]));
        assert!(help.contains("[default: 3000]"), "{help}");
    }
    let wrong = user.run(&["begin"]);
    assert_eq!(wrong.status.code(), Some(2));
}

//! `nanoctrl doctor`: each check, when all is well and when it is not.
#![allow(clippy::unwrap_used)]

use std::env;
use std::fs::{self, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::Value;
use slimerpc::nanoctrl::Config;
use slimerpc::settings::VARIABLES;
use support::fake_http::FakeHttp;
use support::{Redis, free_port};
use tempfile::TempDir;

use crate::nanoctrl::fixture::Fixture;

const NANOCTRL: &str = env!("CARGO_BIN_EXE_nanoctrl");

/// What `nanoctrl doctor` said.
struct Examined {
    status: Option<i32>,
    findings: Vec<Value>,
}

impl Examined {
    fn by(command: &mut Command) -> Self {
        let is_setting = |name: &String| {
            let prefixes = ["SLIME_RPC_", "NANOCTRL_", "DLSLIME_"];
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        };
        for name in env::vars().map(|(name, _)| name).filter(is_setting) {
            if !command.get_envs().any(|(set, _)| *set == *name) {
                command.env_remove(name);
            }
        }
        let output = command.output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        let findings = serde_json::from_slice(&output.stdout);
        Self {
            status: output.status.code(),
            findings: findings.unwrap_or_else(|error| panic!("{error}: {complaint}")),
        }
    }

    /// Severity and text of a check.
    fn check(&self, name: &str) -> (&str, &str) {
        let finding = self.findings.iter().find(|it| it["check"] == name);
        let finding = finding.unwrap_or_else(|| panic!("no {name} in {:?}", self.findings));
        let severity = finding["severity"].as_str().unwrap();
        assert_eq!(severity == "ok", finding["remedy"].is_null(), "{finding}");
        (severity, finding["found"].as_str().unwrap())
    }

    #[track_caller]
    fn has(&self, severity: &str, name: &str, part: &str) {
        let (is, found) = self.check(name);
        assert!(is == severity && found.contains(part), "{is}: {found}");
        if severity == "problem" {
            assert_eq!(self.status, Some(1));
        }
    }
}

fn doctor(words: &[&str]) -> Command {
    let mut command = Command::new(NANOCTRL);
    command.args(["doctor", "--json"]).args(words);
    command
}

fn without_server(words: &[&str]) -> Examined {
    Examined::by(doctor(&["--no-server"]).args(words))
}

fn of_server(fixture: &Fixture) -> Command {
    doctor(&["--address", &format!("http://{}", fixture.address())])
}

/// After these commands of the shell.
fn after(first: &str) -> Examined {
    // Whatever runs the tests may have descriptors open, which a low limit would count.
    const ONLY_THREE: &str = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-";
    let script = format!("{ONLY_THREE}; {first}; exec {NANOCTRL} doctor --json --no-server");
    Examined::by(Command::new("sh").args(["-c", &script]))
}

#[test]
fn where_all_is_well_it_says_so_and_leaves_nothing_behind() {
    let fixture = Fixture::with(|redis| Config::with_redis(redis.url()));
    let before = fixture.redis.keys();
    let examined = Examined::by(&mut of_server(&fixture));
    for name in ["cores", "shared memory", "NanoCtrl", "Redis", "clock"] {
        examined.has("ok", name, "");
    }
    assert_eq!(fixture.redis.keys(), before);
    let is_problem = |it: &Value| it["severity"] == "problem";
    let is_well = !examined.findings.iter().any(is_problem);
    assert_eq!(examined.status, Some(i32::from(!is_well)));
    // For people.
    let output = of_server(&fixture).output().unwrap();
    assert!(output.stdout.starts_with(b"["));
    let mut plain = Command::new(NANOCTRL);
    let output = plain.args(["doctor", "--no-server"]).output().unwrap();
    assert!(output.stdout.starts_with(b"ok       cores"));
}

#[test]
fn a_nanoctrl_that_is_not_there_or_wants_a_token_is_named() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let examined = Examined::by(&mut doctor(&["--address", &nobody, "--timeout", "1"]));
    examined.has("problem", "NanoCtrl", &nobody);
    let fixture = Fixture::with(|redis| Config::with_redis(redis.url()).token("secret"));
    let examined = Examined::by(&mut of_server(&fixture));
    examined.has("problem", "NanoCtrl", "token");
    let examined = Examined::by(of_server(&fixture).env("NANOCTRL_TOKEN", "secret"));
    examined.has("ok", "NanoCtrl", "answers");
}

#[test]
fn a_redis_that_agents_cannot_use_is_named_with_its_address() {
    let advertised = |address: String| {
        Fixture::with(move |redis| Config::with_redis(redis.url()).advertise(address))
    };
    let nowhere = format!("127.0.0.1:{}", free_port());
    let fixture = advertised(nowhere.clone());
    let examined = Examined::by(of_server(&fixture).args(["--timeout", "1"]));
    examined.has("problem", "Redis", &nowhere);

    let locked = Redis::start_with(&["--requirepass", "secret"]);
    let fixture = advertised(format!("127.0.0.1:{}", locked.port));
    let examined = Examined::by(&mut of_server(&fixture));
    examined.has("problem", "Redis", "");
    // The right login, to the Redis that the server uses.
    let right = fixture.redis.url();
    let examined = Examined::by(of_server(&fixture).env("SLIME_RPC_REDIS_URL", &right));
    examined.has("ok", "Redis", "answers");

    let folder = TempDir::new().unwrap();
    let folder = folder.path().to_str().unwrap();
    let cluster = Redis::start_with(&["--cluster-enabled", "yes", "--dir", folder]);
    let fixture = advertised(format!("127.0.0.1:{}", cluster.port));
    let examined = Examined::by(of_server(&fixture).args(["--timeout", "1"]));
    examined.has("problem", "Redis", "luster");
}

#[test]
fn a_redis_that_never_answers_is_not_blamed_on_nanoctrl() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let fixture = Fixture::with(move |redis| Config::with_redis(redis.url()).advertise(address));
    let examined = Examined::by(of_server(&fixture).args(["--timeout", "1"]));
    examined.has("ok", "NanoCtrl", "answers");
    examined.has("problem", "Redis", "");
}

#[test]
fn it_examines_the_control_plane_that_agents_use() {
    let fixture = Fixture::new();
    let url = format!("http://{}", fixture.address());
    let by = |control: &str| Examined::by(doctor(&[]).env("SLIME_RPC_CONTROL", control));
    by(&url).has("ok", "NanoCtrl", &url);
    let checks = |control| {
        by(control)
            .findings
            .into_iter()
            .map(|it| it["check"].clone())
    };
    assert!(checks("host").any(|it| it == "host") && checks("host").all(|it| it != "NanoCtrl"));
    assert!(checks("local").all(|it| it != "NanoCtrl" && it != "host"));
    // As agents read them.
    by(&format!(" {url} ")).has("ok", "NanoCtrl", &url);
    assert!(checks(" host\n").any(|it| it == "host"));
    assert!(checks(" local").all(|it| it != "NanoCtrl" && it != "host"));
    let mut blank = of_server(&fixture);
    Examined::by(blank.env("SLIME_RPC_REDIS_URL", " ")).has("ok", "Redis", "answers");
    let elsewhere = Examined::by(doctor(&["--no-server"]).env("XDG_RUNTIME_DIR", "relative"));
    elsewhere.has("problem", "host", "relative");
    if TcpStream::connect("127.0.0.1:3000").is_err() {
        let folder = TempDir::new().unwrap();
        let mut unsaid = doctor(&[]);
        unsaid.env("NANOCTRL_RUNTIME_DIR", folder.path());
        Examined::by(&mut unsaid).has("note", "NanoCtrl", "none answers");
    }
}

#[test]
fn a_password_is_not_repeated_and_odd_files_are_not_waited_for() {
    let mut command = Command::new(NANOCTRL);
    command.args(["doctor", "--address", "http://user:hunter2@127.0.0.1:1"]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("PROBLEM  NanoCtrl"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");

    let machine = Machine::with_device();
    let limits = machine.0.path().join("proc/self/limits");
    machine.remove("proc/self/limits");
    let made = Command::new("mkfifo").arg(&limits).status().unwrap();
    assert!(made.success());
    machine.examined().has("note", "open files", "not known");
    machine.write(&format!("{PORT}/state"), "1: \u{1b}[31mDOWN\nok\n");
    let mut command = Command::new(NANOCTRL);
    command.args(["doctor", "--no-server", "--root", machine.root()]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("1: \\u{1b}[31mDOWN\\nok"), "{said}");
}

#[test]
fn a_redis_that_removes_keys_is_told() {
    let evicting = Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let url = evicting.url();
    let fixture = Fixture::with(move |_| Config::with_redis(url));
    let examined = Examined::by(&mut of_server(&fixture));
    examined.has("problem", "Redis eviction", "allkeys-lru");
}

#[test]
fn limits_that_are_too_low_are_told() {
    after("ulimit -n 128").has("problem", "open files", "128");
    after("ulimit -n 1024").has("note", "open files", "1024");
    // Too few even for one device.
    after("ulimit -n 11").has("problem", "shared memory", "file descriptor");
}

#[test]
fn who_polls_on_one_core_is_told() {
    let one = "taskset -p -c 0 $$ >/dev/null";
    after(one).has("ok", "cores", "1: nobody polls");
    let polls = format!("{one}; export SLIME_RPC_BUSY_POLL_US=50");
    after(&polls).has("problem", "cores", "SLIME_RPC_BUSY_POLL_US=50");
}

/// With these variables, and no other settings.
fn with_settings(set: &[(&str, &str)]) -> Examined {
    Examined::by(doctor(&["--no-server"]).envs(set.iter().copied()))
}

#[test]
fn settings_that_agents_accept_are_fine() {
    with_settings(&[]).has("ok", "settings", "no variable");
    with_settings(&[
        ("SLIME_RPC_SLOT_SIZE", "4096"),
        ("SLIME_RPC_MAX_INFLIGHT", " 4 "),
        ("SLIME_RPC_HEARTBEAT_MS", "2000"),
        ("SLIME_RPC_DETECTION_MS", "5000"),
        ("SLIME_RPC_TCP_BIND", "0.0.0.0:7000-7099"),
        ("SLIME_RPC_TCP_ADVERTISE", "192.0.2.1"),
        ("SLIME_RPC_CALL_TIMEOUT_MS", ""),
        ("SLIME_RPC_LOG", "slimerpc_actors=debug,warn"),
        ("DLSLIME_OBS", "yes"),
        ("DLSLIME_CTRL_REDIS_URL", "redis://127.0.0.1"),
        // Of DLSlime's own, which are not ours to judge.
        ("DLSLIME_LOG_LEVEL", "5"),
    ])
    .has("ok", "settings", "9 variables");
}

#[test]
fn each_setting_that_is_refused_is_told_by_its_variable() {
    let refused = [
        ("SLIME_RPC_CONTROL", "ftp://host", "http"),
        ("SLIME_RPC_REDIS_URL", "localhost:hunter2", "redis://"),
        ("SLIME_RPC_FABRICS", "shm,udp", "udp; a list of"),
        (
            "SLIME_RPC_TCP_BIND",
            "eth0",
            "the name eth0 does not resolve",
        ),
        ("SLIME_RPC_TCP_ADVERTISE", "0.0.0.0", "one host"),
        ("SLIME_RPC_METRICS", "maybe", "maybe; 1 or 0"),
        ("SLIME_RPC_METRICS_ADDR", "9464", "like 127.0.0.1:9464"),
        ("SLIME_RPC_LOG", "a=b=c", "levels like info"),
        ("SLIME_RPC_SLOT_SIZE", "7", "multiples of 8"),
        ("SLIME_RPC_MAX_INFLIGHT", "0", "slots may be 1 to"),
        ("SLIME_RPC_MAX_PAYLOAD", "1G", "whole number"),
        ("SLIME_RPC_PAYLOAD_MEMORY", "-1", "whole number"),
        ("SLIME_RPC_MAX_DEPTH", "0", "tuple"),
        ("SLIME_RPC_MAX_PICKLE_VALUES", "0", "has a value"),
        ("SLIME_RPC_SERVER_WORKERS", "0", "1 to 1024 threads"),
        ("SLIME_RPC_RAISE_OPEN_FILES", "2", "1 or 0"),
        ("SLIME_RPC_CONNECT_TIMEOUT_MS", "0", "no time"),
        ("SLIME_RPC_TAKE_OVER_MS", "1s", "whole number"),
        ("SLIME_RPC_CALL_TIMEOUT_MS", "0", "no time"),
        ("SLIME_RPC_RECONNECT_WAIT_MS", "0.5", "whole number"),
        ("SLIME_RPC_STREAM_PATIENCE_MS", "0", "next item"),
        ("SLIME_RPC_IDLE_AFTER_MS", "5", "at least 20ms"),
        ("SLIME_RPC_BUSY_POLL_US", "60000000", "cores busy"),
        ("SLIME_RPC_HEARTBEAT_MS", "0", "every millisecond"),
        ("SLIME_RPC_DETECTION_MS", "1", "every millisecond"),
        ("SLIME_RPC_MIN_RNR_TIMER", "32", "0 to 31"),
        ("SLIME_RPC_RNR_RETRY", "8", "0 to 7"),
        ("SLIME_RPC_ACK_TIMEOUT", "0", "1 to 31"),
        ("SLIME_RPC_RETRY_CNT", "7", "0 to 6"),
        ("NANOCTRL_TOKEN", "hunter2 ", "visible ASCII"),
        ("DLSLIME_OBS", "2", "1 or 0"),
        ("DLSLIME_OBS_TIME_STEP_MS", "1", "10 to 3,600,000"),
        ("DLSLIME_OBS_REDIS", "x", "1 or 0"),
        // Of servers.
        ("NANOCTRL_REDIS_URL", "127.0.0.1:hunter2", ""),
        ("NANOCTRL_REDIS_ADVERTISE", "somewhere:else", "somewhere"),
        ("DLSLIME_CTRL_TOKEN", "hunter2 ", "visible ASCII"),
        // With passwords, and wrong beside that.
        ("SLIME_RPC_CONTROL", "ftp://u:hunter2@host", "http"),
        ("SLIME_RPC_CONTROL", "http://u:hunter2@host:99999", "port"),
        (
            "NANOCTRL_REDIS_ADVERTISE",
            "redis://:hunter2@host:6379x",
            "",
        ),
    ];
    for (name, value, says) in refused {
        let examined = with_settings(&[(name, value)]);
        examined.has("problem", "settings", name);
        examined.has("problem", "settings", says);
        let (_, found) = examined.check("settings");
        assert!(!found.contains("hunter2"), "a secret is repeated: {found}");
    }
    // Files are looked at by those who use them.
    let is_file =
        |name: &str| name.ends_with("_CERT") || name.ends_with("_KEY") || name.ends_with("_CA");
    let names = VARIABLES.iter().map(|it| it.name);
    for name in names.filter(|name| !is_file(name)) {
        assert!(
            refused.iter().any(|it| it.0 == name),
            "{name} is not tested"
        );
    }
}

#[test]
fn a_log_filter_that_servers_ignore_is_no_problem() {
    let is_note = |name| {
        let examined = with_settings(&[(name, "a=b=c")]);
        examined.has("note", "settings", "a=b=c");
        examined.has("note", "settings", "servers take `info`");
    };
    is_note("NANOCTRL_RUST_LOG");
    is_note("DLSLIME_CTRL_RUST_LOG");
}

#[test]
fn settings_that_contradict_each_other_are_told() {
    let told = |set: &[(&str, &str)], says| with_settings(set).has("problem", "settings", says);
    told(&[("SLIME_RPC_MAX_PAYLOAD", "1000")], "max_payload is 1000");
    told(&[("SLIME_RPC_PAYLOAD_MEMORY", "0")], "payload_memory is 0");
    told(&[("SLIME_RPC_HEARTBEAT_MS", "1500")], "stalled after 1s");
    told(&[("SLIME_RPC_TCP_BIND", "0.0.0.0")], "set tcp_advertise");
    told(&[("SLIME_RPC_TLS_CERT", "a.pem")], "SLIME_RPC_TLS_KEY");
}

#[test]
fn a_misspelt_setting_is_told_with_the_one_that_it_is_like() {
    let examined = with_settings(&[("SLIME_RPC_CALL_TIMEOUT", "500")]);
    examined.has(
        "problem",
        "settings",
        "SLIME_RPC_CALL_TIMEOUT is no setting",
    );
    let remedy = |examined: &Examined| {
        let finding = examined
            .findings
            .iter()
            .find(|it| it["check"] == "settings");
        finding.unwrap()["remedy"].as_str().unwrap().to_owned()
    };
    assert!(remedy(&examined).contains("SLIME_RPC_CALL_TIMEOUT_MS"));
    for (slip, meant) in [
        ("NANOCTRL_TOKN", "NANOCTRL_TOKEN"),
        ("NANOCTRL_REDIS_UR", "NANOCTRL_REDIS_URL"),
        ("DLSLIME_OBS_TIMESTEP_MS", "DLSLIME_OBS_TIME_STEP_MS"),
    ] {
        let examined = with_settings(&[(slip, "1")]);
        examined.has("problem", "settings", slip);
        assert!(remedy(&examined).contains(meant), "{slip}");
    }
    // What Kubernetes and Docker make of services with such names.
    let foreign = [
        ("NANOCTRL_PORT", "tcp://10.0.0.7:3000"),
        ("NANOCTRL_REDIS_PORT", "tcp://10.0.0.8:6379"),
        ("NANOCTRL_SERVICE_HOST", "10.0.0.7"),
        ("NANOCTRL_SERVICE_PORT_HTTP", "3000"),
        ("NANOCTRL_PORT_3000_TCP_ADDR", "10.0.0.7"),
        ("DLSLIME_LOG", "info"),
    ];
    with_settings(&foreign).has("ok", "settings", "no variable");
    // Nothing is like it.
    let examined = with_settings(&[("SLIME_RPC_SOMETHING_ELSE", "1")]);
    examined.has("note", "settings", "SLIME_RPC_SOMETHING_ELSE");
}

#[test]
fn a_nanoctrl_in_trouble_is_told_in_its_own_words() {
    let trouble = || {
        Some((
            500,
            br#"{"status":"error","message":"Redis is full"}"#.to_vec(),
        ))
    };
    let server = FakeHttp::start(move |_| trouble());
    let examined = Examined::by(&mut doctor(&["--address", &server.url()]));
    examined.has("problem", "NanoCtrl", "with 500: Redis is full");
    // It gets worse between two questions.
    let server = FakeHttp::start(move |path| match path {
        "/list_scopes" => Some((200, br#"{"status":"ok","scopes":[]}"#.to_vec())),
        _ => trouble(),
    });
    let address = server.url();
    let examined = Examined::by(&mut doctor(&["--address", &address, "--timeout", "1"]));
    let told = |it: &Value| it["found"].as_str().unwrap().ends_with("Redis is full");
    assert!(
        examined.findings.iter().any(told),
        "{:?}",
        examined.findings
    );
    // A Redis that went away.
    let mut fixture = Fixture::new();
    fixture.redis.stop();
    let examined = Examined::by(of_server(&fixture).args(["--timeout", "20"]));
    examined.has("problem", "NanoCtrl", "with 500: ");
}

#[test]
fn a_peer_that_does_not_listen_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap().to_string();
    without_server(&["--peer", &peer]).has("ok", "peer", "from 127.0.0.1");
    drop(listener);
    without_server(&["--peer", &peer]).has("problem", "peer", "refused");
    without_server(&["--peer", "nobody.invalid:1"]).has("problem", "peer", "nobody.invalid");
}

/// A machine, as its files tell.
struct Machine(TempDir);

const PORT: &str = "sys/class/infiniband/mlx5_0/ports/1";

impl Machine {
    /// One with an RDMA device, and all well.
    fn with_device() -> Self {
        let machine = Self(TempDir::new().unwrap());
        machine.limits("unlimited");
        machine.write("proc/self/status", "CapEff:\t0000000000000000\n");
        machine.write("dev/infiniband/uverbs0", "");
        machine.write("sys/class/net/eth0/mtu", "1500\n");
        for (file, text) in [
            ("state", "4: ACTIVE\n"),
            ("link_layer", "Ethernet\n"),
            ("gids/0", "fe80:0000:0000:0000:5054:00ff:fe12:3456\n"),
            ("gids/1", "0000:0000:0000:0000:0000:ffff:c0a8:4d01\n"),
            ("gids/2", "0000:0000:0000:0000:0000:0000:0000:0000\n"),
            ("gid_attrs/types/0", "RoCE v2\n"),
            ("gid_attrs/types/1", "RoCE v2\n"),
            ("gid_attrs/types/2", "RoCE v2\n"),
            ("gid_attrs/ndevs/1", "eth0\n"),
        ] {
            machine.write(&format!("{PORT}/{file}"), text);
        }
        machine
    }

    fn limits(&self, locked: &str) {
        let rows = format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max open files            65536                65536                files     \n\
             Max locked memory         {locked:<21}unlimited            bytes     \n"
        );
        self.write("proc/self/limits", &rows);
    }

    fn write(&self, file: &str, text: &str) {
        let file = self.0.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    fn remove(&self, file: &str) {
        let file = self.0.path().join(file);
        match file.is_dir() {
            true => fs::remove_dir_all(file).unwrap(),
            false => fs::remove_file(file).unwrap(),
        }
    }

    fn root(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn examined(&self) -> Examined {
        without_server(&["--root", self.root()])
    }
}

#[test]
fn an_rdma_device_is_described_and_what_it_lacks_is_told() {
    let machine = Machine::with_device();
    let well = machine.examined();
    well.has(
        "ok",
        "RDMA port",
        "mlx5_0 port 1 is active, RoCE v2 by GID 1",
    );
    well.has("ok", "RDMA device files", "1 in");
    well.has("ok", "locked memory", "unlimited");

    machine.write("sys/class/net/eth0/mtu", "576\n");
    machine.examined().has("note", "RDMA port", "MTU of 576");
    machine.write(&format!("{PORT}/gid_attrs/types/1"), "IB/RoCE v1\n");
    machine.examined().has("note", "RDMA port", "link-local");
    machine.write(&format!("{PORT}/gid_attrs/types/0"), "IB/RoCE v1\n");
    machine
        .examined()
        .has("problem", "RDMA port", "no GID of RoCE v2");
    machine.write(&format!("{PORT}/link_layer"), "InfiniBand\n");
    machine.examined().has("ok", "RDMA port", "InfiniBand");
    machine.write(&format!("{PORT}/state"), "1: DOWN\n");
    machine.examined().has("problem", "RDMA port", "1: DOWN");
    machine.remove(PORT);
    machine.examined().has("problem", "RDMA port", "no port");
    machine.remove("dev/infiniband/uverbs0");
    machine
        .examined()
        .has("problem", "RDMA device files", "no uverbs files");

    machine.remove("sys/class/infiniband/mlx5_0");
    machine.examined().has("ok", "RDMA devices", "no soft-RoCE");
    machine.write("proc/sys/kernel/osrelease", "6.1.0\n");
    let module = "kernel/drivers/infiniband/sw/rxe/rdma_rxe.ko: kernel/net/x.ko\n";
    machine.write("lib/modules/6.1.0/modules.dep", module);
    machine.examined().has("note", "RDMA devices", "over TCP");
}

#[test]
fn a_limit_of_locked_memory_binds_devices_of_users_without_the_capability() {
    let machine = Machine::with_device();
    machine.limits("65536");
    machine.examined().has("problem", "locked memory", "64 KiB");
    machine.write("proc/self/status", "CapEff:\t0000000000004000\n");
    machine
        .examined()
        .has("ok", "locked memory", "CAP_IPC_LOCK");
    machine.write("proc/self/status", "CapEff:\t000001ffffffbfff\n");
    machine.remove("sys/class/infiniband");
    machine
        .examined()
        .has("ok", "locked memory", "only RDMA devices");
}

#[test]
fn device_files_of_others_are_told() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let machine = Machine::with_device();
    fs::set_permissions(machine.0.path(), Permissions::from_mode(0o755)).unwrap();
    let program = machine.0.path().join("nanoctrl");
    // By another process: whatever this one forks meanwhile would keep the file open for writing.
    let mut install = Command::new("install");
    install.args(["-m", "755", NANOCTRL]).arg(&program);
    assert!(install.status().unwrap().success());
    let mut as_nobody = Command::new(&program);
    as_nobody.args(["doctor", "--json", "--no-server", "--root", machine.root()]);
    as_nobody.uid(65534).gid(65534).current_dir("/");
    let examined = Examined::by(&mut as_nobody);
    examined.has("problem", "RDMA device files", "may not read and write");
}

//! How an agent publishes which process it is, so that others on its host can prove that it has
//! ended.
//!
//! Only a proof counts: a process that cannot be seen from here (of another user under `hidepid`,
//! of another container, under a foreign `/proc`) is neither gone nor known to live.

use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, getpid, test_kill_process};
use serde_json::{Value, json};

use super::{
    alive_socket,
    topology::{boot_id, namespace, network, uid},
};

/// Where processes are listed.
const PROC: &str = "/proc";

/// Describes this process.
pub(super) fn this() -> Value {
    let network = network();
    json!({
        "boot_id": boot_id(),
        "uid": uid(),
        "pid": getpid().as_raw_nonzero().get(),
        "pid_namespace": namespace("pid"),
        "time_namespace": time_namespace(),
        "started": Stat::read(Path::new(PROC), "self").map(|stat| stat.started),
        "socket": alive_socket::name_in(&network),
        "network": network,
    })
}

/// Returns whether the process that published `described` is proved to have ended. False if that
/// cannot be known from here: it ran on another host, under an earlier boot, or in a container into
/// which this process cannot look.
///
/// The kernel reuses numbers of namespaces once a namespace is gone. That harms no proof: if the
/// process lived, its namespace would exist, so the namespace of that number, which is this one,
/// would be its own.
pub(super) fn is_gone(described: &Value) -> bool {
    let is_same = |name: &str, ours: String| text(described, name) == Some(ours.as_str());
    if !is_same("boot_id", boot_id()) {
        return false;
    }
    if is_same("pid_namespace", namespace("pid"))
        && let Some(pid) = pid(described)
    {
        if test_kill_process(pid) == Err(Errno::SRCH) {
            return true;
        }
        // Start times are read from the clock of the time namespace.
        let started = described.get("started").and_then(Value::as_u64);
        if is_same("time_namespace", time_namespace())
            && is_ours(Path::new(PROC))
            && let Some(stat) = Stat::read(Path::new(PROC), &pid.as_raw_nonzero().to_string())
        {
            match started {
                _ if stat.has_ended => return true,
                // The process list is proof enough, whatever has become of the socket.
                Some(started) => return started != stat.started,
                None => {}
            }
        }
    }
    match (text(described, "socket"), text(described, "network")) {
        (Some(socket), Some(network)) => alive_socket::is_certainly_unbound(socket, network),
        _ => false,
    }
}

/// Describes the process that published `described`, and why it is not known whether it has ended.
pub(super) fn explain(described: &Value) -> String {
    let pid = match described.get("pid").and_then(Value::as_u64) {
        Some(pid) => format!("process {pid}"),
        None => "a process".to_owned(),
    };
    if text(described, "boot_id") != Some(boot_id().as_str()) {
        return format!("{pid} on another host, or of an earlier boot");
    }
    if text(described, "pid_namespace") != Some(namespace("pid").as_str()) {
        return format!(
            "{pid} in another container on this host, which cannot be looked into from here"
        );
    }
    format!("{pid} on this host, which is not proved to have ended")
}

/// Kernels before 5.6 have no time namespaces, and so one clock for all.
fn time_namespace() -> String {
    match Path::new(PROC).join("self/ns/time").exists() {
        true => namespace("time"),
        false => "none".to_owned(),
    }
}

fn text<'a>(described: &'a Value, name: &str) -> Option<&'a str> {
    described.get(name)?.as_str()
}

fn pid(described: &Value) -> Option<Pid> {
    let number = described.get("pid")?.as_u64()?;
    Pid::from_raw(i32::try_from(number).ok()?)
}

/// Returns whether `proc` lists the processes of this namespace, by their numbers there.
fn is_ours(proc: &Path) -> bool {
    let own = std::fs::read_link(proc.join("self"));
    own.is_ok_and(|own| own.as_os_str() == getpid().as_raw_nonzero().to_string().as_str())
}

/// The contents of `/proc/<pid>/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// Clock ticks since the boot.
    started: u64,
    /// All threads of the process have ended; only its parent has not reaped it.
    has_ended: bool,
}

impl Stat {
    /// Reads the status; `None` if there is no such process, or it is not visible.
    fn read(proc: &Path, pid: &str) -> Option<Self> {
        let stat = std::fs::read_to_string(proc.join(pid).join("stat")).ok()?;
        // The name, in parentheses, may contain anything. After it come the fields from the third
        // on.
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let threads: u64 = fields.get(20 - 3)?.parse().ok()?;
        Some(Self {
            started: fields.get(22 - 3)?.parse().ok()?,
            // A process whose first thread has ended, and others not, is shown as a zombie too.
            has_ended: matches!(*fields.first()?, "Z" | "X") && threads <= 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// This process with other values for some fields, `null` for unknown.
    fn with(fields: &[(&str, Value)]) -> Value {
        let mut described = this();
        for (name, value) in fields {
            described[*name] = value.clone();
        }
        described
    }

    /// Leaves the number of the process as what can be known.
    fn elsewhere(fields: &[(&str, Value)]) -> Value {
        with(&[&[("socket", Value::Null)], fields].concat())
    }

    fn number_of_the_dead() -> u32 {
        let mut child = Command::new("true").spawn().expect("true runs");
        let pid = child.id();
        child.wait().expect("it ends");
        pid
    }

    #[test]
    fn this_process_is_not_gone_and_one_that_has_ended_is() {
        assert!(!is_gone(&this()));
        assert!(is_gone(&elsewhere(&[("pid", number_of_the_dead().into())])));
        assert!(is_gone(&elsewhere(&[
            ("pid", number_of_the_dead().into()),
            ("started", Value::Null),
            ("time_namespace", json!("time:[1]")),
        ])));
    }

    #[test]
    fn a_process_that_has_the_number_of_another_is_not_taken_for_it() {
        assert!(is_gone(&elsewhere(&[("started", 1.into())])));
    }

    /// The number and the start time come first: a child that was forked may have the socket, or
    /// its owner may have lost it.
    #[test]
    fn a_process_of_which_the_start_time_is_known_is_told_by_that_and_not_by_its_socket() {
        assert!(!is_gone(&with(&[(
            "socket",
            json!("slimerpc-alive-nobody")
        )])));
        let is_bound = alive_socket::name_in(&network()).is_some();
        assert!(is_bound && is_gone(&with(&[("started", 1.into())])));
    }

    #[test]
    fn the_socket_of_a_process_proves_nothing_in_another_network_namespace() {
        let described = with(&[("pid_namespace", json!("pid:[1]"))]);
        assert!(described["socket"].is_string(), "{described}");
        let looked = std::thread::spawn(move || {
            #[expect(deprecated, reason = "this thread shares its descriptors")]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).ok()?;
            Some((is_gone(&described), described))
        });
        let Some((is_gone, described)) = looked.join().expect("no panic") else {
            eprintln!("SKIPPED: this needs root");
            return;
        };
        assert!(!is_gone, "it lives: {described}");
        // Nor is a socket published that is bound in another one than the process is in.
        assert_eq!(alive_socket::name_in("net:[1]"), None);
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child = Command::new("true").spawn().expect("true runs");
        let described = elsewhere(&[("pid", child.id().into()), ("started", Value::Null)]);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !is_gone(&described) {
            assert!(std::time::Instant::now() < deadline, "{described}");
            std::thread::yield_now();
        }
        child.wait().expect("it ends");
    }

    /// Another user's process, where `/proc` shows nobody's but one's own: this test, as another
    /// user, looks at itself.
    #[test]
    fn the_process_of_another_user_that_may_not_be_seen_is_not_declared_gone() {
        const HIDDEN: &str = "SLIME_TEST_HIDDEN_PROCESS";
        const NAME: &str = "control::process::tests::the_process_of_another_user_that_may_not_be_seen_is_not_declared_gone";
        if let Ok(hidden) = std::env::var(HIDDEN) {
            let hidden: Value = serde_json::from_str(&hidden).expect("it is JSON");
            let pid = pid(&hidden).expect("it has a number").as_raw_nonzero();
            assert_eq!(Stat::read(Path::new(PROC), &pid.to_string()), None);
            assert!(!is_gone(&hidden), "{hidden}");
            return;
        }
        let script = "mount -t proc -o hidepid=2 proc /proc || exit 77; \
                      exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" --exact \"$1\"";
        let exe = std::env::current_exe().expect("it has a path");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]);
        command.arg(exe).arg(NAME);
        command.env(HIDDEN, elsewhere(&[]).to_string());
        let ended = command.output().expect("unshare is installed");
        let said = String::from_utf8_lossy(&ended.stdout);
        if !rustix::process::geteuid().is_root() || ended.status.code() == Some(77) {
            eprintln!("SKIPPED: this needs root, and may mount /proc with hidepid=2");
            return;
        }
        assert!(
            ended.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&ended.stderr)
        );
    }

    #[test]
    fn a_process_whose_first_thread_alone_has_ended_lives() {
        let proc = tempfile::tempdir().expect("temporary directory");
        let read = |state: &str, threads: u32| {
            let folder = proc.path().join("7");
            std::fs::create_dir_all(&folder).expect("temporary directory");
            let zeros = "0 ".repeat(20 - 4);
            let stat = format!("7 (a) b) {state} {zeros}{threads} 0 4711 0");
            std::fs::write(folder.join("stat"), stat).expect("temporary directory");
            Stat::read(proc.path(), "7").expect("it is there")
        };
        assert_eq!(
            (read("Z", 3), read("Z", 1).has_ended, read("S", 1).has_ended),
            (
                Stat {
                    started: 4711,
                    has_ended: false
                },
                true,
                false
            )
        );
    }

    #[test]
    fn the_socket_of_a_process_proves_that_it_has_ended_whatever_its_number_is_now() {
        let fields = [
            ("pid_namespace", json!("pid:[1]")),
            ("socket", json!("slimerpc-alive-nobody")),
        ];
        assert!(is_gone(&with(&fields)));
        let fields = [("pid_namespace", json!("pid:[1]"))];
        assert!(!is_gone(&with(&fields)), "it is bound");
        for (name, value) in [
            ("network", json!("net:[1]")),
            ("network", Value::Null),
            ("socket", json!("x".repeat(1000))),
            ("socket", json!("")),
            ("socket", json!(7)),
        ] {
            let fields = [
                ("pid_namespace", json!("pid:[1]")),
                ("socket", json!("slimerpc-alive-nobody")),
                (name, value),
            ];
            assert!(!is_gone(&with(&fields)), "{fields:?}");
        }
    }

    #[test]
    fn what_cannot_be_seen_from_here_is_not_declared_gone() {
        let dead = number_of_the_dead();
        for (name, value) in [
            ("boot_id", json!("another")),
            ("boot_id", json!("")),
            ("boot_id", Value::Null),
            ("pid_namespace", json!("pid:[1]")),
            ("pid_namespace", json!("")),
            ("pid", json!(-1)),
            ("pid", json!(0)),
            ("pid", json!(u64::MAX)),
            ("pid", Value::Null),
        ] {
            let described = elsewhere(&[("pid", dead.into()), (name, value)]);
            assert!(!is_gone(&described), "{described}");
        }
        // The clock is another: a start time that differs proves nothing.
        let fields = [("time_namespace", json!("time:[1]")), ("started", json!(1))];
        assert!(!is_gone(&elsewhere(&fields)));
        assert!(!is_gone(&json!({})) && !is_gone(&Value::Null));
    }
}

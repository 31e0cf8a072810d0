//! Which process an agent is, as it publishes it, so that others on its host can tell whether it is gone.

use std::path::Path;

use serde_json::{Value, json};

use super::topology::{boot_id, uid};

/// Where processes are listed.
const PROC: &str = "/proc";

/// This process.
pub(super) fn this() -> Value {
    let pid = std::process::id();
    json!({
        "boot_id": boot_id(),
        "uid": uid(),
        "pid": pid,
        "pid_namespace": pid_namespace(),
        "started": started(Path::new(PROC), pid.into()),
    })
}

/// Whether a process that published `described` has ended. False if that cannot be known from here: it ran on another
/// host, under an earlier boot or in another container.
pub(super) fn is_gone(described: &Value) -> bool {
    let text = |name: &str| {
        described
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let is_here = !text("boot_id").is_empty()
        && text("boot_id") == boot_id()
        && text("pid_namespace") == pid_namespace();
    let number = |name: &str| described.get(name).and_then(Value::as_u64);
    let (true, Some(pid), Some(begun)) = (is_here, number("pid"), number("started")) else {
        return false;
    };
    // Another process may have the number by now, but none that began at the same tick.
    started(Path::new(PROC), pid) != Some(begun)
}

/// When a process was started, in clock ticks since the boot; `None` if there is none of that number.
fn started(proc: &Path, pid: u64) -> Option<u64> {
    let stat = std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // The name, in parentheses, may contain anything. After it, the start time is field 22, and the state field 3.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    // A zombie has ended; only its parent does not know yet.
    (state != "Z").then_some(started)
}

fn pid_namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid")
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn with(name: &str, value: Value) -> Value {
        let mut described = this();
        described[name] = value;
        described
    }

    #[test]
    fn this_process_is_not_gone_and_one_that_has_ended_is() {
        assert!(!is_gone(&this()));
        let mut child = Command::new("true").spawn().expect("true runs");
        let pid = child.id();
        child.wait().expect("it ends");
        assert!(is_gone(&with("pid", pid.into())));
    }

    #[test]
    fn a_process_that_has_the_number_of_another_is_not_taken_for_it() {
        assert!(is_gone(&with("started", 1.into())));
    }

    #[test]
    fn what_cannot_be_seen_from_here_is_not_declared_gone() {
        for (name, value) in [
            ("boot_id", json!("another")),
            ("boot_id", json!("")),
            ("pid_namespace", json!("pid:[1]")),
            ("pid", json!(-1)),
            ("started", json!(null)),
        ] {
            let mut described = with("pid", json!(u32::MAX));
            described[name] = value;
            assert!(!is_gone(&described), "{described}");
        }
        assert!(!is_gone(&json!({})) && !is_gone(&Value::Null));
    }
}

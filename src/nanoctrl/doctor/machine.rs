//! Checks of the process' limits, its cores, and shared memory.

use std::env;
use std::fs;
use std::path::Path;
use std::thread;

use super::{Finding, read};
use crate::fabric;
use crate::settings::BUSY_POLL;

/// Descriptors that a process with some dozens of peers needs.
const ENOUGH_FILES: u64 = 4096;
/// With fewer descriptors, even a few peers may be too many.
const FEW_FILES: u64 = 256;
/// Memory that an agent with some dozens of peers registers.
const ENOUGH_LOCKED: u64 = 64 << 20;
/// Number of the capability `CAP_IPC_LOCK`, whose owner may lock any amount.
const IPC_LOCK: u32 = 14;

/// Whether there are cores for those who poll.
pub(super) fn cores() -> Finding {
    const CHECK: &str = "cores";
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let asked = env::var(BUSY_POLL).ok();
    match (cores, asked.as_deref()) {
        (1, None | Some("" | "0")) => {
            Finding::ok(CHECK, "1: nobody polls before sleeping, by default")
        }
        (1, Some(asked)) => Finding::problem(
            CHECK,
            format!(
                "1, and SLIME_RPC_BUSY_POLL_US={asked}: whoever polls keeps its peer from running"
            ),
            "unset SLIME_RPC_BUSY_POLL_US, or give this process a second core",
        ),
        (cores, _) => Finding::ok(CHECK, cores.to_string()),
    }
}

/// Whether there are descriptors for many peers.
pub(super) fn open_files(root: &Path) -> Finding {
    const CHECK: &str = "open files";
    const REMEDY: &str = "raise it with `ulimit -n 65536`, or set SLIME_RPC_RAISE_OPEN_FILES=1";
    match limit(root, "Max open files") {
        None => Finding::note(CHECK, "not known", "look at `ulimit -n`"),
        Some(limit) if limit < FEW_FILES => Finding::problem(
            CHECK,
            format!("at most {limit}, too few for more than some peers"),
            REMEDY,
        ),
        Some(limit) if limit < ENOUGH_FILES => Finding::note(
            CHECK,
            format!("at most {limit}, too few for hundreds of peers"),
            REMEDY,
        ),
        Some(u64::MAX) => Finding::ok(CHECK, "unlimited"),
        Some(limit) => Finding::ok(CHECK, format!("at most {limit}")),
    }
}

/// Whether RDMA devices may pin memory.
pub(super) fn locked_memory(root: &Path, has_devices: bool) -> Finding {
    const CHECK: &str = "locked memory";
    const REMEDY: &str = "raise it with `ulimit -l unlimited`, in /etc/security/limits.conf (memlock), with LimitMEMLOCK= in a \
                          systemd unit, or with `docker run --ulimit memlock=-1`";
    let Some(limit) = limit(root, "Max locked memory") else {
        return Finding::note(CHECK, "limit not known", "look at `ulimit -l`");
    };
    if limit == u64::MAX {
        return Finding::ok(CHECK, "unlimited");
    }
    let found = format!("at most {} KiB", limit >> 10);
    if limit >= ENOUGH_LOCKED {
        Finding::ok(CHECK, found)
    } else if may_lock(root) {
        Finding::ok(
            CHECK,
            found + ", which does not bind this user (CAP_IPC_LOCK)",
        )
    } else if has_devices {
        Finding::problem(
            CHECK,
            found + ": RDMA devices cannot register memory beyond",
            REMEDY,
        )
    } else {
        Finding::ok(CHECK, found + "; only RDMA devices need more")
    }
}

/// Whether processes of this machine can share memory.
pub(super) fn shared_memory() -> Finding {
    const CHECK: &str = "shared memory";
    let user = rustix::process::getuid().as_raw();
    match fabric::open(fabric::SHM, 1) {
        Ok(_) => {
            let space = fs::read_link("/proc/self/ns/net");
            let space = space.map_or_else(|_| "net:?".to_owned(), |it| it.display().to_string());
            Finding::ok(
                CHECK,
                format!(
                    "with processes of user {user} in network namespace {space}; others are reached over RDMA or TCP"
                ),
            )
        }
        Err(error) => Finding::problem(
            CHECK,
            error.to_string(),
            "let the process create memfds and abstract Unix sockets (seccomp, SELinux or AppArmor may forbid them)",
        ),
    }
}

/// The soft limit of this process in the row of this name.
fn limit(root: &Path, name: &str) -> Option<u64> {
    let limits = read(&root.join("proc/self/limits")).ok()?;
    let row = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match row.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Whether the limit of locked memory does not bind this process.
fn may_lock(root: &Path) -> bool {
    let status = read(&root.join("proc/self/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    effective.is_some_and(|bits| bits >> IPC_LOCK & 1 == 1)
}

//! Describes a failed verb: its name, its arguments, and the usual cause.

use std::io;

use crate::fabric::FabricError;

/// The error for a verb that failed with this errno.
pub(super) fn failed(verb: &'static str, attributes: impl Into<String>, errno: i32) -> FabricError {
    FabricError::Verb {
        verb,
        attributes: attributes.into(),
        source: io::Error::from_raw_os_error(errno),
        hint: hint(verb, errno),
    }
}

/// The error for a verb that reports through `errno`.
pub(super) fn last_failed(verb: &'static str, attributes: impl Into<String>) -> FabricError {
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    failed(verb, attributes, errno)
}

/// Converts the result of a verb that returns an errno.
pub(super) fn check(
    verb: &'static str,
    result: i32,
    attributes: impl FnOnce() -> String,
) -> Result<(), FabricError> {
    match result {
        0 => Ok(()),
        -1 => Err(last_failed(verb, attributes())),
        errno => Err(failed(verb, attributes(), errno.abs())),
    }
}

fn hint(verb: &str, errno: i32) -> &'static str {
    match (verb, errno) {
        ("ibv_open_device", libc::EACCES | libc::EPERM) => {
            "may this user read and write /dev/infiniband/uverbs*? (group `rdma`, or --device in a container)"
        }
        ("ibv_open_device", libc::ENODEV | libc::ENOENT | libc::ENOSYS) => {
            "is the driver's provider installed (ibverbs-providers) and the module rdma_ucm loaded?"
        }
        ("ibv_create_cq" | "ibv_create_qp" | "ibv_alloc_pd", libc::ENOMEM) => {
            "the device is out of such objects, or the locked-memory limit (`ulimit -l`) is too small"
        }
        ("ibv_modify_qp to RTR", libc::EINVAL) => {
            "is the GID index (SLIME_GID_INDEX) one of the peer's network, and the port up?"
        }
        ("ibv_modify_qp to RTR", libc::ETIMEDOUT | libc::ENETUNREACH | libc::EHOSTUNREACH) => {
            "the peer's GID cannot be reached from this port: are both on one network?"
        }
        _ => "see the kernel's log (dmesg) for what the driver says",
    }
}

/// The limit on locked memory in bytes; `None` if there is none.
pub(super) fn memory_lock_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

//! Limits of the operating system.

use std::fmt;
use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// A limit of the operating system that was reached, with its value where there is one. Its text
/// says what to do about it.
///
/// ```
/// use slimerpc::fabric::SystemLimit;
/// let limit = SystemLimit::OpenFiles { limit: 64, hard: Some(4096) };
/// assert!(limit.to_string().contains("ulimit -n"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SystemLimit {
    /// File descriptors of this process (`RLIMIT_NOFILE`).
    OpenFiles {
        /// How many this process may have.
        limit: u64,
        /// How far the process may raise that itself; `None` if there is no bound.
        hard: Option<u64>,
    },
    /// File descriptors of all processes (`fs.file-max`).
    OpenFilesOfAll,
    /// Bytes of a file (`RLIMIT_FSIZE`), and so of memory that is shared with another process.
    FileSize {
        /// Most bytes of a file.
        limit: u64,
    },
    /// Bytes of address space (`RLIMIT_AS`).
    AddressSpace {
        /// Most bytes of address space.
        limit: u64,
    },
    /// Memory, or mappings of it.
    Memory,
    /// Threads and processes of this user (`RLIMIT_NPROC`), or of this control group.
    Threads {
        /// How many the user may have; `None` if only the total of all users is limited.
        limit: Option<u64>,
    },
    /// Descriptors that the epolls of this user watch (`fs.epoll.max_user_watches`).
    Watches,
}

/// When the process was last seen to lack a file descriptor, and for which limit.
static LACKED_FILES: Mutex<Option<(Instant, Errno)>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SystemLimit {
    /// Finds the limit that this error means; `None` if it means something else.
    pub fn of(error: &io::Error) -> Option<Self> {
        match Errno::from_io_error(error)? {
            // Descriptors on their way to another process count, too.
            errno @ (Errno::MFILE | Errno::TOOMANYREFS | Errno::NFILE) => {
                Some(Self::of_files(errno))
            }
            Errno::FBIG => {
                let limit = getrlimit(Resource::Fsize).current?;
                Some(Self::FileSize { limit })
            }
            Errno::NOMEM => Some(match getrlimit(Resource::As).current {
                Some(limit) => Self::AddressSpace { limit },
                None => Self::Memory,
            }),
            Errno::NOSPC => Some(Self::Watches),
            _ => None,
        }
    }

    /// Finds the limit that an operation has met, and notes that it was reached.
    pub(crate) fn met(error: &io::Error) -> Option<Self> {
        let limit = Self::of(error)?;
        if let Self::OpenFiles { .. } | Self::OpenFilesOfAll = limit
            && let Some(errno) = Errno::from_io_error(error)
        {
            *lock(&LACKED_FILES) = Some((Instant::now(), errno));
        }
        Some(limit)
    }

    fn of_files(errno: Errno) -> Self {
        if errno == Errno::NFILE {
            return Self::OpenFilesOfAll;
        }
        let limit = getrlimit(Resource::Nofile);
        Self::OpenFiles {
            limit: limit.current.unwrap_or(u64::MAX),
            hard: limit.maximum,
        }
    }

    /// Finds the limit of file descriptors if this process has reached it `since` then, as far as
    /// this crate has noticed. What did not come about in that time may have lacked one, at any of
    /// its steps.
    ///
    /// ```
    /// use slimerpc::fabric::SystemLimit;
    /// assert_eq!(SystemLimit::reached_since(std::time::Instant::now()), None);
    /// ```
    pub fn reached_since(since: Instant) -> Option<Self> {
        let (at, errno) = (*lock(&LACKED_FILES))?;
        (at >= since).then(|| Self::of_files(errno))
    }

    /// Finds the limit that an error of starting a thread means, and describes what a thread needs.
    pub fn of_thread(error: &io::Error) -> Option<Self> {
        if Errno::from_io_error(error) != Some(Errno::AGAIN) {
            return Self::of(error);
        }
        // The kernel refuses memory for the stack with the same error.
        if let Some(limit) = getrlimit(Resource::As).current {
            return Some(Self::AddressSpace { limit });
        }
        let limit = getrlimit(Resource::Nproc).current;
        Some(Self::Threads { limit })
    }
}

impl fmt::Display for SystemLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OpenFiles { limit, hard } => {
                write!(
                    f,
                    "no file descriptor is left, as this process may have {limit}; raise the limit (`ulimit -n`, LimitNOFILE= in \
                     a systemd unit"
                )?;
                if hard.is_none_or(|hard| hard > limit) {
                    f.write_str(", or SLIME_RPC_RAISE_OPEN_FILES=1")?;
                }
                f.write_str(")")
            }
            Self::OpenFilesOfAll => f.write_str(
                "no file descriptor is left on this host; raise the limit (`sysctl fs.file-max`)",
            ),
            Self::FileSize { limit } => write!(
                f,
                "no file of this process may have more than {limit} bytes, and memory that is shared with a peer counts as a \
                 file; raise the limit (`ulimit -f`, LimitFSIZE= in a systemd unit)"
            ),
            Self::AddressSpace { limit } => write!(
                f,
                "this process may have {limit} bytes of address space; raise the limit (`ulimit -v`, LimitAS= in a systemd \
                 unit), or use less memory (`slot_size`, `max_inflight`, `payload_memory`)"
            ),
            Self::Memory => f.write_str(
                "no memory is left, or no mapping of it (`sysctl vm.max_map_count`); use less (`slot_size`, `max_inflight`, \
                 `payload_memory`)",
            ),
            Self::Threads { limit } => {
                f.write_str("no thread can be started, as ")?;
                match limit {
                    Some(limit) => write!(
                        f,
                        "this user may have {limit} threads and processes, or its control group has no more"
                    )?,
                    None => f.write_str("the control group of this process, or the host, has no more")?,
                }
                f.write_str("; raise the limit (`ulimit -u`, TasksMax= in a systemd unit, --pids-limit of a container)")
            }
            Self::Watches => f.write_str(
                "this user may watch no more file descriptors; raise the limit (`sysctl fs.epoll.max_user_watches`)",
            ),
        }
    }
}

/// Raises the limit of open files of this process as far as it may, and returns the new limit. The
/// crate never does that by itself: child processes inherit the limit, and one that uses `select()`
/// breaks with more than 1,024.
///
/// # Errors
/// The system refuses; the limit is unchanged.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

/// Refuses a file of this many bytes if it exceeds the limit of the process. An attempt would end
/// the process: the kernel answers with SIGXFSZ.
pub(crate) fn check_file_size(len: u64) -> io::Result<()> {
    match getrlimit(Resource::Fsize).current {
        Some(limit) if len > limit => Err(Errno::FBIG.into()),
        _ => Ok(()),
    }
}

/// Returns whether the kernel promises no more memory than there is (`vm.overcommit_memory`).
/// Memory that was not taken at once may then be missing at the first touch, which ends the
/// process.
pub(crate) fn is_memory_promised_strictly() -> bool {
    fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_says_how_to_raise_it() {
        let begun = Instant::now();
        let of = |errno: Errno| SystemLimit::of(&errno.into());
        let files = of(Errno::MFILE).expect("a limit").to_string();
        assert!(files.contains("ulimit -n"), "{files}");
        SystemLimit::met(&Errno::MFILE.into());
        assert!(SystemLimit::reached_since(begun).is_some());
        assert_eq!(of(Errno::TOOMANYREFS), of(Errno::MFILE));
        assert_eq!(of(Errno::NFILE), Some(SystemLimit::OpenFilesOfAll));
        assert_eq!(of(Errno::NOSPC), Some(SystemLimit::Watches));
        assert_eq!(of(Errno::CONNREFUSED), None);
        assert_eq!(SystemLimit::of(&io::Error::other("no errno")), None);
        let threads = SystemLimit::of_thread(&Errno::AGAIN.into()).expect("a limit");
        assert!(threads.to_string().contains("ulimit"), "{threads}");
        for (limit, named) in [
            (SystemLimit::FileSize { limit: 512 }, "ulimit -f"),
            (SystemLimit::AddressSpace { limit: 512 }, "ulimit -v"),
            (SystemLimit::Memory, "vm.max_map_count"),
            (SystemLimit::Threads { limit: None }, "ulimit -u"),
            (SystemLimit::OpenFilesOfAll, "fs.file-max"),
            (SystemLimit::Watches, "max_user_watches"),
        ] {
            assert!(limit.to_string().contains(named), "{limit}");
        }
        // Advise nothing for limits that a process cannot raise.
        for (hard, advised) in [(Some(64), false), (Some(65), true), (None, true)] {
            let text = SystemLimit::OpenFiles { limit: 64, hard }.to_string();
            assert!(text.contains("may have 64;"), "{text}");
            assert_eq!(text.contains("RAISE_OPEN_FILES"), advised, "{text}");
        }
    }
}

//! Watches the processes at the other ends of control sockets. A fork of a peer keeps its sockets
//! open when the peer is killed, so this module watches the end of the process itself, by one
//! descriptor for each, wherever the kernel allows it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use super::control_socket::ControlSocket;

/// Marks the tokens of processes, as opposed to those of sockets.
const IS_PROCESS: u64 = 1 << 63;

/// The status of the process at the other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerProcess {
    /// It has ended.
    Ended,
    /// Its end raises an event; or it is in another container, or the kernel is too old, and only
    /// the end of the socket shows its end.
    Watched,
}

/// The peer processes that this port watches.
#[derive(Debug, Default)]
pub(super) struct PeerProcesses {
    watched: HashMap<Pid, Watched>,
    by_link: HashMap<u64, Pid>,
}

/// A process whose end is watched.
#[derive(Debug)]
struct Watched {
    /// Readable once the process has ended.
    handle: OwnedFd,
    /// Tokens of the links to it.
    links: HashSet<u64>,
}

impl PeerProcesses {
    /// The process that an event is about; `None` if it is about a socket.
    pub(super) fn of_token(token: u64) -> Option<Pid> {
        let number = token.checked_sub(IS_PROCESS)?;
        Pid::from_raw(i32::try_from(number).ok()?)
    }

    /// Watches the process at the other end of the socket with this token.
    pub(super) fn watch(
        &mut self,
        epoll: &OwnedFd,
        link: &ControlSocket,
        token: u64,
    ) -> PeerProcess {
        let process = match link.peer_process() {
            Ok(Some(process)) if process != getpid() => process,
            _ => return PeerProcess::Watched,
        };
        if let Some(watched) = self.watched.get_mut(&process) {
            watched.links.insert(token);
            self.by_link.insert(token, process);
            return PeerProcess::Watched;
        }
        let handle = match pidfd_open(process, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(Errno::SRCH) => return PeerProcess::Ended,
            Err(error) => {
                tracing::debug!(%error, ?process, "the end of a peer's process cannot be watched");
                return PeerProcess::Watched;
            }
        };
        let number = IS_PROCESS | u64::from(process.as_raw_nonzero().get().cast_unsigned());
        let data = epoll::EventData::new_u64(number);
        match epoll::add(epoll, &handle, data, epoll::EventFlags::IN) {
            Ok(()) => {
                let links = HashSet::from([token]);
                self.watched.insert(process, Watched { handle, links });
                self.by_link.insert(token, process);
            }
            Err(error) => tracing::debug!(%error, "the end of a peer's process cannot be watched"),
        }
        PeerProcess::Watched
    }

    /// The sockets to a process.
    pub(super) fn links_to(&self, process: Pid) -> Vec<u64> {
        let watched = self.watched.get(&process);
        watched.map_or_else(Vec::new, |watched| watched.links.iter().copied().collect())
    }

    /// Forgets the socket with this token.
    pub(super) fn forget(&mut self, epoll: &OwnedFd, token: u64) {
        let Some(process) = self.by_link.remove(&token) else {
            return;
        };
        let Entry::Occupied(mut watched) = self.watched.entry(process) else {
            return;
        };
        watched.get_mut().links.remove(&token);
        if watched.get().links.is_empty() {
            // Closing the descriptor is not enough once this process was forked: the fork has it,
            // too. The call cannot fail.
            let _ = epoll::delete(epoll, &watched.get().handle);
            watched.remove();
        }
    }
}

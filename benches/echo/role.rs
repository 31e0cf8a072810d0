//! The other process: what it is, as the first one says on its command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cache_line;
use crate::pong;
use crate::socket;
use crate::support::{Peer, Result, tie};
use crate::tcp_stream;
use crate::worker::{self, Worker};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Answers on a cache line of the memory there.
    CacheLine(PathBuf),
    /// Answers on the bare fabric of a device, messages up to so many bytes.
    Fabric { device: String, largest: usize },
    /// Answers on a unix socket.
    Socket(PathBuf),
    /// Answers on a TCP connection with that address, messages of so many bytes.
    TcpStream { at: SocketAddr, size: usize },
    /// Serves.
    Worker(Worker),
}

impl Role {
    /// Starts a process that is this.
    pub(crate) fn start(&self) -> Result<Peer> {
        Peer::with(&["--role", &serde_json::to_string(self)?])
    }

    /// Is it, until the process that started this one says that it is over, or ends.
    pub(crate) fn play(self) -> Result<()> {
        tie()?;
        match self {
            Self::CacheLine(path) => cache_line::answer(&path),
            Self::Fabric { device, largest } => pong::answer(&device, largest),
            Self::Socket(path) => socket::answer(&path),
            Self::TcpStream { at, size } => tcp_stream::answer(at, size),
            Self::Worker(worker) => worker::serve(&worker),
        }
    }
}

/// What the first process says next; `None` when it is over.
pub(crate) fn told() -> Result<Option<String>> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let line = line.trim();
    Ok((!line.is_empty()).then(|| line.to_owned()))
}

//! Two processes that block in a unix socket: what sleeping between two messages takes on this
//! machine.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use tempfile::TempDir;

use crate::role::Role;
use crate::support::{Figures, Peer, Result};
use crate::{SMALL, support::PATIENCE};

pub(crate) struct Socket {
    stream: UnixStream,
    // In this order: the other process ends when the stream does.
    _peer: Peer,
    _folder: TempDir,
}

impl Socket {
    pub(crate) fn start() -> Result<Self> {
        let folder = TempDir::new()?;
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path)?;
        let mut peer = Role::Socket(path).start()?;
        peer.line()?;
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            _peer: peer,
            _folder: folder,
        })
    }

    /// Round trips of 64 bytes, with a `pause` before each.
    pub(crate) fn measure(&mut self, seconds: f64, pause: impl FnMut()) -> Result<Figures> {
        let mut message = [7; SMALL];
        let figures = Figures::measure_between(seconds, 1, pause, || {
            self.stream.write_all(&message)?;
            self.stream.read_exact(&mut message)
        })?;
        Ok(figures)
    }
}

/// The other process.
pub(crate) fn answer(path: &Path) -> Result<()> {
    let mut stream = UnixStream::connect(path)?;
    println!("ready");
    let mut message = [0; SMALL];
    while stream.read_exact(&mut message).is_ok() {
        stream.write_all(&message)?;
    }
    Ok(())
}

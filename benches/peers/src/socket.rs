//! Unix sockets with abstract names: they are gone with their process, and leave no file.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// A name that no other run has.
pub(crate) fn name(peer: &str) -> String {
    format!("slimerpc-bench-{peer}-{}", std::process::id())
}

pub(crate) fn listen(name: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

pub(crate) fn connect(name: &str) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
}

/// For tokio.
pub(crate) mod tokio {
    use std::io;
    use tokio::net::{UnixListener, UnixStream};

    /// Inside a runtime.
    pub(crate) fn listen(name: &str) -> io::Result<UnixListener> {
        let listener = super::listen(name)?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }

    /// Inside a runtime.
    pub(crate) fn connect(name: &str) -> io::Result<UnixStream> {
        let stream = super::connect(name)?;
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    }
}

//! Unix sockets with abstract names: they are gone with their process, and leave no file. Beside
//! ours over TCP some peers use TCP, too.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// A name that no other run has.
pub(crate) fn name(peer: &str) -> String {
    format!("slimerpc-bench-{peer}-{}", std::process::id())
}

/// Where a peer is found that may use TCP: if `device` does, at a port that is free now.
pub(crate) fn address(peer: &str, device: &str) -> io::Result<String> {
    if device != slimerpc::fabric::TCP {
        return Ok(name(peer));
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.to_string())
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
    use std::net::SocketAddr;

    use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

    /// The address, if it is one of TCP.
    pub(crate) fn tcp(at: &str) -> Option<SocketAddr> {
        at.parse().ok()
    }

    pub(crate) async fn listen_tcp(at: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(at).await
    }

    pub(crate) async fn accept_tcp(listener: &TcpListener) -> io::Result<TcpStream> {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub(crate) async fn connect_tcp(at: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

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

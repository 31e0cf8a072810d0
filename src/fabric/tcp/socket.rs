//! Sockets: listening, dialling, accepting.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::options::TcpOptions;
use crate::fabric::{FabricError, SystemLimit};

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);
/// Dials that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;
/// Probes of a connection over which nothing comes, before it is given up.
const PROBES: u32 = 3;

fn create(family: IpAddr) -> io::Result<OwnedFd> {
    let family = match family {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        FLAGS,
        None,
    )?)
}

/// Listens as `options` say. Gives the address that peers dial, too.
pub(super) fn listen(options: &TcpOptions) -> Result<(OwnedFd, SocketAddr), FabricError> {
    let refuse = |reason: String| FabricError::NoDevice {
        device: crate::fabric::TCP.to_owned(),
        reason,
    };
    let advertised = options.advertise.unwrap_or(options.bind);
    if advertised.is_unspecified() {
        return Err(refuse(format!(
            "it would listen on all addresses ({}) and peers need one of them: set `advertise`",
            options.bind
        )));
    }
    let mut last = None;
    for port in options.ports.clone() {
        match listen_at(SocketAddr::new(options.bind, port)) {
            Ok((socket, port)) => return Ok((socket, SocketAddr::new(advertised, port))),
            Err(error) if SystemLimit::of(&error).is_some() => {
                return Err(FabricError::os("listening for peers")(error));
            }
            Err(error) => last = Some(error),
        }
    }
    let (bind, first, end) = (options.bind, options.ports.start(), options.ports.end());
    Err(refuse(match last {
        None => format!("`ports` is the empty range {first} to {end}"),
        Some(error) => {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => "set other `ports`",
                io::ErrorKind::AddrNotAvailable => "set `bind` to an address of this host",
                _ => "set other `bind` and `ports`",
            };
            format!(
                "it cannot listen on {bind}, ports {first} to {end}: {error}; {hint} (of agents: `tcp_bind`, \
                 SLIME_RPC_TCP_BIND)"
            )
        }
    }))
}

fn listen_at(address: SocketAddr) -> io::Result<(OwnedFd, u16)> {
    let socket = create(address.ip())?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, bound.port()))
}

/// The next one who dials, if there is one.
pub(super) fn accept(listener: &OwnedFd) -> io::Result<Option<(OwnedFd, Option<SocketAddr>)>> {
    match rustix::net::acceptfrom_with(listener, FLAGS) {
        Ok((socket, from)) => {
            let from = from.and_then(|from| SocketAddr::try_from(from).ok());
            Ok(Some((socket, from)))
        }
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Begins to dial.
pub(super) fn dial(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = create(address.ip())?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Whether a dial has succeeded, once the socket is writable.
pub(super) fn dialled(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::socket_error(socket)??)
}

/// Whether the peer has reset a connection, or it is lost.
pub(super) fn is_gone(socket: impl AsFd) -> bool {
    let gone = PollFlags::ERR | PollFlags::HUP;
    let mut polled = [PollFd::new(&socket, PollFlags::empty())];
    let looked = rustix::event::poll(&mut polled, Some(&Timespec::default()));
    looked.is_ok() && polled[0].revents().intersects(gone)
}

/// Small frames leave at once, and a peer that does not answer for so long is given up.
pub(super) fn configure(socket: impl AsFd, patience: Duration) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    // The kernel counts whole seconds.
    let probe = Duration::from_secs((patience / PROBES).as_secs().clamp(1, 32_767));
    sockopt::set_tcp_keepidle(socket, probe)?;
    sockopt::set_tcp_keepintvl(socket, probe)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    #[cfg(target_os = "linux")]
    {
        let patience = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(socket, patience)?;
    }
    Ok(())
}

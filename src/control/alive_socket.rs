//! A socket that stays bound while this process, or one forked from it, is alive. The kernel frees
//! its name when the process ends, whatever killed it; an unbound name therefore proves the end,
//! also between containers that share a network namespace.

use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with,
};

use super::topology::network_of_thread;

/// Prefix of the socket's name, before random digits; names that others publish must have it, too.
const PREFIX: &str = "slimerpc-alive-";

static BOUND: LazyLock<Option<Bound>> = LazyLock::new(Bound::new);

struct Bound {
    _socket: OwnedFd,
    name: String,
    /// The network namespace of the thread that bound the socket.
    network: String,
}

impl Bound {
    fn new() -> Option<Self> {
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).ok()?;
        let name = format!("{PREFIX}{:032x}", u128::from_ne_bytes(random));
        let socket = socket().ok()?;
        bind(
            &socket,
            &SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?,
        )
        .ok()?;
        Some(Self {
            _socket: socket,
            name,
            network: network_of_thread(),
        })
    }
}

/// Name of this process' socket in this network namespace, which the first call binds; `None` if
/// the socket is bound in another namespace: a process, or some of its threads, may move to another
/// one.
pub(super) fn name_in(network: &str) -> Option<&'static str> {
    let bound = BOUND.as_ref()?;
    (bound.network == network).then_some(&*bound.name)
}

/// Returns whether no process in this network namespace has bound this name. False if this thread
/// cannot tell.
pub(super) fn is_certainly_unbound(name: &str, network: &str) -> bool {
    if network != network_of_thread() {
        return false;
    }
    let Ok(address) = SocketAddrUnix::new_abstract_name(name.as_bytes()) else {
        return false;
    };
    name.starts_with(PREFIX)
        && socket().is_ok_and(|socket| connect(&socket, &address) == Err(Errno::CONNREFUSED))
}

/// A datagram socket: connecting to one uses nothing at the other end.
fn socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_unbound_once_its_socket_is_closed() {
        let here = network_of_thread();
        let is_certainly_unbound = |name: &str| is_certainly_unbound(name, &here);
        let ours = name_in(&here).expect("there are descriptors left");
        assert!(!is_certainly_unbound(ours));
        let other = format!("{PREFIX}test-{}", std::process::id());
        let socket = socket().expect("there are descriptors left");
        let address = SocketAddrUnix::new_abstract_name(other.as_bytes()).expect("it is short");
        bind(&socket, &address).expect("nobody has that name");
        assert!(!is_certainly_unbound(&other));
        drop(socket);
        assert!(is_certainly_unbound(&other));
    }
}

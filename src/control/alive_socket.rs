//! A socket that is bound for as long as this process is there, or one that was forked from it. That nobody has its name any
//! more is proof, across the containers that share a network namespace, that the process has ended: the kernel frees the
//! name, whatever killed the process.

use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with,
};

use super::topology::network_of_thread;

/// Put before random digits, and asked of the names that others publish.
const PREFIX: &str = "slimerpc-alive-";

static BOUND: LazyLock<Option<Bound>> = LazyLock::new(Bound::new);

struct Bound {
    _socket: OwnedFd,
    name: String,
    /// The network namespace of the thread that has bound it.
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

/// The name of this process' socket, which it binds when it is first asked for; `None` if it has none in this network
/// namespace: a process may move to another one, or some of its threads.
pub(super) fn name_in(network: &str) -> Option<&'static str> {
    let bound = BOUND.as_ref()?;
    (bound.network == network).then_some(&*bound.name)
}

/// Whether nobody in this network namespace has the socket of this name. False if that cannot be told from this thread.
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

/// Of datagrams: to connect takes up nothing at the other end.
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

//! A socket that is bound for as long as this process is there, or one that was forked from it. That nobody has its name any
//! more is proof, across the containers that share a network namespace, that the process has ended: the kernel frees the
//! name, whatever killed the process.

use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with,
};

/// Put before random digits, and asked of the names that others publish.
const PREFIX: &str = "slimerpc-alive-";

static BOUND: LazyLock<Option<(OwnedFd, String)>> = LazyLock::new(|| {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).ok()?;
    let name = format!("{PREFIX}{:032x}", u128::from_ne_bytes(random));
    let socket = socket().ok()?;
    bind(
        &socket,
        &SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?,
    )
    .ok()?;
    Some((socket, name))
});

/// The name of this process' socket, which it binds when it is first asked for; `None` if it cannot have one.
pub(super) fn name() -> Option<&'static str> {
    BOUND.as_ref().map(|(_, name)| &**name)
}

/// Whether nobody in our network namespace has the socket of this name. False if that cannot be told.
pub(super) fn is_certainly_unbound(name: &str) -> bool {
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
        let ours = name().expect("there are descriptors left");
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

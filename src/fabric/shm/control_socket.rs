//! Control sockets: unix sockets between the ports of two processes.

use std::fmt::Write as _;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::process::Pid;

use super::message::{MAX_LEN, Message};
use crate::fabric::Gid;

/// Most file descriptors in one message.
pub(super) const MAX_FDS: usize = 3;
/// Dials that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A connected socket. Clones are the same socket.
#[derive(Debug, Clone)]
pub(super) struct ControlSocket {
    socket: Arc<OwnedFd>,
}

/// The result of a receive on a control socket.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A message and the descriptors that came with it.
    Message(Message, Vec<OwnedFd>),
    /// There is no message at the moment.
    Nothing,
    /// A message, but not the descriptors that came with it: this process may have no more.
    Unreceived(Message, io::Error),
    /// The other process has closed the socket or died, or violates the protocol.
    End,
}

/// Binds the socket that `gid` names.
pub(super) fn listen(gid: Gid) -> io::Result<OwnedFd> {
    let socket = socket()?;
    rustix::net::bind(&socket, &name(gid)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Accepts the next dial. Returns `None` if there is none.
pub(super) fn accept(listener: &OwnedFd) -> io::Result<Option<ControlSocket>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match rustix::net::accept_with(listener, flags) {
        Ok(socket) => Ok(Some(ControlSocket::new(socket))),
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

fn name(gid: Gid) -> io::Result<SocketAddrUnix> {
    let mut name = String::from("slimerpc-shm-");
    for byte in gid.0 {
        write!(name, "{byte:02x}").expect("a String takes what it is given");
    }
    Ok(SocketAddrUnix::new_abstract_name(name.as_bytes())?)
}

/// The credentials of the process at the other end. (`rustix` takes process id 0, which a process
/// of another container has, for an error.)
fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut found = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = size_of_val(&found) as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed. The kernel writes at most `length` bytes
    // to `found`, which is of that size, and any bytes are a `ucred`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    match status {
        0 => Ok(found),
        _ => Err(io::Error::last_os_error()),
    }
}

impl ControlSocket {
    fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Arc::new(socket),
        }
    }

    /// Connects to the port with this GID, which must be of the same user. Does not wait.
    pub(super) fn dial(gid: Gid) -> io::Result<Self> {
        let link = Self::dial_anyone(gid)?;
        link.check_user()?;
        Ok(link)
    }

    /// Connects to the port with this GID, of whatever user.
    pub(super) fn dial_anyone(gid: Gid) -> io::Result<Self> {
        let socket = socket()?;
        rustix::net::connect(&socket, &name(gid)?)?;
        Ok(Self::new(socket))
    }

    /// Refuses a peer that runs as another user.
    pub(super) fn check_user(&self) -> io::Result<()> {
        let theirs = peer_credentials(self.as_fd())?.uid;
        let ours = rustix::process::geteuid().as_raw();
        if theirs == ours {
            return Ok(());
        }
        let message = format!("the peer runs as user {theirs}, this process as user {ours}");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    }

    /// Id of the process at the other end; `None` if it has none in this container.
    pub(super) fn peer_process(&self) -> io::Result<Option<Pid>> {
        Ok(Pid::from_raw(peer_credentials(self.as_fd())?.pid))
    }

    /// Sends a message. Never blocks: the socket may have no room.
    pub(super) fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut bytes = [0; MAX_LEN];
        let len = message.encode(&mut bytes);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let pushed = control.push(SendAncillaryMessage::ScmRights(fds));
            assert!(pushed, "at most {MAX_FDS} descriptors go with a message");
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::sendmsg(
            &*self.socket,
            &[IoSlice::new(&bytes[..len])],
            &mut control,
            flags,
        )?;
        Ok(())
    }

    /// Reads the next message, and leaves it and its descriptors where they are. Never blocks.
    pub(super) fn peek(&self) -> Option<Message> {
        let mut bytes = [0; MAX_LEN];
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let (len, _) = rustix::net::recv(&*self.socket, &mut bytes, flags).ok()?;
        Message::decode(&bytes[..len])
    }

    /// Returns whether the other process has yet to receive something that was sent.
    pub(super) fn is_unread_there(&self) -> bool {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open while it is borrowed, and the kernel writes an `int`.
        let status =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        status == 0 && bytes > 0
    }

    /// Receives the next message. Never blocks.
    pub(super) fn receive(&self) -> Incoming {
        let mut bytes = [0; MAX_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let buffers = &mut [IoSliceMut::new(&mut bytes)];
        let receive = || rustix::net::recvmsg(&*self.socket, &mut *buffers, &mut control, flags);
        let received = match rustix::io::retry_on_intr(receive) {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN) => return Incoming::Nothing,
            Err(_) => return Incoming::End,
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Incoming::End;
        }
        match Message::decode(&bytes[..received.bytes]) {
            // The buffer has room for as many as a message may have, so the process is out of
            // descriptors.
            Some(message)
                if received.flags.contains(ReturnFlags::CTRUNC) && fds.len() < MAX_FDS =>
            {
                Incoming::Unreceived(message, rustix::io::Errno::MFILE.into())
            }
            Some(message) if !received.flags.contains(ReturnFlags::CTRUNC) => {
                Incoming::Message(message, fds)
            }
            _ => Incoming::End,
        }
    }

    /// Closes the socket at both ends. A repeated call does nothing.
    pub(super) fn end(&self) {
        // The only failure is that it has ended already.
        let _ = rustix::net::shutdown(&*self.socket, Shutdown::Both);
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

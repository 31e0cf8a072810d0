//! The bytes of a connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use rustix::net::Shutdown;

use super::tls::{Handshake, TlsSession};
use crate::tls::TlsError;

/// A piece of memory that bytes are moved from or to.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Piece(libc::iovec);

impl Piece {
    pub(super) const EMPTY: Self = Self(libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    });

    pub(super) fn new(first: NonNull<u8>, len: usize) -> Self {
        Self(libc::iovec {
            iov_base: first.as_ptr().cast(),
            iov_len: len,
        })
    }

    /// Where it begins, and how long it is.
    #[cfg_attr(not(feature = "tls"), expect(dead_code))]
    pub(super) fn parts(&self) -> (*mut u8, usize) {
        (self.0.iov_base.cast(), self.0.iov_len)
    }

    /// Bytes that are only read.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::new(NonNull::from(bytes).cast(), bytes.len())
    }
}

/// A connected socket that does not block, and maybe what encrypts its bytes.
#[derive(Debug)]
pub(super) struct Stream {
    socket: OwnedFd,
    /// `None`: the bytes are as they are.
    tls: Option<Box<TlsSession>>,
}

impl Stream {
    pub(super) fn plain(socket: OwnedFd) -> Self {
        Self { socket, tls: None }
    }

    /// The same socket, whose bytes belong to `session` from now on.
    pub(super) fn encrypt(&mut self, session: TlsSession) {
        self.tls = Some(Box::new(session));
    }

    /// The same socket, whose bytes nobody looks at any more.
    pub(super) fn strip(self) -> Self {
        Self::plain(self.socket)
    }

    pub(super) fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Goes on with the handshake, if there is one.
    pub(super) fn handshake(&mut self) -> Result<Handshake, Option<TlsError>> {
        match &mut self.tls {
            None => Ok(Handshake::Done),
            Some(tls) => tls.handshake(&self.socket),
        }
    }

    /// Whether something has come that the socket does not have any more.
    pub(super) fn holds_input(&mut self) -> bool {
        self.tls.as_mut().is_some_and(|tls| tls.holds_input())
    }

    /// Receives into `pieces`, in order; nothing from the socket unless `reads`. Fewer bytes than
    /// there is room for: nothing more has come. 0: the peer has closed.
    ///
    /// # Safety
    /// Each piece is valid for writes, by raw pointers at least.
    pub(super) unsafe fn receive(
        &mut self,
        pieces: &mut [Piece],
        reads: bool,
    ) -> io::Result<usize> {
        match &mut self.tls {
            // SAFETY: as the caller vouches.
            None => unsafe { receive(self.socket.as_raw_fd(), pieces) },
            // SAFETY: as the caller vouches.
            Some(tls) => unsafe { tls.receive(&self.socket, pieces, reads) },
        }
    }

    /// Sends `pieces`, in order, as far as the socket takes them. What it did not take must be the
    /// first that is given next time.
    ///
    /// # Safety
    /// Each piece is valid for reads, by raw pointers at least.
    pub(super) unsafe fn send(&mut self, pieces: &[Piece]) -> io::Result<usize> {
        match &mut self.tls {
            // SAFETY: as the caller vouches.
            None => unsafe { send(self.socket.as_raw_fd(), pieces) },
            // SAFETY: as the caller vouches.
            Some(tls) => unsafe { tls.send(&self.socket, pieces) },
        }
    }

    /// Says that nothing more comes.
    pub(super) fn finish(&self) {
        // It has been closed by the peer if this fails.
        let _ = rustix::net::shutdown(self, Shutdown::Write);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Receives into `pieces`, in order. 0: the peer has closed.
///
/// # Safety
/// Each piece is valid for writes, by raw pointers at least.
pub(super) unsafe fn receive(socket: RawFd, pieces: &mut [Piece]) -> io::Result<usize> {
    if let [Piece(piece)] = pieces {
        let (base, len, flags) = (piece.iov_base, piece.iov_len, libc::MSG_DONTWAIT);
        // SAFETY: the caller vouches for the piece; the kernel writes nothing else.
        return retry(|| unsafe { libc::recv(socket, base, len, flags) });
    }
    // SAFETY: all zeros is a message without address, pieces and ancillary data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr().cast();
    message.msg_iovlen = pieces.len() as _;
    // SAFETY: `message` names `pieces`, which the caller vouches for; the kernel writes nothing
    // else.
    retry(|| unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_DONTWAIT) })
}

/// Sends `pieces`, in order, as far as the socket takes them.
///
/// # Safety
/// Each piece is valid for reads, by raw pointers at least.
pub(super) unsafe fn send(socket: RawFd, pieces: &[Piece]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    if let [Piece(piece)] = pieces {
        let (base, len) = (piece.iov_base, piece.iov_len);
        // SAFETY: the caller vouches for the piece, which the kernel only reads.
        return retry(|| unsafe { libc::send(socket, base, len, flags) });
    }
    // SAFETY: all zeros is a message without address, pieces and ancillary data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = pieces.len() as _;
    // SAFETY: `message` names `pieces`, which the caller vouches for and the kernel only reads.
    retry(|| unsafe { libc::sendmsg(socket, &raw const message, flags) })
}

/// Makes a system call again when a signal came in between.
fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

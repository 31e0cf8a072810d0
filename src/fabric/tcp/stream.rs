//! The bytes of a connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::net::Shutdown;

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

    /// Bytes that are only read.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::new(NonNull::from(bytes).cast(), bytes.len())
    }
}

/// A connected socket that does not block. What encrypts will be another variant.
#[derive(Debug)]
pub(super) enum Stream {
    /// The bytes as they are.
    Plain(OwnedFd),
}

impl Stream {
    /// Receives into `pieces`, in order. 0: the peer has closed.
    ///
    /// # Safety
    /// Each piece is valid for writes, by raw pointers at least.
    pub(super) unsafe fn receive(&self, pieces: &mut [Piece]) -> io::Result<usize> {
        let Self::Plain(socket) = self;
        let socket = socket.as_raw_fd();
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
    pub(super) unsafe fn send(&self, pieces: &[Piece]) -> io::Result<usize> {
        let Self::Plain(socket) = self;
        let socket = socket.as_raw_fd();
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

    /// Says that nothing more comes.
    pub(super) fn finish(&self) {
        // It has been closed by the peer if this fails.
        let _ = rustix::net::shutdown(self, Shutdown::Write);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let Self::Plain(socket) = self;
        socket.as_fd()
    }
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

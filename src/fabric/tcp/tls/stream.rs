//! What encrypts the bytes of a connection.

use std::fmt;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, HandshakeKind, ServerConnection};

use super::TlsContext;
use super::verifier::PeerVerifier;
use crate::fabric::tcp::stream::{Piece, receive, send};
use crate::tls::TlsError;

/// Encrypted bytes that one system call receives.
const INCOMING: usize = 64 * 1024;
/// Bytes that are encrypted before they are sent: some records.
const OUTGOING: usize = 64 * 1024;
/// System calls that one call receives by at most. A peer may send records without bytes as fast as
/// they are decrypted.
const READS: usize = 16;
/// Bytes that one call sends, roughly: a peer may take them as fast as they are encrypted, and
/// others wait meanwhile.
const BURST: usize = 8 << 20;
/// Stands for the name of the peer, which [`PeerVerifier`] looks for in another place.
const NAME: &str = "slimerpc.invalid";

/// A session of TLS. The socket is always the same one, and does not block.
pub(in super::super) struct TlsSession {
    session: Connection,
    verifier: Arc<PeerVerifier>,
    /// What has been received; that from `start` to `end` has not been looked at.
    incoming: Box<[u8]>,
    start: usize,
    end: usize,
    /// What is encrypted next.
    outgoing: Vec<u8>,
    /// Bytes that were given to [`send`](Self::send) and are encrypted, but not all sent. They
    /// count as sent when all are.
    encrypted: usize,
}

/// How far a handshake has come.
pub(in super::super) enum Handshake {
    Done,
    /// The other side has to say something.
    Reads,
    /// The socket takes no more at the moment.
    Writes,
}

/// What there is to be decrypted.
enum More {
    Yes,
    /// Not at the moment.
    No,
    /// And never will be.
    End,
}

impl TlsSession {
    /// Begins a handshake with the peer of this alias, as the end that dialled or the other.
    pub(in super::super) fn begin(
        context: &TlsContext,
        peer: Option<&str>,
        is_dialler: bool,
    ) -> Result<Self, TlsError> {
        let failed = |error: rustls::Error| TlsError::from(&error);
        let configs = context.current().configs(peer).map_err(failed)?;
        let mut session = if is_dialler {
            let name = ServerName::try_from(NAME).expect("it is one");
            Connection::from(ClientConnection::new(configs.client, name).map_err(failed)?)
        } else {
            Connection::from(ServerConnection::new(configs.server).map_err(failed)?)
        };
        // It is filled by as much as is sent at once.
        session.set_buffer_limit(None);
        Ok(Self {
            session,
            verifier: configs.verifier,
            incoming: vec![0; INCOMING].into(),
            start: 0,
            end: 0,
            outgoing: Vec::new(),
            encrypted: 0,
        })
    }

    /// Goes on with the handshake as far as the socket lets it.
    ///
    /// # Errors
    /// Why one of the sides refuses the other; `None` if the connection just ended.
    pub(in super::super) fn handshake(
        &mut self,
        socket: &OwnedFd,
    ) -> Result<Handshake, Option<TlsError>> {
        let ended = |error: io::Error| TlsError::of_stream(&error);
        let mut reads = READS;
        loop {
            if !self.flush(socket).map_err(ended)? {
                return Ok(Handshake::Writes);
            }
            if !self.session.is_handshaking() {
                self.check_resumed().map_err(Some)?;
                return Ok(Handshake::Done);
            }
            match self.decrypt(socket, &mut reads).map_err(ended)? {
                More::Yes => {}
                More::No => return Ok(Handshake::Reads),
                More::End => return Err(None),
            }
        }
    }

    /// A certificate may have expired since the session began that is resumed.
    fn check_resumed(&self) -> Result<(), TlsError> {
        if self.session.handshake_kind() != Some(HandshakeKind::Resumed) {
            return Ok(());
        }
        let chain = self.session.peer_certificates().unwrap_or_default();
        let is_client = matches!(self.session, Connection::Server(_));
        let checked = self.verifier.check_again(chain, is_client);
        checked.map_err(|error| TlsError::from(&error))
    }

    /// Encrypts so many bytes, each in a record of its own.
    #[cfg(test)]
    pub(in super::super) fn records(&mut self, count: usize) -> Vec<u8> {
        let mut encrypted = Vec::new();
        for _ in 0..count {
            self.session
                .writer()
                .write_all(&[7])
                .expect("there is room");
            while self.session.wants_write() {
                self.session
                    .write_tls(&mut encrypted)
                    .expect("a vector takes all");
            }
        }
        encrypted
    }

    /// Whether the session is one that was resumed.
    #[cfg(test)]
    pub(in super::super) fn is_resumed(&self) -> bool {
        self.session.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether something has been received of which no event tells any more.
    pub(in super::super) fn holds_input(&mut self) -> bool {
        self.start < self.end
            || self
                .session
                .reader()
                .fill_buf()
                .is_ok_and(|it| !it.is_empty())
    }

    /// Receives into `pieces`, in order, until they are full or the socket is empty; what it has is
    /// left alone unless `reads`. 0: the peer has closed.
    ///
    /// # Safety
    /// Each piece is valid for writes, by raw pointers at least.
    pub(in super::super) unsafe fn receive(
        &mut self,
        socket: &OwnedFd,
        pieces: &[Piece],
        reads: bool,
    ) -> io::Result<usize> {
        let mut received = 0;
        let mut reads = if reads { READS } else { 0 };
        for piece in pieces {
            let (first, len) = piece.parts();
            let mut at = 0;
            while at < len {
                let mut reader = self.session.reader();
                match reader.fill_buf() {
                    // It said farewell.
                    Ok([]) => return Ok(received),
                    Ok(plain) => {
                        let count = plain.len().min(len - at);
                        // SAFETY: the caller vouches for the piece, of which these are bytes; those
                        // that are copied belong to the session.
                        unsafe {
                            first
                                .add(at)
                                .copy_from_nonoverlapping(plain.as_ptr(), count)
                        };
                        reader.consume(count);
                        at += count;
                        received += count;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
                match self.decrypt(socket, &mut reads) {
                    Ok(More::Yes) => {}
                    Ok(More::No) if received == 0 => return Err(io::ErrorKind::WouldBlock.into()),
                    Ok(More::No | More::End) => return Ok(received),
                    // What came before counts; the socket has ended, and says so again.
                    Err(error) if received > 0 && TlsError::of_stream(&error).is_none() => {
                        return Ok(received);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(received)
    }

    /// Decrypts what has been received, or else what the socket has. It is read so many times at
    /// most; 0 once it has nothing.
    fn decrypt(&mut self, socket: &OwnedFd, reads: &mut usize) -> io::Result<More> {
        if self.start == self.end {
            if *reads == 0 {
                return Ok(More::No);
            }
            let buffer = &mut *self.incoming;
            let mut piece = [Piece::new(NonNull::from(&mut *buffer).cast(), INCOMING)];
            // SAFETY: the piece is the buffer, to which this has the only reference.
            let received = match unsafe { receive(socket.as_raw_fd(), &mut piece) } {
                Ok(0) => return Ok(More::End),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    *reads = 0;
                    return Ok(More::No);
                }
                Err(error) => return Err(error),
            };
            *reads = if received < INCOMING { 0 } else { *reads - 1 };
            (self.start, self.end) = (0, received);
        }
        let mut rest = &self.incoming[self.start..self.end];
        self.start += self.session.read_tls(&mut rest)?;
        if let Err(error) = self.session.process_new_packets() {
            // It is told why, if there is room.
            let _ = self.flush(socket);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(More::Yes)
    }

    /// Sends `pieces`, in order, as far as the socket takes them, or some of them. Those that were
    /// not sent have to be given again: some are encrypted already.
    ///
    /// # Safety
    /// Each piece is valid for reads, by raw pointers at least.
    pub(in super::super) unsafe fn send(
        &mut self,
        socket: &OwnedFd,
        pieces: &[Piece],
    ) -> io::Result<usize> {
        let mut sent = 0;
        loop {
            if !self.flush(socket)? {
                return match sent {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    sent => Ok(sent),
                };
            }
            sent += std::mem::take(&mut self.encrypted);
            if sent >= BURST {
                return Ok(sent);
            }
            // SAFETY: the caller vouches for the pieces.
            unsafe { gather(pieces, sent, &mut self.outgoing) };
            if self.outgoing.is_empty() {
                return Ok(sent);
            }
            self.encrypted = self.session.writer().write(&self.outgoing)?;
        }
    }

    /// Sends what is encrypted. Returns whether all is sent.
    fn flush(&mut self, socket: &OwnedFd) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Socket(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Copies bytes of `pieces` that follow the first `skipped`, some records of them.
///
/// # Safety
/// Each piece is valid for reads, by raw pointers at least.
unsafe fn gather(pieces: &[Piece], mut skipped: usize, into: &mut Vec<u8>) {
    into.clear();
    for piece in pieces {
        let (first, len) = piece.parts();
        let at = skipped.min(len);
        skipped -= at;
        let count = (len - at).min(OUTGOING - into.len());
        into.reserve(count);
        let end = into.len();
        // SAFETY: `count` bytes of the piece follow `at`, for which the caller vouches; there is
        // room for them, which is nobody else's, and they are initialised with that.
        unsafe {
            let to = into.as_mut_ptr().add(end);
            to.copy_from_nonoverlapping(first.add(at), count);
            into.set_len(end + count);
        }
    }
}

/// Writes to a socket.
struct Socket<'a>(&'a OwnedFd);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the piece is `bytes`, which are only read.
        unsafe { send(self.0.as_raw_fd(), &[Piece::of(bytes)]) }
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let mut pieces = [Piece::EMPTY; 64];
        let count = slices.len().min(pieces.len());
        for (piece, slice) in pieces.iter_mut().zip(slices) {
            *piece = Piece::of(slice);
        }
        // SAFETY: the pieces are those of `slices`, which are only read.
        unsafe { send(self.0.as_raw_fd(), &pieces[..count]) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession")
            .field("encrypted", &self.encrypted)
            .finish_non_exhaustive()
    }
}

//! Mutual TLS below a connection.
//!
//! Both ends show certificates that the authority has signed. A certificate names the aliases that
//! its holder may have, as URIs in its subjectAltName: `URI:slimerpc:worker:0`, or
//! `URI:slimerpc:worker:*` for all that begin so. What a URI cannot carry is percent-encoded.
//!
//! The ends first show that they know each other's keys, in the clear and by a digest, so that
//! nobody computes for strangers. Then the dialler begins the handshake of TLS, and within it both
//! say the hello of the fabric. The files are looked at before each handshake, and read anew if one
//! has changed.

mod credentials;
mod stream;
#[cfg(test)]
mod tests;
mod verifier;

use std::sync::Arc;

pub(super) use credentials::proof;
pub(super) use stream::{Handshake, TlsSession};

use self::credentials::Credentials;
use crate::tls::{TlsFileError, TlsFiles, WatchedFiles};

/// The certificates of a device.
#[derive(Debug)]
pub(super) struct TlsContext(WatchedFiles<Credentials>);

impl TlsContext {
    /// Reads the files.
    pub(super) fn open(files: &TlsFiles) -> Result<Self, TlsFileError> {
        let files = files.clone();
        let watched = [&files.cert, &files.key, &files.ca].map(Clone::clone);
        let read = move || Credentials::read(&files);
        WatchedFiles::open("the certificates of tcp0", watched.into(), read).map(Self)
    }

    /// What is in the files.
    fn current(&self) -> Arc<Credentials> {
        self.0.current()
    }
}

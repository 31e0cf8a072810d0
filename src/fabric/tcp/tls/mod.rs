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

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

pub(super) use credentials::proof;
pub(super) use stream::{Handshake, TlsSession};

use self::credentials::{Credentials, Stamp};
use crate::complaints::Complaints;
use crate::tls::{TlsFileError, TlsFiles};

/// The certificates of a device.
pub(super) struct TlsContext {
    files: TlsFiles,
    current: Mutex<(Arc<Credentials>, Complaints)>,
}

impl TlsContext {
    /// Reads the files.
    pub(super) fn open(files: &TlsFiles) -> Result<Self, TlsFileError> {
        let credentials = Credentials::read(files)?;
        Ok(Self {
            files: files.clone(),
            current: Mutex::new((Arc::new(credentials), Complaints::default())),
        })
    }

    /// What is in the files. Those that cannot be read are left alone: somebody may be writing
    /// them.
    fn current(&self) -> Arc<Credentials> {
        let mut guard = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (current, complaints) = &mut *guard;
        if !current.are_of(&stamps(&self.files)) {
            match Credentials::read(&self.files) {
                Ok(read) => {
                    tracing::info!("the certificates of tcp0 were read anew");
                    *current = Arc::new(read);
                }
                Err(error) => complaints.warn(
                    Instant::now(),
                    format_args!("the certificates of tcp0 stay what they were: {error}"),
                ),
            }
        }
        current.clone()
    }
}

impl fmt::Debug for TlsContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsContext")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn stamps(files: &TlsFiles) -> [Stamp; 3] {
    [&files.cert, &files.key, &files.ca].map(|path| Stamp::of(path))
}

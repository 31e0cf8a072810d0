//! Certificates: the files that settings name, and what can be wrong with the other side's.
//!
//! What is here is known without the cargo feature `tls`, too, so that a setting that needs it is
//! refused by name.

#[cfg(feature = "tls")]
mod files;
mod problem;

use std::path::PathBuf;

#[cfg(feature = "tls")]
pub(crate) use files::{authorities, identity, provider, system_authorities};
pub use problem::{CertificateProblem, TlsError};

/// A file that a TLS setting names cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {}: {reason}", .path.display())]
pub struct TlsFileError {
    /// Name of the setting.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

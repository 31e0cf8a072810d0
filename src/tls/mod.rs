//! Certificates: the files that settings name, and what can be wrong with the other side's.
//!
//! What is here is known without the cargo feature `tls`, too, so that a setting that needs it is
//! refused by name.

#[cfg(feature = "tls")]
mod alias_names;
#[cfg(feature = "tls")]
mod files;
mod problem;
#[cfg(feature = "tls")]
mod watched_files;

use std::path::PathBuf;

#[cfg(feature = "tls")]
pub(crate) use alias_names::check_alias;
#[cfg(feature = "tls")]
pub(crate) use files::{authorities, identity, provider, system_authorities};
#[cfg(feature = "tls")]
pub(crate) use problem::NotNamed;
pub use problem::{CertificateProblem, TlsError};
#[cfg(feature = "tls")]
pub(crate) use watched_files::WatchedFiles;

/// Whether this build knows TLS: the cargo feature `tls`.
pub const IS_BUILT_IN: bool = cfg!(feature = "tls");

/// The files, in PEM form, with which peers of the tcp fabric know each other.
///
/// ```
/// use slimerpc::tls::TlsFiles;
/// let files = TlsFiles {
///     cert: "/etc/slimerpc/worker.crt".into(),
///     key: "/etc/slimerpc/worker.key".into(),
///     ca: "/etc/slimerpc/ca.crt".into(),
/// };
/// # drop(files);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// This side's certificate, and those that lead from it to the authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of which one has signed the certificate of each peer.
    pub ca: PathBuf,
}

impl TlsFiles {
    /// The variables that supply the files.
    pub const SETTINGS: [&str; 3] = [
        "SLIME_RPC_TLS_CERT",
        "SLIME_RPC_TLS_KEY",
        "SLIME_RPC_TLS_CA",
    ];

    /// Checks that the certificate names an alias, without which every peer refuses the agent that
    /// has it.
    ///
    /// # Errors
    /// It names others, or cannot be read.
    #[cfg(feature = "tls")]
    pub fn check_alias(&self, alias: &str) -> Result<(), TlsFileError> {
        let setting = Self::SETTINGS[0];
        let refused = |reason: String| TlsFileError {
            setting,
            path: self.cert.clone(),
            reason,
        };
        let chain = files::certificates(setting, &self.cert)?;
        let checked = check_alias(&chain[0], alias);
        let checked = checked.map_err(|error| refused(error.to_string()))?;
        checked.map_err(|error| {
            refused(format!(
                "{error}, so peers would refuse this agent; give it a certificate with \
                 subjectAltName=URI:slimerpc:{alias}, or an alias that this one names"
            ))
        })
    }

    /// Checks nothing in a build that cannot read certificates.
    ///
    /// # Errors
    /// None.
    #[cfg(not(feature = "tls"))]
    pub fn check_alias(&self, _: &str) -> Result<(), TlsFileError> {
        Ok(())
    }
}

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

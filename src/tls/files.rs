//! Reads certificates, keys and authorities.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};

use super::TlsFileError;

/// Who computes. It is named each time, so that what a program installed for itself stays its own.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn refuse(setting: &'static str, path: &Path, reason: impl Into<String>) -> TlsFileError {
    TlsFileError {
        setting,
        path: path.to_owned(),
        reason: reason.into(),
    }
}

fn unreadable(setting: &'static str, path: &Path, error: &PemError) -> TlsFileError {
    let reason = match error {
        PemError::Io(error) => error.to_string(),
        PemError::NoItemsFound => "the file has no such thing in PEM form".to_owned(),
        other => format!("the file is not PEM: {other}"),
    };
    refuse(setting, path, reason)
}

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(
    setting: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let failed = |error: PemError| unreadable(setting, path, &error);
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let certificates = read.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if certificates.is_empty() {
        return Err(refuse(
            setting,
            path,
            "the file has no certificate in PEM form",
        ));
    }
    Ok(certificates)
}

/// The authorities of a PEM file.
pub(crate) fn authorities(
    setting: &'static str,
    path: &Path,
) -> Result<RootCertStore, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(setting, path)? {
        let added = roots.add(certificate);
        added.map_err(|error| refuse(setting, path, format!("it is no authority: {error}")))?;
    }
    Ok(roots)
}

/// The authorities that this system trusts, or those of the file in `SSL_CERT_FILE`.
pub(crate) fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "some authorities of this system cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

/// A certificate with those that lead to its authority, and its key. Of either, the setting's name
/// and the file.
pub(crate) fn identity(
    [certificate, key]: [(&'static str, &Path); 2],
) -> Result<Arc<CertifiedKey>, TlsFileError> {
    let chain = certificates(certificate.0, certificate.1)?;
    let (setting, path) = key;
    let der = PrivateKeyDer::from_pem_file(path);
    let der = der.map_err(|error| match error {
        PemError::NoItemsFound => refuse(setting, path, "the file has no private key in PEM form"),
        error => unreadable(setting, path, &error),
    })?;
    let key = provider().key_provider.load_private_key(der);
    let key = key.map_err(|error| refuse(setting, path, error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => {
            let other = certificate.1.display();
            let reason = format!("it is not the key of the certificate in {other}");
            return Err(refuse(setting, path, reason));
        }
        Err(error) => {
            return Err(refuse(certificate.0, certificate.1, error.to_string()));
        }
    }
    warn_of_exposed(setting, path);
    Ok(Arc::new(certified))
}

/// Warns of a key that others than its owner may read, once for each file.
fn warn_of_exposed(setting: &str, path: &Path) {
    /// More are not remembered, and warned of again.
    const MOST: usize = 64;
    static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let (mode, owner) =
        std::fs::metadata(path).map_or((0, 0), |metadata| (metadata.mode(), metadata.uid()));
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if !is_exposed(mode, owner) || warned.contains(path) {
        return;
    }
    if warned.len() < MOST {
        warned.insert(path.to_owned());
    }
    let path = path.display();
    tracing::warn!(
        "{setting} is {path}: others than its owner may use this private key (mode {:03o}); chmod 600 {path}",
        mode & 0o777
    );
}

/// Whether others than those who are meant may use a key. Where root owns it, a group that may read
/// it is meant: so keys are given to services.
fn is_exposed(mode: u32, owner: u32) -> bool {
    let of_group = if owner == 0 { 0o030 } else { 0o070 };
    mode & (0o007 | of_group) != 0
}

#[cfg(test)]
mod tests {
    use super::is_exposed;

    #[test]
    fn a_key_of_root_may_be_read_by_a_group_and_no_other_by_anybody_else() {
        for (mode, owner, exposed) in [
            (0o600, 0, false),
            (0o640, 0, false),
            (0o660, 0, true),
            (0o644, 0, true),
            (0o400, 1000, false),
            (0o640, 1000, true),
            (0o601, 1000, true),
        ] {
            assert_eq!(is_exposed(mode, owner), exposed, "{mode:o} of {owner}");
        }
    }
}

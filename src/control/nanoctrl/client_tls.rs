//! How to reach a NanoCtrl over TLS.

use std::path::PathBuf;

#[cfg(feature = "tls")]
use crate::tls::{self, TlsFileError};

/// Files, in PEM form, for a NanoCtrl that is named by `https://`. They are looked at before each
/// request, and read anew if one has changed.
///
/// ```
/// use slimerpc::control::ClientTls;
/// let tls = ClientTls {
///     ca: Some("/etc/slimerpc/ca.crt".into()),
///     ..ClientTls::default()
/// };
/// # drop(tls);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The authorities of which one has signed the server's certificate. `None`: those that this
    /// system trusts, or those of the file in `SSL_CERT_FILE`.
    pub ca: Option<PathBuf>,
    /// This side's certificate, if the server wants one (`--tls-client-ca`).
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

const CA: &str = ClientTls::SETTINGS[0];
const CERT: &str = ClientTls::SETTINGS[1];
const KEY: &str = ClientTls::SETTINGS[2];

impl ClientTls {
    /// The variables that supply the files, as errors name them.
    pub const SETTINGS: [&str; 3] = ["NANOCTRL_CA", "NANOCTRL_CERT", "NANOCTRL_KEY"];

    /// Takes what is not set from the variables `NANOCTRL_CA`, `NANOCTRL_CERT` and `NANOCTRL_KEY`,
    /// of which an empty one counts as unset.
    #[must_use]
    pub fn or_environment(self) -> Self {
        let or = |set: Option<PathBuf>, name| {
            let value = || std::env::var_os(name).filter(|value| !value.is_empty());
            set.or_else(|| value().map(PathBuf::from))
        };
        Self {
            ca: or(self.ca, CA),
            cert: or(self.cert, CERT),
            key: or(self.key, KEY),
        }
    }

    /// A configuration that nobody can connect with.
    #[cfg(feature = "tls")]
    pub(super) fn unused() -> rustls::ClientConfig {
        Self::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth()
    }

    #[cfg(feature = "tls")]
    fn builder() -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier> {
        rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .expect("its provider knows both versions of TLS")
    }

    /// The URL of a server whose address may lack a scheme. It gets `https://` if there is any file
    /// for TLS, so that nobody who has set one talks in the clear without having said so.
    ///
    /// ```
    /// use slimerpc::control::ClientTls;
    /// let ca = Some("/etc/slimerpc/ca.crt".into());
    /// let tls = ClientTls { ca, ..ClientTls::default() };
    /// assert_eq!(tls.url_of("ctrl:3000"), "https://ctrl:3000");
    /// assert_eq!(tls.url_of("http://ctrl:3000"), "http://ctrl:3000");
    /// assert_eq!(ClientTls::default().url_of("ctrl:3000"), "http://ctrl:3000");
    /// ```
    #[must_use]
    pub fn url_of(&self, address: &str) -> String {
        let scheme = match self.files().is_empty() {
            _ if address.contains("://") => return address.to_owned(),
            true => "http",
            false => "https",
        };
        format!("{scheme}://{address}")
    }

    /// Those that are set.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let files = [&self.ca, &self.cert, &self.key];
        files.into_iter().flatten().cloned().collect()
    }

    /// What a client needs to connect.
    #[cfg(feature = "tls")]
    pub(crate) fn config(&self) -> Result<rustls::ClientConfig, TlsFileError> {
        use std::sync::Arc;

        use rustls::client::ResolvesClientCert;
        use rustls::sign::{CertifiedKey, SingleCertAndKey};

        let roots = match &self.ca {
            Some(ca) => tls::authorities(CA, ca)?,
            None => tls::system_authorities(),
        };
        let config = Self::builder().with_root_certificates(roots);
        let lonely = |setting, path: &PathBuf, other| TlsFileError {
            setting,
            path: path.clone(),
            reason: format!("set {other}, too"),
        };
        let resolver = |identity: Arc<CertifiedKey>| -> Arc<dyn ResolvesClientCert> {
            Arc::new(SingleCertAndKey::from(identity))
        };
        match (&self.cert, &self.key) {
            (None, None) => Ok(config.with_no_client_auth()),
            (Some(cert), Some(key)) => {
                let identity = tls::identity([(CERT, cert), (KEY, key)])?;
                Ok(config.with_client_cert_resolver(resolver(identity)))
            }
            (Some(cert), None) => Err(lonely(CERT, cert, KEY)),
            (None, Some(key)) => Err(lonely(KEY, key, CERT)),
        }
    }
}

//! The certificates of a server that speaks TLS.

use std::any::Any;
use std::sync::Arc;

use actix_tls::accept::rustls_0_23::TlsStream;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;

use super::config::ServerTls;
use crate::tls::{self, TlsFileError};

/// What the server needs to be connected with.
pub(super) fn config(files: &ServerTls) -> Result<ServerConfig, TlsFileError> {
    let identity = tls::identity([("--tls-cert", &files.cert), ("--tls-key", &files.key)])?;
    let builder = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("its provider knows both versions of TLS");
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let setting = "--tls-client-ca";
            let roots = Arc::new(tls::authorities(setting, ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, tls::provider());
            let verifier = verifier.build().map_err(|error| TlsFileError {
                setting,
                path: ca.clone(),
                reason: error.to_string(),
            })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    if files.client_ca.is_some() {
        // Nobody checks whether the certificate of a session that is resumed has expired.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

/// The socket below an encrypted connection.
pub(super) fn socket(connection: &dyn Any) -> Option<&TcpStream> {
    let stream = connection.downcast_ref::<TlsStream<TcpStream>>()?;
    Some(stream.get_ref().0)
}

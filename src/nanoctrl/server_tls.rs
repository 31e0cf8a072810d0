//! The certificates of a server that speaks TLS.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use actix_tls::accept::rustls_0_23::TlsStream;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoClientAuth, NoServerSessionStorage, ResolvesServerCert, ServerConfig,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use tokio::net::TcpStream;

use super::config::ServerTls;
use crate::tls::{self, TlsFileError, WatchedFiles};

/// What the server needs to be connected with. The files are looked at in each handshake, and read
/// anew if one has changed.
pub(super) fn config(files: &ServerTls) -> Result<ServerConfig, TlsFileError> {
    let watched = [
        Some(&files.cert),
        Some(&files.key),
        files.client_ca.as_ref(),
    ];
    let watched = watched.into_iter().flatten().cloned().collect();
    let (of, wants_certificates) = (files.clone(), files.client_ca.is_some());
    let read = move || Contents::read(&of);
    let watched = WatchedFiles::open("the certificates of the server", watched, read)?;
    let certificates = Arc::new(ServerCertificates(watched));
    let builder = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("its provider knows both versions of TLS");
    let builder = match wants_certificates {
        false => builder.with_no_client_auth(),
        true => builder.with_client_cert_verifier(certificates.clone()),
    };
    let mut config = builder.with_cert_resolver(certificates);
    if wants_certificates {
        // Nobody checks whether the certificate of a session that is resumed has expired.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

/// What is in the files of a server.
struct Contents {
    identity: Arc<CertifiedKey>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Contents {
    fn read(files: &ServerTls) -> Result<Self, TlsFileError> {
        let identity = tls::identity([("--tls-cert", &files.cert), ("--tls-key", &files.key)])?;
        let clients = match &files.client_ca {
            None => Arc::new(NoClientAuth),
            Some(ca) => clients_of(ca)?,
        };
        Ok(Self { identity, clients })
    }
}

/// Accepts the clients whose certificate one of the authorities in this file has signed.
fn clients_of(ca: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsFileError> {
    let setting = "--tls-client-ca";
    let roots = Arc::new(tls::authorities(setting, ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, tls::provider());
    verifier.build().map_err(|error| TlsFileError {
        setting,
        path: ca.to_owned(),
        reason: error.to_string(),
    })
}

/// The certificate that a server shows and the clients that it accepts, by what is in its files at
/// the time.
#[derive(Debug)]
struct ServerCertificates(WatchedFiles<Contents>);

impl ServerCertificates {
    fn clients(&self) -> Arc<dyn ClientCertVerifier> {
        self.0.current().clients.clone()
    }
}

impl ResolvesServerCert for ServerCertificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().identity.clone())
    }
}

impl ClientCertVerifier for ServerCertificates {
    /// None: the names of authorities that change cannot be lent. Clients then show what they have.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.clients().verify_client_cert(certificate, others, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let clients = self.clients();
        clients.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let clients = self.clients();
        clients.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients().supported_verify_schemes()
    }
}

/// The socket below an encrypted connection.
pub(super) fn socket(connection: &dyn Any) -> Option<&TcpStream> {
    let stream = connection.downcast_ref::<TlsStream<TcpStream>>()?;
    Some(stream.get_ref().0)
}

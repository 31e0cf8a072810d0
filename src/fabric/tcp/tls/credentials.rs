//! The contents of a device's files, and what is made of them for each peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite};

use super::verifier::PeerVerifier;
use crate::fabric::tcp::address::TcpKey;
use crate::tls::{self, TlsFileError, TlsFiles};

/// Peers whose sessions are kept.
const PEERS: usize = 1024;
/// Sessions of a peer that are kept to be resumed: it has some connections, and each gives two.
const SESSIONS: usize = 16;

/// See the [module](self).
pub(super) struct Credentials {
    roots: Arc<RootCertStore>,
    identity: Arc<SingleCertAndKey>,
    peers: Mutex<HashMap<Option<String>, Configs>>,
}

/// How a peer is met. Sessions are kept with it, so that one of a peer is not another's.
#[derive(Clone)]
pub(super) struct Configs {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
    pub(super) verifier: Arc<PeerVerifier>,
}

impl Credentials {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsFileError> {
        let identity = tls::identity([
            (TlsFiles::SETTINGS[0], &files.cert),
            (TlsFiles::SETTINGS[1], &files.key),
        ])?;
        let roots = tls::authorities(TlsFiles::SETTINGS[2], &files.ca)?;
        let credentials = Self {
            roots: Arc::new(roots),
            identity: Arc::new(SingleCertAndKey::from(identity)),
            peers: Mutex::default(),
        };
        // The authorities are good for it.
        credentials.make(None).map_err(|error| TlsFileError {
            setting: TlsFiles::SETTINGS[2],
            path: files.ca.clone(),
            reason: error.to_string(),
        })?;
        Ok(credentials)
    }

    /// How to meet the peer of this alias, or any whose certificate the authority has signed.
    pub(super) fn configs(&self, peer: Option<&str>) -> Result<Configs, rustls::Error> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = peer.map(str::to_owned);
        if let Some(known) = peers.get(&peer) {
            return Ok(known.clone());
        }
        let made = self.make(peer.clone())?;
        if peers.len() >= PEERS {
            peers.clear();
        }
        peers.insert(peer, made.clone());
        Ok(made)
    }

    fn make(&self, peer: Option<String>) -> Result<Configs, rustls::Error> {
        let clients =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), tls::provider());
        let clients = clients
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verifier = Arc::new(PeerVerifier::new(self.roots.clone(), clients, peer));
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(self.identity.clone());
        client.resumption = Resumption::in_memory_sessions(SESSIONS);
        // The name is the same for all.
        client.enable_sni = false;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(self.identity.clone());
        server.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        Ok(Configs {
            client: Arc::new(client),
            server: Arc::new(server),
            verifier,
        })
    }
}

/// Who computes, and how the ends prefer it: this is a third faster than what others prefer.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(&tls::provider());
    let is_slower = |suite: &SupportedCipherSuite| *suite != TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(is_slower);
    Arc::new(provider)
}

/// What shows that somebody knows a key without telling it.
pub(in crate::fabric::tcp) fn proof(key: TcpKey) -> TcpKey {
    let mut said = b"slimerpc tls ".to_vec();
    said.extend(key.bytes());
    let digest = ring::digest::digest(&ring::digest::SHA256, &said);
    TcpKey::new(std::array::from_fn(|at| digest.as_ref()[at]))
}

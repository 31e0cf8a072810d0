//! Who makes HTTP connections to a server.

use std::error::Error;

use reqwest::{Client, Url, redirect::Policy};

#[cfg(feature = "tls")]
use std::sync::Arc;

use super::client_tls::ClientTls;
use crate::control::ControlError;
#[cfg(feature = "tls")]
use crate::tls::WatchedFiles;

/// A client for one server. Over TLS it makes connections by what is in its files at the time.
#[derive(Debug, Clone)]
pub(super) enum HttpClient {
    /// For `http://`.
    Plain(Client),
    /// For `https://`.
    #[cfg(feature = "tls")]
    Tls(Arc<WatchedFiles<Client>>),
}

impl HttpClient {
    /// A client for the server at `base`.
    #[cfg_attr(not(feature = "tls"), expect(unused_variables))]
    pub(super) fn new(base: &Url, tls: &ClientTls) -> Result<Self, ControlError> {
        let builder = || Client::builder().no_proxy().redirect(Policy::none());
        let refused = |error: reqwest::Error| ControlError::Malformed {
            what: "the settings of the client for NanoCtrl".to_owned(),
            reason: error.source().unwrap_or(&error).to_string(),
        };
        #[cfg(feature = "tls")]
        if base.scheme() == "https" {
            let (tls, files) = (tls.clone(), tls.files());
            let read = move || {
                let config = tls.config().map_err(ControlError::TlsFile)?;
                let built = builder().tls_backend_preconfigured(config).build();
                built.map_err(refused)
            };
            let watched = WatchedFiles::open("the certificates for NanoCtrl", files, read)?;
            return Ok(Self::Tls(Arc::new(watched)));
        }
        let builder = builder();
        // Without a configuration reqwest would look for one who computes, which this process may
        // not have chosen.
        #[cfg(feature = "tls")]
        let builder = builder.tls_backend_preconfigured(ClientTls::unused());
        Ok(Self::Plain(builder.build().map_err(refused)?))
    }

    /// The client for a request that is made now.
    pub(super) fn current(&self) -> Client {
        match self {
            Self::Plain(client) => client.clone(),
            #[cfg(feature = "tls")]
            Self::Tls(watched) => Client::clone(&watched.current()),
        }
    }
}

//! Where the processes find each other.

use slimerpc::nanoctrl::{Config, RedisSource, Server, StartError};

/// A control plane: somebody else's, or one that we run.
pub(crate) struct ControlPlane {
    pub(crate) url: String,
    own: Option<Server>,
}

/// There is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "no private NanoCtrl: {0}; install redis-server (Debian: apt-get install redis-server), or name a NanoCtrl server that \
     runs: --ctrl URL"
)]
pub(crate) struct NoControlPlane(StartError);

impl ControlPlane {
    /// That at `url`, or a private one on loopback, with a Redis of its own.
    pub(crate) async fn find(url: Option<&str>) -> Result<Self, NoControlPlane> {
        if let Some(url) = url {
            let url = url.to_owned();
            return Ok(Self { url, own: None });
        }
        let server = Server::start(Config::new(RedisSource::Private)).await;
        let server = server.map_err(NoControlPlane)?;
        Ok(Self {
            url: format!("http://{}", server.address()),
            own: Some(server),
        })
    }

    /// Ends it if it is ours.
    pub(crate) async fn stop(self) {
        if let Some(server) = self.own {
            server.stop().await;
        }
    }
}

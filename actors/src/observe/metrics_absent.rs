//! Metrics in a build without them.

use std::convert::Infallible;
use std::net::SocketAddr;

use tokio::sync::oneshot;

use crate::observe::Labels;
use crate::{AgentError, Figures};

/// Serves metrics over HTTP; there is none.
pub(crate) struct Exporter(Infallible);

impl Exporter {
    /// Refuses the address.
    pub(crate) fn bind(address: &str) -> Result<Self, AgentError> {
        Err(lacking("metrics_address", address))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self.0 {}
    }

    pub(crate) async fn serve(self, _: Labels, _: impl Fn() -> Option<Figures> + 'static) {
        match self.0 {}
    }
}

/// Metrics for the program's recorder; there are none.
pub(crate) struct Publisher(Infallible);

impl Publisher {
    /// Refuses to publish.
    pub(crate) fn new() -> Result<Self, AgentError> {
        Err(lacking("metrics", "1"))
    }

    pub(crate) async fn publish(
        self,
        _: Labels,
        _: impl Fn() -> Option<Figures> + 'static,
        _: oneshot::Receiver<oneshot::Sender<()>>,
        _: oneshot::Receiver<()>,
    ) {
        match self.0 {}
    }
}

fn lacking(name: &'static str, value: &str) -> AgentError {
    AgentError::Setting {
        name: name.into(),
        value: value.to_owned(),
        allowed: "metrics need the cargo feature `metrics` of slimerpc-actors".to_owned(),
    }
}

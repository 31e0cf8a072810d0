//! What an agent counts for those who look at it from outside.

pub(crate) mod counted_calls;
pub(crate) mod figures;
pub(crate) mod incidents;
#[cfg_attr(not(feature = "metrics"), path = "metrics_absent.rs")]
pub(crate) mod metrics;
pub(crate) mod trace;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use counted_calls::CountedCalls;
use incidents::Incidents;
use metrics::{Exporter, Publisher};
use slimerpc::channel::{CallFigures, LossCause};
use tokio::task::JoinHandle;

use crate::{AgentError, Figures, MemoryAccount};

/// What an agent counts, shared by its threads.
#[derive(Debug)]
pub(crate) struct Observed {
    /// Calls through its proxies.
    pub(crate) calls: CountedCalls,
    /// Calls of its services.
    pub(crate) served: CountedCalls,
    pub(crate) incidents: Incidents,
}

impl Default for Observed {
    fn default() -> Self {
        let incidents = Incidents::default();
        for kind in ["joined", "stalled", "recovered"] {
            incidents.expect(kind, "");
        }
        for cause in LossCause::NAMES {
            incidents.expect("lost", cause);
        }
        Self {
            calls: CountedCalls::default(),
            served: CountedCalls::default(),
            incidents,
        }
    }
}

impl Observed {
    /// Figures for the calls of a service of this agent.
    pub(crate) fn serve(&self, service: &str, methods: &[&str]) -> Arc<CallFigures> {
        for kind in ["restarted", "given_up"] {
            self.incidents.expect(kind, service);
        }
        self.served.count(service, methods)
    }

    /// Everything that was counted, of an agent that has registered this memory.
    pub(crate) fn figures(&self, memory: MemoryAccount) -> Figures {
        Figures {
            calls: self.calls.read(),
            served: self.served.read(),
            memory,
            incidents: self.incidents.counts(),
        }
    }
}

/// Whom an agent tells of its figures.
#[derive(Default)]
pub(crate) struct Metrics {
    publisher: Option<Publisher>,
    exporter: Option<Exporter>,
}

impl Metrics {
    /// Tells the program's recorder if that is wanted, and serves at `address` if there is one.
    pub(crate) fn new(tell: bool, address: Option<String>) -> Result<Self, AgentError> {
        Ok(Self {
            publisher: tell.then(Publisher::new).transpose()?,
            exporter: address.map(|it| Exporter::bind(&it)).transpose()?,
        })
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.publisher.is_some() || self.exporter.is_some()
    }

    /// Where metrics are served over HTTP.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.exporter.as_ref().map(Exporter::address)
    }

    /// Tells the figures of `agent`, on the current arbiter, until there are no more.
    ///
    /// Returns what serves them over HTTP, to be ended.
    pub(crate) fn tell(
        self,
        agent: &str,
        read: impl Fn() -> Option<Figures> + 'static,
    ) -> Option<JoinHandle<()>> {
        let read = Rc::new(read);
        if let Some(publisher) = self.publisher {
            let read = read.clone();
            actix::spawn(publisher.publish(agent.to_owned(), move || read()));
        }
        let exporter = self.exporter?;
        tracing::info!(agent, "metrics at http://{}/metrics", exporter.address());
        Some(actix::spawn(
            exporter.serve(agent.to_owned(), move || read()),
        ))
    }
}

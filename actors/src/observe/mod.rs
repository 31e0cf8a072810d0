//! What an agent counts for those who look at it from outside.

pub(crate) mod counted_calls;
pub(crate) mod figures;
pub(crate) mod incidents;
#[cfg_attr(not(feature = "metrics"), path = "metrics_absent.rs")]
pub(crate) mod metrics;
pub(crate) mod one_sided;
pub(crate) mod trace;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use counted_calls::CountedCalls;
use incidents::Incidents;
use metrics::{Exporter, Publisher};
use one_sided::OneSidedCounters;
use slimerpc::channel::{CallFigures, LossCause};
use slimerpc::fabric::SoftRnrMonitor;
use tokio::sync::oneshot;
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
    pub(crate) one_sided: OneSidedCounters,
    /// The counters of its RDMA devices.
    rnr: OnceLock<Vec<SoftRnrMonitor>>,
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
            one_sided: OneSidedCounters::default(),
            rnr: OnceLock::new(),
        }
    }
}

impl Observed {
    /// Figures for the calls of a service of this agent.
    pub(crate) fn serve(&self, service: &str, methods: &[&str]) -> Arc<CallFigures> {
        for kind in ["restarted", "given_up"] {
            self.incidents.expect(kind, service);
        }
        self.served.count(service, methods, &[])
    }

    /// Has messages counted that these devices turn away, from now on. Only RDMA devices do, and
    /// not all of them count.
    pub(crate) fn watch_devices<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let monitors = names.filter_map(|name| SoftRnrMonitor::of(&[name], None).ok());
        let _ = self.rnr.set(monitors.collect());
    }

    fn rnr(&self) -> BTreeMap<String, u64> {
        let monitors = self.rnr.get().into_iter().flatten();
        // A device may have gone.
        monitors
            .filter_map(|it| it.delta().ok())
            .flatten()
            .collect()
    }

    /// Everything that was counted, of an agent that has registered this memory.
    pub(crate) fn figures(&self, memory: MemoryAccount) -> Figures {
        Figures {
            calls: self.calls.read(),
            served: self.served.read(),
            memory,
            one_sided: self.one_sided.read(),
            rnr: self.rnr(),
            incidents: self.incidents.counts(),
        }
    }
}

/// Labels of metrics, by name.
pub(crate) type Labels = Vec<(&'static str, String)>;

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

    /// Tells the figures of `agent` in `scope`, on the current arbiter. Over HTTP that ends when
    /// `current` has none any more; the recorder is also told what `last` gives after the agent has
    /// left.
    pub(crate) fn tell(
        self,
        agent: &str,
        scope: &str,
        current: impl Fn() -> Option<Figures> + 'static,
        last: impl Fn() -> Option<Figures> + 'static,
    ) -> Telling {
        // Agents of one process may have one alias in different scopes.
        let scope = (!scope.is_empty()).then(|| ("scope", scope.to_owned()));
        let labels: Labels = [("agent", agent.to_owned())]
            .into_iter()
            .chain(scope)
            .collect();
        let publisher = self.publisher.map(|publisher| {
            let ((leave, leaving), (end, left)) = (oneshot::channel(), oneshot::channel());
            RecorderTelling {
                leave: Some(leave),
                end,
                publisher: actix::spawn(publisher.publish(labels.clone(), last, leaving, left)),
            }
        });
        let exporter = self.exporter.map(|exporter| {
            tracing::info!(agent, "metrics at http://{}/metrics", exporter.address());
            actix::spawn(exporter.serve(labels, current))
        });
        Telling {
            publisher,
            exporter,
        }
    }
}

/// Tells an agent's figures until it is ended.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    publisher: Option<RecorderTelling>,
    exporter: Option<JoinHandle<()>>,
}

/// Tells the program's recorder.
#[derive(Debug)]
struct RecorderTelling {
    /// Has the gauges of the agent ended. The other end of what is sent is dropped when they are.
    leave: Option<oneshot::Sender<oneshot::Sender<()>>>,
    end: oneshot::Sender<()>,
    publisher: JoinHandle<()>,
}

impl Telling {
    /// Tells the recorder how things are, and that nothing is under way any more: once the agent's
    /// name is free, another one's gauges have it.
    pub(crate) async fn leave(&mut self) {
        let leave = self.publisher.as_mut().and_then(|it| it.leave.take());
        let (tell, told) = oneshot::channel();
        if leave.is_some_and(|leave| leave.send(tell).is_ok()) {
            let _ = told.await;
        }
    }

    /// Tells the recorder what the agent's end has brought about, and frees the port.
    pub(crate) async fn end(self) {
        if let Some(RecorderTelling { end, publisher, .. }) = self.publisher {
            let _ = end.send(());
            let _ = publisher.await;
        }
        if let Some(exporter) = self.exporter {
            exporter.abort();
            let _ = exporter.await;
        }
    }
}

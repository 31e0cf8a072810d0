//! Probes DLSlime peers, which send no heartbeats: an empty write to a peer that is gone fails.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use slimerpc::channel::Mailbox;
use tokio::time::{sleep, timeout};

use super::DlslimePeers;
use super::pair::Pair;

/// How long to wait for an instance whose handler keeps its thread busy.
const PROBE_TIMEOUT: Duration = Duration::from_millis(100);

impl DlslimePeers {
    /// Writes to every DLSlime peer at intervals, until the agent leaves.
    pub(crate) async fn probe(self: Rc<Self>) {
        while !self.has_left.get() {
            sleep(self.probe_interval).await;
            self.probe_callers().await;
        }
    }

    /// Probes the peers that this agent calls directly, and those that call it through the services
    /// that they call.
    async fn probe_callers(&self) {
        let mut called = BTreeSet::new();
        self.pairs.borrow().each(|pair| match pair {
            Pair::Calling { channel, .. } => channel.probe(),
            Pair::Serving(serving) => {
                called.insert(serving.service.clone());
            }
            Pair::Connecting(_) => {}
        });
        for service in called {
            let running = self.services.borrow().get(&service).cloned();
            let Some(running) = running else { continue };
            let memory = self.devices.for_dlslime();
            let probe = |mailbox: &mut Mailbox| {
                mailbox.probe();
                Ok(())
            };
            // An instance that has ended has no callers; a busy one is asked again later.
            let _ = timeout(PROBE_TIMEOUT, running.front().mailbox(memory, probe)).await;
        }
    }
}

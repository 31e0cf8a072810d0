//! Ends a wait for a peer: on news from the control plane, or after a pause.
//!
//! The control plane reports services that come and go, so a wait for a restarted peer ends
//! milliseconds after it serves. A service for one peer only is not reported, nor are services of
//! other control planes; a poll with growing pauses finds them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slimerpc::backoff::Pauses;
use slimerpc::control::ServiceRecord;
use tokio::time::{sleep, timeout};

use super::discovery::{Following, Registered};
use super::{AgentState, LOOKS, PeerLookup};

/// News of one peer, for one wait. It costs nothing before the first pause is over.
pub(super) struct News {
    state: Rc<AgentState>,
    peer: String,
    pauses: Pauses,
    following: Option<Following>,
    /// The peer's services, as of the last report.
    told: Option<Vec<Arc<ServiceRecord>>>,
}

impl News {
    pub(super) fn new(state: &Rc<AgentState>, peer: &str) -> Self {
        Self {
            state: state.clone(),
            peer: peer.to_owned(),
            pauses: LOOKS.pauses(),
            following: None,
            told: None,
        }
    }

    /// Waits for news, for a pause that grows each time and is at most `limit`.
    pub(super) async fn wait(&mut self, limit: Duration) {
        let pause = self.pauses.take().min(limit);
        if self.following.is_none() {
            sleep(pause).await;
            self.following = Some(self.state.follow());
        } else {
            let _ = timeout(pause, self.told()).await;
        }
    }

    /// Waits until the control plane reports something new about the peer.
    pub(super) async fn told(&mut self) {
        loop {
            let following = self.following.get_or_insert_with(|| self.state.follow());
            if following.changed().await.is_err() {
                // The agent leaves.
                return std::future::pending().await;
            }
            let registered = following.borrow_and_update().clone();
            let Some(registered) = registered else {
                continue;
            };
            let services = services_of(&registered, &self.peer);
            if self.told.as_ref() != Some(&services) {
                self.told = Some(services);
                return;
            }
        }
    }
}

fn services_of(registered: &Registered, peer: &str) -> Vec<Arc<ServiceRecord>> {
    let services = registered.values();
    services
        .filter(|service| service.alias == peer)
        .cloned()
        .collect()
}

impl AgentState {
    /// Waits until an incarnation of `peer` other than this one has published its descriptor.
    pub(super) async fn superseded(self: &Rc<Self>, peer: &str, life: u64) {
        let mut news = News::new(self, peer);
        loop {
            news.wait(Duration::MAX).await;
            // Wait through an outage of the control plane.
            if let Ok(PeerLookup::Found(theirs)) = self.look(peer).await
                && theirs.incarnation != life
            {
                return;
            }
        }
    }
}

//! What ends the pauses of who waits for a peer: news of it from the control plane, or time.
//!
//! The control plane tells of services that come and go, so a wait for a peer that is restarted ends milliseconds after that
//! serves. What it does not tell of (services for one peer only, other control planes) is looked for now and then.

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
    /// The peer's services, as they were told of last.
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

    /// Until there are some, for a while that gets longer each time, and no longer than `limit`.
    pub(super) async fn wait(&mut self, limit: Duration) {
        let pause = self.pauses.take().min(limit);
        if self.following.is_none() {
            sleep(pause).await;
            self.following = Some(self.state.follow());
        } else {
            let _ = timeout(pause, self.told()).await;
        }
    }

    /// Until the control plane tells something new of the peer.
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
    /// Waits until another life of `peer` than this one has described itself.
    pub(super) async fn superseded(self: &Rc<Self>, peer: &str, life: u64) {
        let mut news = News::new(self, peer);
        loop {
            news.wait(Duration::MAX).await;
            // An outage of the control plane is sat out.
            if let Ok(PeerLookup::Found(theirs)) = self.look(peer).await
                && theirs.incarnation != life
            {
                return;
            }
        }
    }
}

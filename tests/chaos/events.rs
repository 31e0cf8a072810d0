//! What an agent is told of a peer, and when.

use std::time::Duration;

use futures_util::StreamExt;
use slimerpc_actors::{PeerAgent, PeerEvent, Watch};
use tokio::time::timeout;

use crate::clock::Timestamp;

/// See the [module](self).
pub(crate) struct Events(Watch);

impl Events {
    /// Of a peer that is there.
    pub(crate) async fn of(agent: &PeerAgent, peer: &str, limit: Duration) -> Self {
        let watch = agent.watch(peer).await.expect("it is registered");
        let mut events = Self(watch);
        let (first, _) = events.next(limit).await;
        assert!(matches!(first, PeerEvent::Connected { .. }), "{first:?}");
        events
    }

    /// The next one.
    #[track_caller]
    pub(crate) fn next(&mut self, limit: Duration) -> impl Future<Output = (PeerEvent, Timestamp)> {
        let caller = std::panic::Location::caller();
        async move {
            match timeout(limit, self.0.next()).await {
                Ok(Some(event)) => (event, Timestamp::now()),
                Ok(None) => panic!("{caller}: the agent is gone"),
                Err(_) => panic!("{caller}: no event within {limit:?}"),
            }
        }
    }

    /// The next one, which is to be such a one.
    #[track_caller]
    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        is_it: impl Fn(&PeerEvent) -> bool,
    ) -> impl Future<Output = Timestamp> {
        let caller = std::panic::Location::caller();
        let next = self.next(limit);
        async move {
            let (event, at) = next.await;
            assert!(is_it(&event), "{caller}: not {what} but {event:?}");
            at
        }
    }

    /// Loss, and nothing else.
    pub(crate) async fn lost(&mut self, limit: Duration) -> Timestamp {
        let is_it = |event: &PeerEvent| matches!(event, PeerEvent::Lost { .. });
        self.wait_for("Lost", limit, is_it).await
    }

    /// That it is back, and nothing else.
    pub(crate) async fn reconnected(&mut self, limit: Duration) -> Timestamp {
        let is_it = |event: &PeerEvent| matches!(event, PeerEvent::Reconnected { .. });
        self.wait_for("Reconnected", limit, is_it).await
    }
}

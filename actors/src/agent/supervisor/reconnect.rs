//! Proxies whose connection is lost get another as soon as their peer can be reached.

use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::{Context, Handler, Message};
use slimerpc::channel::{LossCause, ServiceTable, WaitPolicy};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::{AgentState, ConnectService, ConnectedService, LOOKS, Supervisor};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Between two looks whether the proxy is still there while its peer is not.
const AWAY: Duration = Duration::from_secs(1);

/// A proxy, as who keeps it connected sees it.
pub(crate) trait Heal: Send + Sync {
    /// Alias of its peer.
    fn peer(&self) -> &str;
    /// The life of its peer that it is connected with.
    fn life(&self) -> Option<u64>;
    /// The service that it is for.
    fn wanted(&self) -> &ServiceTable;
    /// How its callers wait.
    fn wait_policy(&self) -> &WaitPolicy;
    /// Notified when its connection is closed, or when it has gone.
    fn closing(&self) -> Vec<Arc<Notify>>;
    /// What ended its connection.
    fn lost(&self) -> Option<LossCause>;
    /// Another connection.
    fn adopt(&self, dialled: ConnectedService);
}

/// Keeps a proxy connected for as long as it is there.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct KeepUp(pub(crate) Weak<dyn Heal>);

impl Handler<KeepUp> for Supervisor {
    type Result = ();

    fn handle(&mut self, keep: KeepUp, _: &mut Context<Self>) {
        actix::spawn(self.state.clone().keep_up(keep.0));
    }
}

impl AgentState {
    async fn keep_up(self: Rc<Self>, proxy: Weak<dyn Heal>) {
        while let Some((peer, life, closing)) = proxy
            .upgrade()
            .map(|proxy| (proxy.peer().to_owned(), proxy.life(), proxy.closing()))
        {
            let closed = closing.iter().map(|closing| Box::pin(closing.notified()));
            futures_util::future::select_all(closed).await;
            // A proxy that was dropped says nothing about its peer.
            let cause = proxy.upgrade().and_then(|proxy| proxy.lost());
            if cause.is_some_and(|cause| cause.is_of_peer()) {
                self.doubt(&peer, life);
            }
            // Rarely needed, and large.
            if !Box::pin(self.heal(&proxy)).await {
                return;
            }
        }
    }

    /// False if the proxy or the agent has gone.
    async fn heal(self: &Rc<Self>, proxy: &Weak<dyn Heal>) -> bool {
        let mut pauses = LOOKS.with_jitter(0.5).pauses();
        loop {
            let Some(peer) = proxy.upgrade().map(|proxy| proxy.peer().to_owned()) else {
                return false;
            };
            if self.left.get() {
                return false;
            }
            if !self.await_line(&peer, AWAY).await {
                continue;
            }
            let Some(dial) = proxy.upgrade().map(|proxy| ConnectService {
                peer,
                wanted: proxy.wanted().clone(),
                wait_policy: proxy.wait_policy().clone(),
                timeout: ATTEMPT,
                again: true,
            }) else {
                return false;
            };
            let life = self.reachable(&dial.peer);
            let peer = dial.peer.clone();
            let dialled = tokio::select! {
                dialled = self.dial(dial) => dialled,
                // It will not answer, and the next life is not to wait until that is certain.
                () = self.life_over(&peer, life) => continue,
            };
            match (dialled, proxy.upgrade()) {
                (Ok(dialled), Some(proxy)) => {
                    tracing::info!(peer = proxy.peer(), "a proxy is connected again");
                    proxy.adopt(dialled);
                    return true;
                }
                (Err(error), Some(proxy)) => {
                    tracing::debug!(peer = proxy.peer(), %error, "a proxy is not connected again yet");
                }
                (_, None) => return false,
            }
            // Not as long as others do.
            sleep(pauses.take()).await;
        }
    }
}

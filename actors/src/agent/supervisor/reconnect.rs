//! Reconnects proxies as soon as their peer can be reached again.

use std::rc::Rc;
use std::sync::Weak;
use std::time::{Duration, Instant};

use actix::{Context, Handler, Message};
use slimerpc::channel::LossCause;
use tokio::time::sleep;

use super::link_choice::EndedConnection;
use super::{AgentState, ConnectService, LOOKS, Supervisor};
use crate::client::reconnect::Heal;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Time between two checks that the proxy still exists while its peer is away.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps a proxy connected for as long as it exists.
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
        while let Some((peer, life, link, closing)) = proxy.upgrade().map(|proxy| {
            let (life, link) = (proxy.life(), proxy.link());
            (proxy.peer().to_owned(), life, link, proxy.closing())
        }) {
            let since = Instant::now();
            let closed = closing.iter().map(|closing| Box::pin(closing.notified()));
            futures_util::future::select_all(closed).await;
            // The end of a proxy that was dropped says nothing about its peer.
            let cause = proxy.upgrade().and_then(|proxy| proxy.lost());
            if cause.as_ref().is_some_and(LossCause::is_of_peer) {
                self.doubt(&peer, life);
            }
            // A channel that ended with its peer's incarnation says nothing: the watch tells.
            if let (Some(life), Some(link), Some(cause)) = (life, link, cause)
                && self.reachable(&peer) == Some(life)
            {
                let ended = EndedConnection {
                    life,
                    link,
                    since,
                    cause,
                };
                self.connection_ended(&peer, ended);
            }
            // Boxed, because it is rarely needed and large.
            if !Box::pin(self.heal(&proxy)).await {
                return;
            }
        }
    }

    /// Reconnects a proxy. Returns false if the proxy or the agent has gone.
    async fn heal(self: &Rc<Self>, proxy: &Weak<dyn Heal>) -> bool {
        let mut pauses = LOOKS.with_jitter(0.5).pauses();
        loop {
            let Some(peer) = proxy.upgrade().map(|proxy| proxy.peer().to_owned()) else {
                return false;
            };
            if self.left.get() {
                return false;
            }
            if !self.await_peer(&peer, LOOK_INTERVAL).await {
                continue;
            }
            let Some(request) = proxy.upgrade().map(|proxy| ConnectService {
                peer,
                wanted: proxy.wanted().clone(),
                wait_policy: proxy.wait_policy().clone(),
                timeout: ATTEMPT,
                again: true,
            }) else {
                return false;
            };
            let life = self.reachable(&request.peer);
            let peer = request.peer.clone();
            let connected = tokio::select! {
                connected = self.connect_service(request) => connected,
                // The old incarnation will not answer; the next one must not wait until that is
                // certain.
                () = self.life_over(&peer, life) => continue,
            };
            match (connected, proxy.upgrade()) {
                (Ok(connected), Some(proxy)) => {
                    tracing::info!(peer = proxy.peer(), "a proxy is connected again");
                    self.note("healed", &proxy.wanted().name);
                    proxy.adopt(connected);
                    return true;
                }
                (Err(error), Some(proxy)) => {
                    tracing::debug!(peer = proxy.peer(), %error, "a proxy is not connected again yet");
                }
                (_, None) => return false,
            }
            // Jitter: other proxies wait, too.
            sleep(pauses.take()).await;
        }
    }
}

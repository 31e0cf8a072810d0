//! Reconnects proxies: lost ones as soon as their peer can be reached again, resting ones at their
//! next call.

use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actix::{Context, Handler, Message};
use slimerpc::channel::{ConnectError, LossCause, NotReopened};
use slimerpc::fabric::FabricError;
use tokio::time::sleep;

use super::link_choice::EndedConnection;
use super::rest::KnownProxy;
use super::{AgentState, ConnectService, LOOKS, Supervisor};
use crate::AgentError;
use crate::client::connection::ProxySetup;
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
        let state = self.state.clone();
        state.know_proxy(&keep.0);
        actix::spawn(state.keep_up(keep.0));
    }
}

impl AgentState {
    async fn keep_up(self: Rc<Self>, proxy: Weak<dyn Heal>) {
        while let Some((peer, life, link, closing)) = proxy.upgrade().map(|proxy| {
            let (life, link) = (proxy.life(), proxy.link());
            (proxy.setup().peer.to_string(), life, link, proxy.closing())
        }) {
            let since = Instant::now();
            let closed = closing.iter().map(|closing| Box::pin(closing.notified()));
            futures_util::future::select_all(closed).await;
            if self.reopen_when_asked(&proxy).await {
                continue;
            }
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

    /// Notes a proxy, so that it may rest. One for a service of this agent never does.
    fn know_proxy(&self, proxy: &Weak<dyn Heal>) {
        if let Some(known) = proxy.upgrade()
            && *known.setup().peer != *self.alias
        {
            let mut proxies = self.proxies.borrow_mut();
            proxies.retain(KnownProxy::exists);
            proxies.push(KnownProxy::new(proxy.clone()));
        }
    }

    /// Opens the connection of a proxy again when it is called, if it rests. Returns false if it
    /// does not rest, or is lost.
    async fn reopen_when_asked(self: &Rc<Self>, proxy: &Weak<dyn Heal>) -> bool {
        let Some(asked) = proxy.upgrade().and_then(|proxy| proxy.resting()) else {
            return false;
        };
        let request = loop {
            asked.notified().await;
            // One that is lost by now is healed instead.
            let is_resting = |proxy: &Arc<dyn Heal>| proxy.lost().is_none();
            let Some(proxy) = proxy.upgrade().filter(is_resting) else {
                return false;
            };
            // Calls of an earlier rest may have asked, too.
            if proxy.is_called() {
                break ConnectService {
                    timeout: proxy.setup().connect_timeout,
                    ..again(proxy.setup())
                };
            }
        };
        let lost = async {
            while proxy.upgrade().is_some_and(|proxy| proxy.lost().is_none()) {
                asked.notified().await;
            }
        };
        let connected = tokio::select! {
            biased;
            // Or nobody is left who calls.
            () = lost => return false,
            connected = Box::pin(self.connect_service(request)) => connected,
        };
        let Some(proxy) = proxy.upgrade() else {
            return false;
        };
        match connected {
            Ok(connected) => {
                tracing::debug!(peer = %proxy.setup().peer, "a connection is open again");
                proxy.adopt(connected);
                true
            }
            Err(AgentError::ShutDown) => {
                proxy.lose(LossCause::ShutDown);
                false
            }
            Err(error) => {
                tracing::debug!(peer = %proxy.setup().peer, %error, "a connection cannot be opened again");
                proxy.lose(LossCause::NotReopened(Box::new(reason(error))));
                false
            }
        }
    }

    /// Reconnects a proxy. Returns false if the proxy or the agent has gone.
    async fn heal(self: &Rc<Self>, proxy: &Weak<dyn Heal>) -> bool {
        let mut pauses = LOOKS.with_jitter(0.5).pauses();
        loop {
            let Some(peer) = proxy.upgrade().map(|proxy| proxy.setup().peer.to_string()) else {
                return false;
            };
            if self.left.get() {
                return false;
            }
            if !self.await_peer(&peer, LOOK_INTERVAL).await {
                continue;
            }
            let Some(request) = proxy.upgrade().map(|proxy| again(proxy.setup())) else {
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
                    tracing::info!(peer = %proxy.setup().peer, "a proxy is connected again");
                    self.note("healed", &proxy.setup().wanted.name);
                    proxy.adopt(connected);
                    return true;
                }
                (Err(error), Some(proxy)) => {
                    tracing::debug!(peer = %proxy.setup().peer, %error, "a proxy is not connected again yet");
                }
                (_, None) => return false,
            }
            // Jitter: other proxies wait, too.
            sleep(pauses.take()).await;
        }
    }
}

/// What is told to calls of a connection that rested.
fn reason(error: AgentError) -> NotReopened {
    match error {
        AgentError::Refused { mismatch, .. } => NotReopened::Refused(mismatch),
        AgentError::Connect(ConnectError::Fabric(FabricError::Tls { error, .. })) => {
            NotReopened::Tls(error)
        }
        error => NotReopened::Other(error.to_string()),
    }
}

/// An attempt to connect a proxy again.
fn again(setup: &ProxySetup) -> ConnectService {
    ConnectService {
        peer: setup.peer.to_string(),
        wanted: setup.wanted.clone(),
        wait_policy: setup.wait_policy.clone(),
        timeout: ATTEMPT,
        again: true,
    }
}

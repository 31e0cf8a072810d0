//! Lets what is not used rest: the connections of proxies that have made no call for a while, and
//! then the monitors of peers that nobody here needs any more.
//!
//! A call costs nothing for this: one task looks at intervals whether each proxy has made another.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Weak;
use std::time::{Duration, Instant};

use slimerpc::channel::LossCause;
use tokio::time::sleep;

use super::AgentState;
use crate::client::reconnect::Heal;

/// Looks within the time after which a connection rests.
const LOOKS: u32 = 4;

/// A proxy of this agent.
pub(super) struct KnownProxy {
    proxy: Weak<dyn Heal>,
    /// The calls that it had made as of the last look, if none was under way, and since when there
    /// was no other.
    calls: Option<[u64; 2]>,
    since: Instant,
}

impl KnownProxy {
    pub(super) fn new(proxy: Weak<dyn Heal>) -> Self {
        Self {
            proxy,
            calls: None,
            since: Instant::now(),
        }
    }

    pub(super) fn exists(&self) -> bool {
        self.proxy.strong_count() > 0
    }

    /// Lets the proxy rest if it has had nothing to do for so long.
    fn look(&mut self, idle_after: Duration, now: Instant) {
        let Some(proxy) = self.proxy.upgrade() else {
            return;
        };
        let calls = proxy.calls_if_idle();
        if calls.is_none() || calls != self.calls {
            (self.calls, self.since) = (calls, now);
            return;
        }
        if let Some(calls) = calls
            && now.saturating_duration_since(self.since) >= idle_after
            && proxy.rest(calls)
        {
            let (peer, service) = (&proxy.setup().peer, &proxy.setup().wanted.name);
            tracing::debug!(%peer, service, "a connection rests");
            self.calls = None;
        }
    }
}

impl AgentState {
    /// Looks for what may rest, until the agent leaves.
    pub(super) async fn let_rest(self: Rc<Self>) {
        let Some(idle_after) = self.settings.idle_after else {
            return;
        };
        while !self.left.get() {
            sleep(idle_after / LOOKS).await;
            let now = Instant::now();
            let mut proxies = self.proxies.borrow_mut();
            proxies.retain(KnownProxy::exists);
            proxies
                .iter_mut()
                .for_each(|known| known.look(idle_after, now));
            drop(proxies);
            self.look_at_monitors();
        }
    }

    /// Lets the monitors rest that nobody here needs, and sees to it that there are all others.
    fn look_at_monitors(self: &Rc<Self>) {
        let called = self.called_peers();
        let mut needed = called.clone();
        needed.extend(self.one_sided.borrow_mut().peers());
        self.monitors.rest_but_for(&needed);
        for peer in called.iter().filter(|peer| **peer != self.alias) {
            if !self.monitors.is_needed(peer) {
                self.want_monitor(peer);
            }
        }
    }

    /// The peers that are called from here: those with an open channel, and those that a lost proxy
    /// waits for.
    fn called_peers(&self) -> HashSet<String> {
        let channels = self.channels.borrow();
        let native = channels.iter().filter(|(life, _)| life.is_some());
        let open = native.filter_map(|(_, channel)| {
            let channel = channel.upgrade()?;
            channel
                .closed()
                .is_none()
                .then(|| channel.peer().to_owned())
        });
        let proxies = self.proxies.borrow();
        let lost = proxies.iter().filter_map(|known| {
            let proxy = known.proxy.upgrade()?;
            proxy.lost().map(|_| proxy.setup().peer.to_string())
        });
        open.chain(lost).collect()
    }

    /// Returns whether a proxy waits for `peer` to be back, whose connection was lost as it rested.
    pub(super) fn waits_for(&self, peer: &str) -> bool {
        let proxies = self.proxies.borrow();
        let mut proxies = proxies.iter().filter_map(|known| known.proxy.upgrade());
        proxies.any(|proxy| *proxy.setup().peer == *peer && proxy.lost().is_some())
    }

    /// Gives up the connections that rest, of this incarnation of `peer` or of all: the next calls
    /// would not reach it.
    pub(super) fn lose_resting(&self, peer: &str, life: Option<u64>, cause: &LossCause) {
        for known in &*self.proxies.borrow() {
            if let Some(proxy) = known.proxy.upgrade()
                && *proxy.setup().peer == *peer
                && (life.is_none() || proxy.life() == life)
            {
                proxy.lose(cause.clone());
            }
        }
    }

    /// Gives up all connections that rest, because the agent leaves.
    pub(super) fn end_resting(&self) {
        for proxy in self
            .proxies
            .take()
            .iter()
            .filter_map(|it| it.proxy.upgrade())
        {
            proxy.lose(LossCause::ShutDown);
        }
    }
}

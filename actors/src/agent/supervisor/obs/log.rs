//! What happened to an agent's peers, and since when: for its records.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use slimerpc::control::obs::{ObsRecord, SlimerpcEvent, SlimerpcObs, SlimerpcPeerState};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::{AgentEvent, PeerEvent};

/// Most peers that are remembered: who they are is up to others. A further one displaces that
/// which has been gone for longest.
const MOST_PEERS: usize = ObsRecord::MOST_PEERS;
/// How long a peer that is gone is remembered, in milliseconds.
const GONE_KEPT_MS: u64 = 10 * 60 * 1000;

/// The log of an agent that publishes records; otherwise empty.
#[derive(Debug)]
pub(in crate::agent::supervisor) struct ObsLog(Option<RefCell<Log>>);

#[derive(Debug, Default)]
struct Log {
    events: VecDeque<SlimerpcEvent>,
    peers: BTreeMap<String, NotedPeer>,
    /// Ends the reports. The other end tells when that is done.
    stop: Option<oneshot::Sender<oneshot::Sender<()>>>,
}

/// The state of a peer that was heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotedPeer {
    pub(super) state: SlimerpcPeerState,
    /// Why it is not there.
    pub(super) why: String,
    pub(super) since_ms: u64,
}

impl ObsLog {
    pub(in crate::agent::supervisor) fn new(is_on: bool) -> Self {
        Self(is_on.then(RefCell::default))
    }

    /// Begins the reports. The receiver tells when to end them, and whom to tell of the end.
    pub(super) fn begin(&self) -> oneshot::Receiver<oneshot::Sender<()>> {
        let (stop, stopped) = oneshot::channel();
        if let Some(log) = &self.0 {
            log.borrow_mut().stop = Some(stop);
        }
        stopped
    }

    /// Ends the reports, and waits for the last one, at most for `limit`.
    pub(in crate::agent::supervisor) async fn stop(&self, limit: Duration) {
        let stop = self.0.as_ref().and_then(|log| log.borrow_mut().stop.take());
        let (tell, told) = oneshot::channel();
        if stop.is_some_and(|stop| stop.send(tell).is_ok()) {
            // Redis may be away.
            let _ = timeout(limit, told).await;
        }
    }

    /// Notes what happened to a peer.
    pub(in crate::agent::supervisor) fn note_peer(&self, peer: &str, event: &PeerEvent) {
        let Some(log) = &self.0 else { return };
        let alive = SlimerpcPeerState::Alive;
        let (kind, state, why) = match event {
            PeerEvent::Connected { .. } => ("joined", alive, String::new()),
            PeerEvent::Reconnected { .. } => ("healed", alive, String::new()),
            PeerEvent::Recovered => ("recovered", alive, String::new()),
            PeerEvent::Stalled => {
                let why = "it sends no heartbeats".to_owned();
                ("stalled", SlimerpcPeerState::Stalled, why)
            }
            PeerEvent::Lost { cause } => ("lost", SlimerpcPeerState::Gone, cause.to_string()),
            PeerEvent::Left => ("left", SlimerpcPeerState::Gone, "it has left".to_owned()),
        };
        let log = &mut *log.borrow_mut();
        let why = cut(why);
        let since_ms = log.note(kind, peer, why.clone());
        let noted = NotedPeer {
            state,
            why,
            since_ms,
        };
        log.note_state(peer, noted);
    }

    /// Notes an event of the agent.
    pub(super) fn note(&self, event: AgentEvent) {
        let Some(log) = &self.0 else { return };
        let (kind, subject, text) = match event {
            AgentEvent::Restarted { service, cause, .. } => {
                ("restarted", service, cause.to_string())
            }
            AgentEvent::GivenUp { service, cause } => ("given_up", service, cause.to_string()),
            AgentEvent::FabricChanged {
                peer,
                from,
                to,
                cause,
            } => ("fabric", peer, format!("{to} instead of {from}: {cause}")),
            AgentEvent::TellFailed {
                peer,
                service,
                method,
                error,
            } => ("tell_failed", peer, format!("{service}.{method}: {error}")),
        };
        log.borrow_mut().note(kind, &subject, text);
    }

    /// The last events, oldest first.
    pub(super) fn events(&self) -> Vec<SlimerpcEvent> {
        let log = self.0.as_ref().map(RefCell::borrow);
        log.map_or_else(Vec::new, |log| log.events.iter().cloned().collect())
    }

    /// The peers that were heard of. Those that have been gone for ten minutes are forgotten, and
    /// those that `is_known` does not know and that are not gone: nobody here is interested in
    /// them any more.
    pub(super) fn peers(&self, is_known: impl Fn(&str) -> bool) -> Vec<(String, NotedPeer)> {
        let Some(log) = &self.0 else {
            return Vec::new();
        };
        let mut log = log.borrow_mut();
        let now_ms = unix_millis();
        log.peers.retain(|peer, noted| match noted.is_gone() {
            true => now_ms.saturating_sub(noted.since_ms) < GONE_KEPT_MS,
            false => is_known(peer),
        });
        let peers = log.peers.iter();
        peers
            .map(|(peer, noted)| (peer.clone(), noted.clone()))
            .collect()
    }
}

impl Log {
    /// Notes an event; returns when it was.
    fn note(&mut self, kind: &str, subject: &str, text: String) -> u64 {
        if self.events.len() == SlimerpcObs::MOST_EVENTS {
            self.events.pop_front();
        }
        let at_ms = unix_millis();
        self.events.push_back(SlimerpcEvent {
            at_ms,
            kind: kind.to_owned(),
            subject: cut(subject.to_owned()),
            text: cut(text),
        });
        at_ms
    }

    /// Notes the state of a peer. If there are [`MOST_PEERS`] and none of them is gone, a further
    /// one is not remembered.
    fn note_state(&mut self, peer: &str, noted: NotedPeer) {
        if self.peers.len() >= MOST_PEERS && !self.peers.contains_key(peer) {
            let gone = self.peers.iter().filter(|(_, known)| known.is_gone());
            let oldest = gone.min_by_key(|(_, known)| known.since_ms);
            let Some((oldest, _)) = oldest else { return };
            let oldest = oldest.clone();
            self.peers.remove(&oldest);
        }
        self.peers.insert(peer.to_owned(), noted);
    }
}

impl NotedPeer {
    fn is_gone(&self) -> bool {
        self.state == SlimerpcPeerState::Gone
    }
}

/// The part of a text that readers take: a panic may say much.
fn cut(mut text: String) -> String {
    ObsRecord::cut(&mut text);
    text
}

/// The time, in Unix milliseconds.
pub(super) fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(state: SlimerpcPeerState, since_ms: u64) -> NotedPeer {
        NotedPeer {
            state,
            why: String::new(),
            since_ms,
        }
    }

    #[test]
    fn a_new_peer_displaces_the_one_that_has_been_gone_for_longest() {
        let mut log = Log::default();
        for number in 0..MOST_PEERS as u64 {
            let gone = noted(SlimerpcPeerState::Gone, MOST_PEERS as u64 - number);
            log.note_state(&format!("dead-{number}"), gone);
        }
        let alive = noted(SlimerpcPeerState::Alive, 0);
        log.note_state("new", alive.clone());
        assert_eq!(log.peers.len(), MOST_PEERS);
        assert!(log.peers.contains_key("new") && log.peers.contains_key("dead-0"));
        let oldest = format!("dead-{}", MOST_PEERS - 1);
        assert!(!log.peers.contains_key(&oldest));
        for known in log.peers.values_mut() {
            *known = alive.clone();
        }
        log.note_state("one more", alive);
        assert_eq!(log.peers.len(), MOST_PEERS);
    }

    #[test]
    fn who_has_been_gone_for_long_is_forgotten() {
        let log = ObsLog::new(true);
        for alias in ["long", "lately"] {
            log.note_peer(alias, &PeerEvent::Left);
        }
        let inner = log.0.as_ref().expect("it is on");
        let since = unix_millis() - GONE_KEPT_MS;
        let old = noted(SlimerpcPeerState::Gone, since);
        inner.borrow_mut().note_state("long", old);
        let peers = log.peers(|_| false);
        assert_eq!(peers.len(), 1);
        assert_eq!(peers[0].0, "lately");
    }
}

//! What happened to an agent's peers, and since when: for its records.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use slimerpc::control::obs::{SlimerpcEvent, SlimerpcObs, SlimerpcPeerState};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::{AgentEvent, PeerEvent};

/// Most peers that are remembered: who they are is up to others.
const MOST_PEERS: usize = 4096;

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
        let since_ms = log.note(kind, peer, why.clone());
        if log.peers.len() < MOST_PEERS || log.peers.contains_key(peer) {
            let noted = NotedPeer {
                state,
                why,
                since_ms,
            };
            log.peers.insert(peer.to_owned(), noted);
        }
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

    /// The peers that were heard of. Those that `is_known` does not know, and that are not gone,
    /// are forgotten: nobody here is interested in them any more.
    pub(super) fn peers(&self, is_known: impl Fn(&str) -> bool) -> Vec<(String, NotedPeer)> {
        let Some(log) = &self.0 else {
            return Vec::new();
        };
        let mut log = log.borrow_mut();
        let is_gone = |noted: &NotedPeer| noted.state == SlimerpcPeerState::Gone;
        log.peers
            .retain(|peer, noted| is_gone(noted) || is_known(peer));
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
            subject: subject.to_owned(),
            text,
        });
        at_ms
    }
}

/// The time, in Unix milliseconds.
pub(super) fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_millis() as u64
}

//! Connections with DLSlime peers: one for each pair of aliases, in one direction.
//!
//! A native peer opens a channel for each proxy. A DLSlime peer has one connection with this agent,
//! and both ends must have published a mailbox before either writes. Requests and replies share the
//! mailbox's slots, so the connection is used in one direction: this agent calls
//! ([`client`](super::client)) or it serves ([`server`](super::server)).

use std::collections::HashMap;
use std::sync::Arc;

use slimerpc::channel::{ClientChannel, LossCause, QueuePairInfo, RingAddress};
use slimerpc::fabric::Device;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::dlslime::handshake::QpReady;

/// Most peers whose `qp_ready` is kept until this agent serves or calls them.
const MAX_PARKED: usize = 1024;

/// The connections, and what is known of peers without one.
#[derive(Default)]
pub(crate) struct Pairs {
    by_peer: HashMap<String, Pair>,
    /// The latest `qp_ready` of peers that there is no reason to connect with yet.
    parked: HashMap<String, QpReady>,
    queue_pairs: HashMap<String, usize>,
}

/// The connection with one peer.
pub(super) enum Pair {
    /// A proxy is being made; it receives every `qp_ready`.
    Connecting(mpsc::Sender<QpReady>),
    /// All proxies to the peer share this channel.
    Calling {
        channel: Arc<ClientChannel>,
        theirs: Vec<QueuePairInfo>,
    },
    /// The peer calls a service of this agent.
    Serving(Serving),
}

/// A connection through which a DLSlime peer calls a service of this agent.
pub(super) struct Serving {
    pub(super) service: String,
    /// The peer's queue pairs; empty until the peer has sent them.
    pub(super) theirs: Vec<QueuePairInfo>,
    /// Whether this agent's queue pairs are connected to them.
    pub(super) reached: watch::Sender<bool>,
    /// The task that connects, and then waits for the peer's mailbox.
    pub(super) task: Option<AbortHandle>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Pairs {
    pub(super) fn get(&mut self, peer: &str) -> Option<&mut Pair> {
        self.by_peer.get_mut(peer)
    }

    pub(super) fn insert(&mut self, peer: &str, pair: Pair) {
        self.by_peer.insert(peer.to_owned(), pair);
    }

    pub(super) fn remove(&mut self, peer: &str) -> Option<Pair> {
        self.by_peer.remove(peer)
    }

    /// Calls `work` for each connection.
    pub(super) fn each(&self, work: impl FnMut(&Pair)) {
        self.by_peer.values().for_each(work);
    }

    /// The peers, each with whether it can be called, or can call, now.
    pub(super) fn observed(&self) -> Vec<(String, bool)> {
        let is_connected = |pair: &Pair| match pair {
            Pair::Connecting(_) => false,
            Pair::Calling { channel, .. } => channel.closed().is_none(),
            Pair::Serving(serving) => *serving.reached.borrow(),
        };
        let pairs = self.by_peer.iter();
        pairs
            .map(|(peer, pair)| (peer.clone(), is_connected(pair)))
            .collect()
    }

    /// Keeps a `qp_ready` for later.
    pub(super) fn park(&mut self, ready: QpReady) {
        if self.parked.len() >= MAX_PARKED && !self.parked.contains_key(&ready.peer) {
            tracing::warn!(
                peer = ready.peer,
                "too many peers wait to be connected; this one is forgotten"
            );
            return;
        }
        self.parked.insert(ready.peer.clone(), ready);
    }

    /// Takes the `qp_ready` that is kept for `peer`.
    pub(super) fn unpark(&mut self, peer: &str) -> Option<QpReady> {
        self.parked.remove(peer)
    }

    /// Takes all that are kept.
    pub(super) fn unpark_all(&mut self) -> Vec<QpReady> {
        self.parked.drain().map(|(_, ready)| ready).collect()
    }

    /// How many queue pairs a connection has that this agent begins.
    pub(super) fn queue_pairs(&self, peer: &str) -> usize {
        self.queue_pairs.get(peer).copied().unwrap_or(1)
    }

    pub(super) fn set_queue_pairs(&mut self, peer: &str, count: usize) {
        self.queue_pairs.insert(peer.to_owned(), count);
    }

    /// Ends the connections that `which` selects, and returns their peers.
    pub(super) fn end(&mut self, which: impl Fn(&Pair) -> bool) -> Vec<String> {
        let ended = self.by_peer.extract_if(|_, pair| which(pair));
        ended
            .map(|(peer, pair)| {
                if let Pair::Calling { channel, .. } = pair {
                    channel.close(LossCause::ShutDown);
                }
                peer
            })
            .collect()
    }
}

/// Name of the record of the mailbox that `owner` has for `peer`.
pub(super) fn mailbox_name(owner: &str, peer: &str) -> String {
    format!("rpc:mailbox:{owner}:{peer}")
}

/// The record of this agent's mailbox for `peer`.
pub(super) fn mailbox_record(
    me: &str,
    peer: &str,
    device: &dyn Device,
    ring: &RingAddress,
) -> serde_json::Value {
    let port = device.port();
    serde_json::json!({
        "agent_name": me, "mr_name": mailbox_name(me, peer),
        "device": device.name(), "ib_port": port.number, "link_type": port.link_type.to_string(),
        "addr": ring.addr, "length": ring.length, "rkey": ring.rkey, "lkey": 0,
    })
}

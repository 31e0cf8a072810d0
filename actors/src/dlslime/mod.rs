//! DLSlime's side of an agent: it calls peers that speak DLSlime's protocol, and serves them.
//!
//! A pair of aliases has one connection, which is used in one direction ([`pair`]). [`handshake`]
//! is the message that sets it up, [`client`] and [`server`] are its two ends. Native peers
//! involve none of this.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slimerpc::channel::{Geometry, LossCause};
use slimerpc::control::Control;
use slimerpc::fabric::RetryPolicy;

use crate::dlslime::pair::{Pair, Pairs};
use crate::memory::devices::Devices;
use crate::service::running::RunningServices;

pub(crate) mod client;
pub(crate) mod handshake;
mod pair;
mod server;

/// Pause between two checks for a step of a peer.
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// An agent's DLSlime peers. It lives on the supervisor's arbiter.
pub(crate) struct DlslimePeers {
    pub(crate) alias: String,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) devices: Devices,
    pub(crate) geometry: Geometry,
    pub(crate) retry: RetryPolicy,
    pub(crate) services: Rc<RunningServices>,
    pub(crate) has_left: Rc<Cell<bool>>,
    pub(crate) pairs: RefCell<Pairs>,
}

impl DlslimePeers {
    /// Sets how many queue pairs a connection with `peer` has that this agent begins.
    pub(crate) fn set_queue_pairs(&self, peer: &str, count: usize) {
        self.pairs.borrow_mut().set_queue_pairs(peer, count);
    }

    /// The connections, each with the peer and whether messages can be sent over it.
    pub(crate) fn observed(&self) -> Vec<(String, bool)> {
        self.pairs.borrow().observed()
    }

    /// Ends the connections of peers that call a service that has ended.
    pub(crate) async fn service_ended(&self, service: &str) {
        let calls_it =
            |pair: &Pair| matches!(pair, Pair::Serving(serving) if serving.service == service);
        let ended = self.pairs.borrow_mut().end(calls_it);
        for peer in ended {
            self.withdraw_mailbox(&peer).await;
        }
    }

    /// Handles the control plane's report that `peer` has left.
    pub(crate) fn peer_left(self: &Rc<Self>, peer: &str) {
        let pair = {
            let mut pairs = self.pairs.borrow_mut();
            pairs.unpark(peer);
            match pairs.get(peer) {
                // A proxy in the making stays: it is for the peer's next incarnation.
                Some(Pair::Connecting(_)) => None,
                _ => pairs.remove(peer),
            }
        };
        let Some(pair) = pair else { return };
        if let Pair::Calling { channel, .. } = pair {
            channel.close(LossCause::Left);
        }
        let (peers, peer) = (self.clone(), peer.to_owned());
        actix::spawn(async move { peers.withdraw_mailbox(&peer).await });
    }

    /// Makes sure that called peers that are gone are noticed.
    pub(crate) fn probe(&self) {
        self.pairs.borrow().each(|pair| {
            if let Pair::Calling { channel, .. } = pair {
                channel.probe();
            }
        });
    }

    /// Ends all connections.
    pub(crate) fn end(&self) {
        self.pairs.borrow_mut().end(|_| true);
    }
}

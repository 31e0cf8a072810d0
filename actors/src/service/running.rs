//! A running service: the actors that its requests go to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use slimerpc::channel::LossCause;
use tokio::time::timeout;

use crate::service::instance::Address;
use crate::supervision::supervised::ChildId;

/// The services of an agent, by name.
pub(crate) type RunningServices = RefCell<HashMap<String, RunningService>>;

/// A running service, without its types.
#[derive(Clone)]
pub(crate) struct RunningService {
    /// The only peer that may call it, if it is limited to one.
    pub(crate) only: Option<String>,
    /// Its id at the supervisor, if it is supervised.
    pub(crate) child: Option<ChildId>,
    /// Name of its type.
    pub(crate) type_name: &'static str,
    /// The instance, which takes the serial calls of native peers.
    pub(crate) serial: Address,
    pub(crate) front: Option<Address>,
}

impl RunningService {
    /// The actor that takes all other calls: the front if there is one, or else the instance.
    pub(crate) fn front(&self) -> &Address {
        self.front.as_ref().unwrap_or(&self.serial)
    }

    fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.front.iter().chain([&self.serial])
    }

    /// Closes the channels of a peer that has left, or of one incarnation of it.
    pub(crate) fn dismiss(&self, peer: &str, life: Option<u64>, cause: &LossCause) {
        for address in self.addresses() {
            address.dismiss(peer, life, cause);
        }
    }

    /// Makes sure that callers that are gone are noticed.
    pub(crate) fn probe(&self) {
        self.addresses().for_each(Address::probe);
    }

    /// Number of connected callers, as it was when this was asked before.
    pub(crate) fn callers(&self) -> usize {
        self.addresses().map(Address::callers).sum()
    }

    /// Waits until the answers that were given have arrived, at most for `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        join_all(self.addresses().map(|address| address.flush(limit))).await;
    }

    /// Has the service answer the requests that it has and take no more. Returns false if that
    /// takes longer than `limit`.
    pub(crate) async fn drain(&self, limit: Duration) -> bool {
        let drain = async {
            // The front first: the instance still has to answer what the front has taken.
            for address in self.addresses() {
                address.drain().await;
            }
        };
        timeout(limit, drain).await.is_ok()
    }

    /// Ends the service: its requests are answered with that.
    pub(crate) fn give_up(&self) {
        self.addresses().for_each(Address::give_up);
    }

    /// Ends the service and its arbiters. The arbiters end after a running sync handler has
    /// returned; this does not wait for it.
    pub(crate) fn end(self) {
        self.front.into_iter().for_each(Address::end);
        self.serial.end();
    }
}

//! The calling end of a channel to a DLSlime peer before it is connected.

use std::sync::Arc;

use crate::channel::{
    ClientChannel, ConnectError, Dialer, Geometry, Profile, QueuePairInfo, RingAddress, WaitPolicy,
};
use crate::fabric::{Device, RetryPolicy};

impl Dialer {
    /// Creates queue pairs and rings, ready to receive, for a DLSlime peer, with any number of
    /// queue pairs.
    ///
    /// # Errors
    /// The number is 0 or more than 64, or the device refuses.
    pub fn compatible(
        device: &dyn Device,
        geometry: Geometry,
        retry: RetryPolicy,
        queue_pairs: usize,
    ) -> Result<Self, ConnectError> {
        Self::create(device, geometry, retry, queue_pairs, Profile::Compatible)
    }

    /// The queue pairs to send to a DLSlime peer.
    pub fn queue_pairs(&self) -> Vec<QueuePairInfo> {
        self.queue_pairs.addresses()
    }

    /// Makes a channel to a DLSlime peer whose queue pairs have been [connected](Self::reach) and
    /// whose mailbox is `ring`.
    ///
    /// # Errors
    /// The mailbox does not fit this side's geometry.
    pub fn connect_compatible(
        self,
        peer: &str,
        ring: &RingAddress,
        waiting: WaitPolicy,
    ) -> Result<Arc<ClientChannel>, ConnectError> {
        let remote = ring.compatible_ring(self.geometry)?;
        Ok(self.open(peer, remote, waiting))
    }
}

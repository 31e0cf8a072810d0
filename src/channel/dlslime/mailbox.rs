//! DLSlime callers of a mailbox: their queue pairs are connected before their rings are known.

use crate::channel::callers::Key;
use crate::channel::queue_pair_group::QueuePairGroup;
use crate::channel::{ConnectError, Mailbox, Profile, QueuePairInfo, RingAddress};

/// A DLSlime caller with queue pairs only.
#[derive(Debug)]
pub(in crate::channel) struct Arriving {
    pub(in crate::channel) peer: String,
    pub(in crate::channel) queue_pairs: QueuePairGroup,
    pub(in crate::channel) key: Key,
    is_reached: bool,
}

impl Mailbox {
    /// Returns the queue pairs for a DLSlime caller, and makes them if there are none. They must be
    /// sent to the caller.
    ///
    /// # Errors
    /// The number of queue pairs is impossible, the completion queue is full, or the device
    /// refuses.
    pub fn prepare(
        &mut self,
        peer: &str,
        queue_pairs: usize,
    ) -> Result<Vec<QueuePairInfo>, ConnectError> {
        let found = self.arriving.iter().find(|arriving| arriving.peer == peer);
        if let Some(arriving) = found {
            return Ok(arriving.queue_pairs.addresses());
        }
        let (key, queue_pairs) = match self.take_over(peer)? {
            Some(taken) => taken,
            None => self.queue_pairs(queue_pairs, Profile::Compatible)?,
        };
        let addresses = queue_pairs.addresses();
        self.arriving.push(Arriving {
            peer: peer.to_owned(),
            queue_pairs,
            key,
            is_reached: false,
        });
        Ok(addresses)
    }

    /// Connects the queue pairs [prepared](Self::prepare) for `peer` to its own, and resets them
    /// first if they were connected to those of an earlier incarnation.
    ///
    /// # Errors
    /// The peer's queue pairs are not acceptable, or the device refuses. They can be tried again.
    pub fn reach(&mut self, peer: &str, theirs: &[QueuePairInfo]) -> Result<(), ConnectError> {
        let at = self
            .arriving
            .iter()
            .position(|arriving| arriving.peer == peer);
        let Some(at) = at else {
            return Err(not_prepared(peer));
        };
        let arriving = &self.arriving[at];
        if arriving.is_reached {
            let key = self.callers.renew(arriving.key);
            let arriving = &mut self.arriving[at];
            arriving.key = key;
            arriving.queue_pairs.reset(key.to_owner())?;
        }
        let arriving = &mut self.arriving[at];
        arriving.is_reached = true;
        arriving.queue_pairs.connect(theirs)
    }

    /// Makes a channel of the [connected](Self::reach) queue pairs, now that the mailbox of `peer`
    /// is known to be `ring`. The returned ring must be sent to the peer, which may write only
    /// then.
    ///
    /// # Errors
    /// The peer's mailbox does not fit this side's geometry, or the device refuses.
    pub fn admit(&mut self, peer: &str, ring: &RingAddress) -> Result<RingAddress, ConnectError> {
        let geometry = self.geometries.compatible;
        let remote = ring.compatible_ring(geometry)?;
        if remote.geometry.slots() > geometry.slots() {
            return Err(ConnectError::BadEndpoint {
                field: "mailbox length".into(),
                reason: format!(
                    "{} bytes are {} slots, and a caller may not have more than ours, {}; raise max_inflight here",
                    ring.length,
                    remote.geometry.slots(),
                    geometry.slots()
                ),
            });
        }
        let at = self
            .arriving
            .iter()
            .position(|arriving| arriving.peer == peer && arriving.is_reached);
        let Some(at) = at else {
            return Err(not_prepared(peer));
        };
        let rings = self.rings(geometry, Profile::Compatible)?;
        let Arriving {
            queue_pairs, key, ..
        } = self.arriving.swap_remove(at);
        let profile = Profile::Compatible;
        let channel = self.occupy(key, (peer, None), queue_pairs, None, rings, remote, profile);
        Ok(channel.ring())
    }

    /// Takes the queue pairs of the channel of `peer`, which ends, and its place.
    fn take_over(&mut self, peer: &str) -> Result<Option<(Key, QueuePairGroup)>, ConnectError> {
        for key in self.callers.find(|channel| channel.is_compatible(peer)) {
            let channel = self.callers.take(key);
            let key = self.callers.renew(key);
            let Some(mut queue_pairs) = channel.and_then(|channel| channel.take_queue_pairs())
            else {
                continue;
            };
            queue_pairs.reset(key.to_owner())?;
            return Ok(Some((key, queue_pairs)));
        }
        Ok(None)
    }
}

fn not_prepared(peer: &str) -> ConnectError {
    ConnectError::BadEndpoint {
        field: "alias".into(),
        reason: format!("no queue pairs have been prepared for `{peer}`"),
    }
}

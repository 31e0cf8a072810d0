//! The mailbox of a service: one completion queue over the request rings of all its callers.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::client::INLINE;
use super::lend::Ring;
use super::peer_channel::{Arrived, Inbound, PeerChannel, Sending};
use super::send_queue::Ticket;
use super::{ConnectError, Endpoint, Geometry, LossCause, Violations};
use crate::fabric::{
    Completion, CompletionEvents, CompletionQueue, Device, FabricError, QueuePairInit, RecvRequest,
    RetryPolicy,
};
use crate::wire::Immediate;

const RECEIVE: u64 = 1 << 63;
const BATCH: usize = 16;
/// Sends for each slot: its answer, and as many again, so that signalling every half queue is enough.
const SENDS: u32 = 2;
/// Receives for each slot. We may not have looked at a cancel, the next request in the slot and its cancel; what
/// comes after those is sent only when that request was answered, and so everything before it seen.
const RECEIVES: u32 = 3;
/// Callers that the completion queue is sized for, as far as the device allows.
const CALLERS: u32 = 1024;

/// Where the requests of all callers of one service instance arrive. Lives on the service's thread.
#[derive(Debug)]
pub struct Mailbox {
    device: Arc<dyn Device>,
    cq: Arc<dyn CompletionQueue>,
    geometry: Geometry,
    service: Rc<str>,
    places: Vec<Place>,
    /// Entries of the completion queue that are still to be given to callers.
    entries_left: u32,
}

/// A place for a caller. The generation tells the completions of its earlier occupants apart.
#[derive(Debug, Default)]
struct Place {
    generation: u32,
    channel: Option<Rc<PeerChannel>>,
}

/// What a mailbox delivers.
#[derive(Debug)]
pub enum Delivery {
    /// A request.
    Request(Inbound),
    /// The caller of a request no longer wants its answer. See [`Cancelled::names`].
    Cancel(Cancelled),
    /// A caller is gone; its requests may still be handled, their answers go nowhere.
    Lost {
        /// Its alias.
        peer: String,
        /// Why.
        cause: LossCause,
    },
}

/// Names a request whose caller gave up.
#[derive(Debug)]
pub struct Cancelled {
    channel: Rc<PeerChannel>,
    slot: u16,
    request_id: u64,
}

impl Cancelled {
    /// Whether `request` is the one.
    pub fn names(&self, request: &Inbound) -> bool {
        request.is(&self.channel, self.slot, self.request_id)
    }
}

impl Mailbox {
    /// A mailbox without callers.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(
        device: Arc<dyn Device>,
        geometry: Geometry,
        service: &str,
    ) -> Result<Self, ConnectError> {
        let wanted = CALLERS.saturating_mul(entries(geometry));
        let depth = wanted.min(device.limits().max_cqe);
        let cq = device.create_completion_queue(depth)?;
        Ok(Self {
            device,
            cq,
            geometry,
            service: service.into(),
            places: Vec::new(),
            entries_left: depth,
        })
    }

    /// Makes room for a caller and connects to its end. What is given back must be told to it; only then may
    /// it write.
    ///
    /// # Errors
    /// The caller's endpoint is not acceptable, the completion queue is given away, or the device refuses.
    pub fn accept(&mut self, peer: &str, theirs: &Endpoint) -> Result<Endpoint, ConnectError> {
        let remote = theirs.remote_ring(self.geometry)?;
        let taken = entries(self.geometry);
        let Some(left) = self.entries_left.checked_sub(taken) else {
            return Err(ConnectError::Fabric(FabricError::Limit {
                what: "the completion queue entries that one more caller needs",
                given: taken.into(),
                allowed: format!("{} more", self.entries_left),
                device: self.device.name().to_owned(),
            }));
        };
        let slots = self.geometry.slots() as u32;
        let init = QueuePairInit {
            send_cq: self.cq.clone(),
            recv_cq: self.cq.clone(),
            max_send_wr: SENDS * slots,
            max_recv_wr: RECEIVES * slots,
            max_inline: INLINE.min(self.device.limits().max_inline),
            retry: RetryPolicy::default(),
        };
        let mut qp = self.device.create_queue_pair(&init)?;
        let rings = (
            Ring::receive(&*self.device, self.geometry)?,
            Ring::send(&*self.device, self.geometry)?,
        );
        let key = self.free_place();
        qp.to_init()?;
        for _ in 0..init.max_recv_wr {
            qp.post_recv(RecvRequest {
                wr_id: key.to_wr_id() | RECEIVE,
            })?;
        }
        qp.to_rtr(&theirs.qp.into())?;
        qp.to_rts()?;
        let sending = Sending {
            wr_id: key.to_wr_id(),
            depth: init.max_send_wr,
            inline: init.max_inline,
        };
        let channel = PeerChannel::new(peer, qp, rings, remote, sending);
        let endpoint = channel.endpoint();
        self.places[key.at].channel = Some(Rc::new(channel));
        self.entries_left = left;
        Ok(endpoint)
    }

    /// Appends what has arrived to `deliveries`. Says whether anything had.
    ///
    /// # Errors
    /// The completion queue has failed; the mailbox is of no use any more.
    pub fn poll(&mut self, deliveries: &mut VecDeque<Delivery>) -> Result<bool, FabricError> {
        let mut batch = [Completion::EMPTY; BATCH];
        let count = self.cq.poll(&mut batch)?;
        for completion in &batch[..count] {
            self.complete(completion, deliveries);
        }
        Ok(count > 0)
    }

    fn complete(&mut self, completion: &Completion, deliveries: &mut VecDeque<Delivery>) {
        let key = Key::of(completion.wr_id);
        let Some(channel) = self.occupant(key) else {
            return;
        };
        if !completion.status.is_success() {
            self.lose(key, completion.status.into(), deliveries);
            return;
        }
        if completion.wr_id & RECEIVE == 0 {
            channel.retire(Ticket {
                retires: completion.wr_id as u32 & RETIRES,
            });
        } else {
            let imm = Immediate::from_bits(completion.imm.unwrap_or_default());
            match channel.receive(imm, completion.wr_id) {
                Some(Arrived::Request(request)) => {
                    let inbound = Inbound::new(channel.clone(), request, self.service.clone());
                    deliveries.push_back(Delivery::Request(inbound));
                }
                Some(Arrived::Cancel { slot, request_id }) => {
                    let channel = channel.clone();
                    deliveries.push_back(Delivery::Cancel(Cancelled {
                        channel,
                        slot,
                        request_id,
                    }));
                }
                None => {}
            }
        }
        if let Some(cause) = channel.closed() {
            self.lose(key, cause, deliveries);
        }
    }

    /// Closes the channels of `peer`: it has left, or come back as another incarnation.
    pub fn dismiss(&mut self, peer: &str, cause: &LossCause) {
        for at in 0..self.places.len() {
            let place = &self.places[at];
            if place.channel.as_ref().is_some_and(|c| c.peer == peer) {
                let key = Key {
                    at,
                    generation: place.generation,
                };
                self.lose(key, cause.clone(), &mut VecDeque::new());
            }
        }
    }

    /// Asks for an event at the next arrival. Poll once more before waiting for it.
    ///
    /// # Errors
    /// The device refuses.
    pub fn arm(&self) -> Result<(), FabricError> {
        self.cq.arm()
    }

    /// The events of the mailbox, for the current runtime.
    ///
    /// # Errors
    /// As [`CompletionEvents::new`].
    pub fn events(&self) -> io::Result<CompletionEvents> {
        CompletionEvents::new(self.cq.clone())
    }

    /// Number of connected callers.
    pub fn callers(&self) -> usize {
        self.channels().count()
    }

    /// What connected callers did that they should not have done: alias and counts.
    pub fn violations(&self) -> Vec<(String, Violations)> {
        self.channels()
            .map(|channel| (channel.peer.clone(), channel.violations()))
            .collect()
    }

    fn channels(&self) -> impl Iterator<Item = &Rc<PeerChannel>> {
        self.places
            .iter()
            .filter_map(|place| place.channel.as_ref())
    }

    fn occupant(&self, key: Key) -> Option<Rc<PeerChannel>> {
        let place = self.places.get(key.at)?;
        place
            .channel
            .clone()
            .filter(|_| place.generation == key.generation)
    }

    fn lose(&mut self, key: Key, cause: LossCause, deliveries: &mut VecDeque<Delivery>) {
        let place = &mut self.places[key.at];
        let Some(channel) = place.channel.take() else {
            return;
        };
        place.generation = (place.generation + 1) & GENERATION;
        self.entries_left += entries(self.geometry);
        channel.close(cause.clone());
        deliveries.push_back(Delivery::Lost {
            peer: channel.peer.clone(),
            cause,
        });
    }

    fn free_place(&mut self) -> Key {
        let free = self.places.iter().position(|p| p.channel.is_none());
        let at = free.unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        Key {
            at,
            generation: self.places[at].generation,
        }
    }
}

impl Drop for Mailbox {
    /// Closes every channel: callers learn at once that nobody answers any more.
    fn drop(&mut self) {
        for channel in self.channels() {
            channel.close(LossCause::ShutDown);
        }
    }
}

/// Completion queue entries of one caller: its receives and our sends.
fn entries(geometry: Geometry) -> u32 {
    (SENDS + RECEIVES) * geometry.slots() as u32
}

/// A place and its generation, as they travel in `wr_id`:
/// receive (1 bit), generation (22 bits), place (20 bits), work requests retired (21 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    at: usize,
    generation: u32,
}

const RETIRES: u32 = (1 << 21) - 1;
const GENERATION: u32 = (1 << 22) - 1;

impl Key {
    fn of(wr_id: u64) -> Self {
        Self {
            at: (wr_id >> 21) as usize & 0xf_ffff,
            generation: (wr_id >> 41) as u32 & GENERATION,
        }
    }

    fn to_wr_id(self) -> u64 {
        (u64::from(self.generation) << 41) | ((self.at as u64) << 21)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_work_request_id() {
        for key in [(0, 0), (1, 2), (0xf_ffff, GENERATION)] {
            let key = Key {
                at: key.0,
                generation: key.1,
            };
            assert_eq!(Key::of(key.to_wr_id() | RECEIVE | u64::from(RETIRES)), key);
        }
    }
}

//! The service that workers serve.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use slimerpc_actors::{
    BufferError, PeerAgent, Proxy, RdmaBuffer, RemoteBuffer, RpcError, Share, service,
};

use crate::digits::{Digits, Network};
use crate::report::Report;
use crate::ring::{Label, Ring, RingError};
use crate::vector::{self, NUMBER};

/// Computes gradients of its images.
pub(crate) struct TrainWorker {
    agent: PeerAgent,
    digits: Digits,
    network: Network,
    /// The driver's weights, once it has joined.
    weights: Option<RemoteBuffer>,
    seat: Option<Seat>,
    next: Option<Proxy<Self>>,
    ring: Arc<Ring>,
    /// What sums are made in, between two rounds.
    spare: Vec<f32>,
}

/// A place in a ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    pub(crate) rank: usize,
    pub(crate) ranks: usize,
    /// Alias of the next rank.
    pub(crate) next: String,
}

/// What to do in a step with a ring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) round: u64,
    /// Numbers of images.
    pub(crate) images: Vec<u16>,
    /// What this rank's gradient counts for in the sum.
    pub(crate) share: f32,
    /// How far to go down the sum.
    pub(crate) rate: f32,
}

/// A worker did not do its step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum WorkError {
    #[error("it has not joined")]
    NotJoined,
    #[error("there is no image {number}")]
    NoImage { number: u16 },
    #[error("{found} bytes of weights instead of {expected}")]
    Weights { found: u64, expected: u64 },
    #[error("the weights cannot be read: {0}")]
    Read(String),
    #[error("the next in the ring: {0}")]
    Next(String),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("a reply of {needed} bytes does not fit {room} bytes")]
    Room { needed: u64, room: u64 },
}

impl From<BufferError> for WorkError {
    fn from(error: BufferError) -> Self {
        Self::Read(error.to_string())
    }
}

impl From<RpcError> for WorkError {
    fn from(error: RpcError) -> Self {
        Self::Next(error.to_string())
    }
}

impl Share for TrainWorker {
    type Shared = Ring;

    fn share(&self) -> Arc<Ring> {
        self.ring.clone()
    }
}

#[service]
impl TrainWorker {
    /// Learns where the driver's weights are and, if there is to be a ring, its place in it, with
    /// which it begins at the weights that are there now.
    #[method]
    pub(crate) async fn join(
        &mut self,
        weights: RdmaBuffer,
        seat: Option<Seat>,
    ) -> Result<(), WorkError> {
        self.weights = Some(self.agent.attach(&weights).await?);
        self.next = None;
        if let Some(seat) = &seat {
            self.pull().await?;
            if seat.ranks > 1 {
                let next = self.agent.proxy::<Self>(&seat.next).await;
                self.next = Some(next.map_err(|error| WorkError::Next(error.to_string()))?);
            }
        }
        self.seat = seat;
        Ok(())
    }

    /// The gradient for images, the numbers of which (u16, little-endian) are the request, at the
    /// weights that the driver has now: a [`Report`], and f32 in the order of the weights.
    #[method(raw, inplace)]
    pub(crate) async fn gradient(
        &mut self,
        images: &[u8],
        reply: &mut [u8],
    ) -> Result<usize, WorkError> {
        let (numbers, _) = images.as_chunks();
        let images = self.select(numbers.iter().map(|&number| u16::from_le_bytes(number)))?;
        let pulled = self.pull().await?;
        let len = Report::LEN + NUMBER * self.network.len();
        let room = reply.len();
        let Some(reply) = reply.get_mut(..len) else {
            let (needed, room) = (len as u64, room as u64);
            return Err(WorkError::Room { needed, room });
        };

        let started = Instant::now();
        let (loss, gradient) = self.network.loss_and_gradient(&images);
        let report = Report {
            loss,
            compute_ns: started.elapsed().as_nanos() as u64,
            moved: (size_of_val(numbers) + pulled + len) as u64,
        };
        let (head, mut body) = reply.split_at_mut(Report::LEN);
        head.copy_from_slice(&report.to_bytes());
        for part in gradient.parts() {
            vector::write(part, body);
            body = &mut body[NUMBER * part.len()..];
        }
        Ok(len)
    }

    /// A step with a ring: sums its gradient with those of the other ranks, and goes down the sum.
    #[method]
    pub(crate) async fn step(&mut self, order: Order) -> Result<Report, WorkError> {
        let images = self.select(order.images.iter().copied())?;
        let started = Instant::now();
        let (loss, gradient) = self.network.loss_and_gradient(&images);
        let mut compute = started.elapsed();

        let (sum, sent) = self.all_reduce(&order, &gradient).await?;

        let started = Instant::now();
        let mut rest = &sum[..];
        for part in self.network.parts_mut() {
            let (slopes, others) = rest.split_at(part.len());
            vector::step(part, slopes, order.rate);
            rest = others;
        }
        compute += started.elapsed();
        self.spare = sum;
        Ok(Report {
            loss,
            compute_ns: compute.as_nanos() as u64,
            moved: sent as u64,
        })
    }

    /// Its weights.
    #[method(raw, inplace)]
    pub(crate) fn weights(
        &mut self,
        _request: &[u8],
        reply: &mut [u8],
    ) -> Result<usize, WorkError> {
        let len = NUMBER * self.network.len();
        if len > reply.len() {
            let (needed, room) = (len as u64, reply.len() as u64);
            return Err(WorkError::Room { needed, room });
        }
        let mut room = reply;
        for part in self.network.parts() {
            vector::write(part, room);
            room = &mut room[NUMBER * part.len()..];
        }
        Ok(len)
    }

    /// Takes a chunk in from the rank before.
    #[method(raw, parallel)]
    pub(crate) async fn pass(ring: &Ring, chunk: &[u8]) -> Result<[u8; 0], RingError> {
        ring.receive(chunk).await?;
        Ok([])
    }

    /// Ends a step that somebody else cannot do.
    #[method(parallel)]
    pub(crate) fn abort(ring: &Ring, round: u64) {
        ring.abort(round);
    }
}

impl TrainWorker {
    pub(crate) fn new(agent: PeerAgent, digits: Digits, network: Network) -> Self {
        Self {
            agent,
            digits,
            network,
            weights: None,
            seat: None,
            next: None,
            ring: Arc::default(),
            spare: Vec::new(),
        }
    }

    fn select(&self, numbers: impl Iterator<Item = u16> + Clone) -> Result<Digits, WorkError> {
        let is_missing = |&number: &u16| usize::from(number) >= self.digits.len();
        if let Some(number) = numbers.clone().find(is_missing) {
            return Err(WorkError::NoImage { number });
        }
        Ok(self.digits.select(numbers.map(usize::from)))
    }

    /// Reads the driver's weights, and says how many bytes that was.
    async fn pull(&mut self) -> Result<usize, WorkError> {
        let weights = self.weights.as_ref().ok_or(WorkError::NotJoined)?;
        let (found, expected) = (weights.len(), (NUMBER * self.network.len()) as u64);
        if found != expected {
            return Err(WorkError::Weights { found, expected });
        }
        let bytes = weights.read(0, found as usize).await?;
        let mut rest = &bytes[..];
        for part in self.network.parts_mut() {
            let (these, others) = rest.split_at(NUMBER * part.len());
            vector::read(these, part);
            rest = others;
        }
        Ok(bytes.len())
    }

    /// The sum over all ranks, and how many bytes this one has sent for it.
    async fn all_reduce(
        &mut self,
        order: &Order,
        gradient: &Network,
    ) -> Result<(Vec<f32>, usize), WorkError> {
        let seat = self.seat.as_ref().ok_or(WorkError::NotJoined)?;
        let mut sum = std::mem::take(&mut self.spare);
        sum.clear();
        for part in gradient.parts() {
            sum.extend(part.iter().map(|slope| order.share * slope));
        }
        let (ring, round, mut sent) = (&self.ring, order.round, 0);
        ring.begin(round, seat.rank, seat.ranks, sum)?;
        if let Some(next) = &self.next {
            let phases = 2 * (seat.ranks - 1);
            for phase in 0..phases {
                // What is sent in a phase came in in the one before.
                ring.received(round, phase).await?;
                let label = Label { round, phase };
                let mut len = 0;
                let passed = next.pass_with(|room| {
                    len = ring.write(label, room);
                    len
                });
                passed.await?;
                sent += len;
            }
            ring.received(round, phases).await?;
        }
        Ok((ring.end(round)?, sent))
    }
}

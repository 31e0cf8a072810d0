//! The service that workers serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use slimerpc_actors::{Share, service};

use crate::digits::{CLASSES, Network, PIXELS, WeightsError};

/// Scores of each image of a batch.
pub(crate) type Scores = Vec<[f32; CLASSES]>;

/// Runs a network once it has been given one.
#[derive(Default)]
pub(crate) struct ModelRunner {
    network: Option<Network>,
    vitals: Arc<Vitals>,
}

/// What its health check sees while it is busy.
#[derive(Default)]
pub(crate) struct Vitals {
    weights: AtomicU64,
    images: AtomicU64,
}

/// How a worker is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condition {
    /// Weights of its network; 0 if it has none yet.
    pub(crate) weights: u64,
    /// Images that it has read.
    pub(crate) images: u64,
}

/// A batch was not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum InferError {
    #[error("no weights have been loaded")]
    NoWeights,
    #[error("{found} bytes are not whole images of {PIXELS}")]
    NotImages { found: u64 },
}

/// Weights were not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the number of neurons is missing")]
    NoNeurons,
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl Share for ModelRunner {
    type Shared = Vitals;

    fn share(&self) -> Arc<Vitals> {
        self.vitals.clone()
    }
}

#[service]
impl ModelRunner {
    /// Takes what [`weights_message`] wrote, read where it arrives, and says how many weights that
    /// is (u64, little-endian).
    #[method(raw)]
    pub(crate) fn load(&mut self, message: &[u8]) -> Result<[u8; 8], LoadError> {
        let (neurons, weights) = message.split_first_chunk().ok_or(LoadError::NoNeurons)?;
        let neurons = u32::from_le_bytes(*neurons) as usize;
        let network = self.network.insert(Network::from_bytes(neurons, weights)?);
        let count = network.len() as u64;
        self.vitals.weights.store(count, Ordering::Relaxed);
        Ok(count.to_le_bytes())
    }

    /// Reads a batch of images. It changes nothing, so a caller that does not know whether it ran
    /// may ask again.
    #[method]
    pub(crate) fn infer(&mut self, pixels: Vec<u8>) -> Result<Scores, InferError> {
        let network = self.network.as_ref().ok_or(InferError::NoWeights)?;
        if pixels.is_empty() || !pixels.len().is_multiple_of(PIXELS) {
            let found = pixels.len() as u64;
            return Err(InferError::NotImages { found });
        }
        let scores = network.scores(&pixels);
        let images = scores.len() as u64;
        self.vitals.images.fetch_add(images, Ordering::Relaxed);
        Ok(scores)
    }

    /// Answers while a batch is being read.
    #[method(parallel)]
    pub(crate) fn health(vitals: &Vitals) -> Condition {
        Condition {
            weights: vitals.weights.load(Ordering::Relaxed),
            images: vitals.images.load(Ordering::Relaxed),
        }
    }
}

/// What [`ModelRunner::load`] takes: the number of hidden neurons (u32, little-endian), and the
/// weights.
pub(crate) fn weights_message(neurons: u32, network: &Network) -> Vec<u8> {
    let mut message = neurons.to_le_bytes().to_vec();
    message.extend(network.to_bytes());
    message
}

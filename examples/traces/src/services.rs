//! What a step consists of: a loader and a reducer at the driver, and a trainer in each worker.

use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use slimerpc_actors::{Proxy, RpcError, service};

/// Pieces of a batch.
const PIECES: u64 = 3;

/// Makes batches.
#[derive(Default)]
pub(crate) struct Loader;

#[service]
impl Loader {
    /// The pieces of a step's batch.
    #[method(stream)]
    fn batch(&mut self, step: u64) -> impl Stream<Item = Vec<f32>> {
        stream::iter(0..PIECES).map(move |piece| vec![(step + piece) as f32; 256])
    }
}

/// Adds up the gradients of all workers.
#[derive(Default)]
pub(crate) struct Reducer {
    sum: f32,
    lines: u64,
}

#[service]
impl Reducer {
    #[method]
    fn add(&mut self, gradient: f32) -> f32 {
        self.sum += gradient;
        self.sum
    }

    /// Notes a line of a worker's log, which the worker does not wait for.
    #[method(oneway)]
    fn note(&mut self, line: String) {
        tracing::debug!(line);
        self.lines += 1;
    }
}

/// Trains on its part of each batch.
pub(crate) struct Trainer {
    pub(crate) loader: Proxy<Loader>,
    pub(crate) reducer: Proxy<Reducer>,
}

#[service]
impl Trainer {
    #[method]
    async fn step(&mut self, number: u64) -> Result<f32, RpcError> {
        let mut batch = self.loader.batch(number);
        let mut gradient = 0.0;
        while let Some(piece) = batch.next().await {
            gradient += compute(&piece?).await;
        }
        let sum = self.reducer.add(gradient).await?;
        self.reducer.note(format!("step {number} is done")).await?;
        Ok(sum)
    }
}

/// A part of the step that calls nobody, in a span of the program's own.
#[tracing::instrument(skip_all)]
async fn compute(piece: &[f32]) -> f32 {
    tokio::time::sleep(Duration::from_millis(1)).await;
    piece.iter().sum()
}

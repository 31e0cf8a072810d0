//! A trainer offers its weights; workers pull them when they are ready for them, without the
//! trainer's doing.
//!
//!     cargo run --release --example weights_pull

use std::time::Instant;

use slimerpc_actors::{BufferError, PeerAgent, RdmaBuffer, Rights, service};

/// 4 layers of 4 Mi weights of 4 bytes: 64 MiB.
const LAYERS: usize = 4;
const LAYER: usize = 16 << 20;

/// Hands out the handle of what it offers.
struct Trainer {
    weights: RdmaBuffer,
}

#[service]
impl Trainer {
    #[method]
    fn weights(&mut self) -> RdmaBuffer {
        self.weights.clone()
    }
}

fn layer(number: usize) -> Vec<u8> {
    let weights = (0..LAYER / 4).map(|n| (n % 1000) as f32 * (number + 1) as f32);
    weights.flat_map(f32::to_le_bytes).collect()
}

fn mean(layer: &[u8]) -> f32 {
    let sum: f64 = layer
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f64::from(f32::from_le_bytes(*bytes)))
        .sum();
    (sum / (layer.len() / 4) as f64) as f32
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let trainer = PeerAgent::builder().alias("trainer:0").start().await?;
    let weights = trainer.allocate(LAYERS * LAYER, Rights::Read)?;
    for number in 0..LAYERS {
        weights.write(number * LAYER, &layer(number))?;
    }
    trainer
        .serve(Trainer {
            weights: weights.handle(),
        })
        .await?;
    println!("{:?}", weights.handle());

    let worker = PeerAgent::builder().alias("worker:0").start().await?;
    let trainer = worker.proxy::<Trainer>("trainer:0").await?;
    let remote = worker.attach(&trainer.weights().await?).await?;
    for number in 0..LAYERS {
        let started = Instant::now();
        let pulled = remote.read((number * LAYER) as u64, LAYER).await?;
        let took = started.elapsed();
        println!(
            "layer {number}: {} MiB in {took:.1?}, mean {:.2}",
            pulled.len() >> 20,
            mean(&pulled)
        );
    }

    // What is not offered is refused, and so is everything once the offer is taken back.
    match remote.write_at(0, b"mine now").await {
        Err(BufferError::NotAllowed { .. }) => println!("the weights cannot be written"),
        other => println!("{other:?}"),
    }
    weights.revoke();
    match remote.read(0, 4).await {
        Err(error) => println!("after the end of the offer: {error}"),
        Ok(bytes) => println!("{bytes:?}"),
    }
    Ok(())
}

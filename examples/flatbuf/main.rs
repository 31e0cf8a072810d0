//! FlatBuffers that are read where they arrive: the request in the receive ring, the reply in the
//! caller's.
//!
//!     cargo run --release --example flatbuf

use flatbuffers::{FlatBufferBuilder, InvalidFlatbuffer};
use slimerpc_actors::{PeerAgent, service};

#[allow(warnings, clippy::all)]
#[rustfmt::skip]
mod tensor_generated;
use tensor_generated::{Stats, StatsArgs, Tensor, TensorArgs};

#[derive(Default)]
struct Statistician {
    builder: FlatBufferBuilder<'static>,
}

#[service]
impl Statistician {
    /// Takes a `Tensor`, returns `Stats` of it. The verifier looks at the bytes in the ring, and no
    /// value is copied out of it; what it refuses is an error of this call.
    #[method(raw, inplace)]
    fn stats(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, InvalidFlatbuffer> {
        let tensor = flatbuffers::root::<Tensor<'_>>(request)?;
        let values = tensor.values();
        let mut stats = StatsArgs::default();
        for (at, value) in values.iter().enumerate() {
            stats.mean += value / values.len() as f32;
            if at == 0 || value > stats.largest {
                (stats.largest, stats.at) = (value, at as u32);
            }
        }
        self.builder.reset();
        stats.name = Some(self.builder.create_string(tensor.name()));
        let stats = Stats::create(&mut self.builder, &stats);
        self.builder.finish(stats, None);
        Ok(copy(self.builder.finished_data(), reply))
    }
}

/// Copies a finished buffer. The length says it if there is too little room, and the call fails.
fn copy(buffer: &[u8], room: &mut [u8]) -> usize {
    if let Some(room) = room.get_mut(..buffer.len()) {
        room.copy_from_slice(buffer);
    }
    buffer.len()
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = PeerAgent::builder().alias("worker:0").start().await?;
    worker.serve(Statistician::default()).await?;
    let driver = PeerAgent::builder().alias("driver:0").start().await?;
    let statistician = driver.proxy::<Statistician>("worker:0").await?;

    let mut builder = FlatBufferBuilder::new();
    let values = (0..1000).map(|n| (n as f32 / 100.0).sin());
    let values: Vec<f32> = values.collect();
    let tensor = TensorArgs {
        name: Some(builder.create_string("gradient")),
        shape: Some(builder.create_vector(&[10_u32, 100])),
        values: Some(builder.create_vector(&values)),
    };
    let tensor = Tensor::create(&mut builder, &tensor);
    builder.finish(tensor, None);

    let reply = statistician.stats(builder.finished_data()).lent().await?;
    let stats = flatbuffers::root::<Stats<'_>>(&reply)?;
    println!(
        "{}: mean {:.3}, largest {:.3} at {}",
        stats.name(),
        stats.mean(),
        stats.largest(),
        stats.at()
    );

    match statistician.stats(b"not a flatbuffer").await {
        Err(error) => println!("refused: {error}"),
        Ok(_) => println!("unexpected"),
    }
    Ok(())
}

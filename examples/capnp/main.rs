//! Cap'n Proto messages that are read where they arrive, and written where they are sent from.
//!
//!     cargo run --release --example capnp

use capnp::message::{Builder, ReaderOptions};
use capnp::serialize::{read_message_from_flat_slice, write_message};
use slimerpc_actors::{PeerAgent, service};

#[allow(warnings, clippy::all)]
#[rustfmt::skip]
mod tensor_capnp;
use tensor_capnp::{stats, tensor};

struct Statistician;

#[service]
impl Statistician {
    /// Takes a `Tensor`, returns `Stats` of it: read from the receive ring, written into send
    /// memory.
    #[method(raw, inplace)]
    fn stats(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, capnp::Error> {
        let message = read_message_from_flat_slice(&mut &*request, ReaderOptions::new())?;
        let tensor = message.get_root::<tensor::Reader<'_>>()?;
        let values = tensor.get_values()?;
        let (mut mean, mut largest, mut at) = (0.0, f32::MIN, 0);
        for (index, value) in values.iter().enumerate() {
            mean += value / values.len() as f32;
            if value > largest {
                (largest, at) = (value, index as u32);
            }
        }
        let mut message = Builder::new_default();
        let mut stats = message.init_root::<stats::Builder<'_>>();
        stats.set_name(tensor.get_name()?);
        stats.set_mean(mean);
        stats.set_largest(largest);
        stats.set_at(at);
        write(&message, reply)
    }
}

/// Writes a message, and says how many bytes it has.
fn write<A>(message: &Builder<A>, room: &mut [u8]) -> Result<usize, capnp::Error>
where
    A: capnp::message::Allocator,
{
    let size = room.len();
    let mut rest = room;
    write_message(&mut rest, message)?;
    Ok(size - rest.len())
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = PeerAgent::builder().alias("worker:0").start().await?;
    worker.serve(Statistician).await?;
    let driver = PeerAgent::builder().alias("driver:0").start().await?;
    let statistician = driver.proxy::<Statistician>("worker:0").await?;

    let mut message = Builder::new_default();
    let mut tensor = message.init_root::<tensor::Builder<'_>>();
    tensor.set_name("gradient");
    tensor.set_shape(&[10, 100])?;
    let mut values = tensor.init_values(1000);
    for n in 0..1000 {
        values.set(n, (n as f32 / 100.0).sin());
    }

    // Straight into the slot that it is sent from. A message that does not fit fails the call with
    // its size.
    let size = capnp::serialize::compute_serialized_size_in_words(&message) * 8;
    let reply = statistician.stats_with(|room| write(&message, room).unwrap_or(size));
    let reply = reply.lent().await?;
    let message = read_message_from_flat_slice(&mut &*reply, ReaderOptions::new())?;
    let stats = message.get_root::<stats::Reader<'_>>()?;
    println!(
        "{}: mean {:.3}, largest {:.3} at {}",
        stats.get_name()?.to_str()?,
        stats.get_mean(),
        stats.get_largest(),
        stats.get_at()
    );

    match statistician.stats(b"not a message").await {
        Err(error) => println!("refused: {error}"),
        Ok(_) => println!("unexpected"),
    }
    Ok(())
}

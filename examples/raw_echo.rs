//! Bytes there and back without a codec: the handler borrows the request from the receive ring.
//!
//!     cargo run --release --example raw_echo

use slimerpc_actors::{PeerAgent, service};

struct Echo;

#[service]
impl Echo {
    /// The bytes are lent by the ring until the reply is posted (RING-1); what is returned is
    /// copied into send memory.
    #[method(raw)]
    fn echo(&mut self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = PeerAgent::builder().alias("worker:0").start().await?;
    worker.serve(Echo).await?;
    let driver = PeerAgent::builder().alias("driver:0").start().await?;
    let echo = driver.proxy::<Echo>("worker:0").await?;

    let reply = echo.echo(b"a few bytes").await?;
    println!("echo: {}", String::from_utf8_lossy(&reply));

    // The request can be written straight into registered send memory, too.
    let reply = echo.echo_with(|room| {
        room[..1000].fill(7);
        1000
    });
    println!("echo of {} bytes written in place", reply.await?.len());
    Ok(())
}

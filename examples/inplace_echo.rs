//! A handler that writes its reply where it is sent from, without a copy in between.
//!
//!     cargo run --release --example inplace_echo

use slimerpc_actors::{PeerAgent, RpcError, service};

struct Upper;

#[service]
impl Upper {
    /// From the receive ring into send memory; says how many bytes are the reply.
    #[method(raw, inplace)]
    fn upper(&mut self, request: &[u8], reply: &mut [u8]) -> usize {
        for (to, from) in reply.iter_mut().zip(request) {
            *to = from.to_ascii_uppercase();
        }
        request.len()
    }

    /// The request itself becomes the reply, where it stands in the receive ring.
    #[method(raw, inplace)]
    fn lower(&mut self, bytes: &mut [u8]) -> usize {
        bytes.make_ascii_lowercase();
        bytes.len()
    }

    /// Claims more than there is room for, which is an error and not a truncation.
    #[method(raw, inplace)]
    fn boasts(&mut self, _request: &[u8], reply: &mut [u8]) -> usize {
        reply.len() + 1
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = PeerAgent::builder().alias("worker:0").start().await?;
    worker.serve(Upper).await?;
    let driver = PeerAgent::builder().alias("driver:0").start().await?;
    let upper = driver.proxy::<Upper>("worker:0").await?;

    let reply = upper.upper(b"written in place").await?;
    println!("{}", String::from_utf8_lossy(&reply));
    let reply = upper.lower(&reply).await?;
    println!("{}", String::from_utf8_lossy(&reply));

    match upper.boasts(b"").await {
        Err(error @ RpcError::ReplyTooLarge { .. }) => println!("refused: {error}"),
        other => println!("unexpected: {other:?}"),
    }
    Ok(())
}

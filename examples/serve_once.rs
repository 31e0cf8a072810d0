//! A program that serves when it has time: one request between two pieces of its own work, with
//! state that it keeps.
//!
//!     cargo run --release --example serve_once

use slimerpc_actors::{PeerAgent, Proxy, RpcError, service};

/// The best guess so far at the square root of 2.
struct Newton {
    guess: f64,
    asked: u32,
}

#[service]
impl Newton {
    #[method]
    fn guess(&mut self) -> f64 {
        self.asked += 1;
        self.guess
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = PeerAgent::builder().alias("worker:0").start().await?;
    let driver = PeerAgent::builder().alias("driver:0").start().await?;
    let driven = actix::spawn(async move {
        // Waits until the service is there.
        let newton = driver.proxy::<Newton>("worker:0").await?;
        ask(&newton)
            .await
            .map_err(Box::<dyn std::error::Error>::from)
    });

    let mut newton = Newton {
        guess: 1.0,
        asked: 0,
    };
    for _ in 0..5 {
        newton.guess = (newton.guess + 2.0 / newton.guess) / 2.0;
        worker.serve_once(&mut newton).await?;
    }
    driven.await??;
    println!(
        "asked {} times, {:.12} in the end",
        newton.asked, newton.guess
    );
    Ok(())
}

async fn ask(newton: &Proxy<Newton>) -> Result<(), RpcError> {
    for _ in 0..5 {
        println!("{:.12}", newton.guess().await?);
    }
    Ok(())
}

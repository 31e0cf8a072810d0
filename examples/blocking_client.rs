//! Calls from plain threads: no async runtime, no actix system.
//!
//!     cargo run --release --example blocking_client

use std::thread;
use std::time::Duration;

use futures_executor::block_on;
use slimerpc_actors::{PeerAgent, service};

#[derive(Default)]
struct Counter {
    total: u64,
}

#[service]
impl Counter {
    #[method]
    fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Agents run on threads of their own; any executor can await what they are asked.
    let worker = block_on(PeerAgent::builder().alias("worker:0").start())?;
    block_on(worker.serve(Counter::default()).into_future())?;
    let driver = block_on(PeerAgent::builder().alias("driver:0").start())?;
    let counter = block_on(driver.proxy::<Counter>("worker:0"))?;

    // Proxies are `Clone` and `Send`. `wait` polls the ring for a short while, then the thread
    // sleeps.
    thread::scope(|scope| {
        for _ in 0..4 {
            let counter = counter.clone();
            scope.spawn(move || {
                for _ in 0..1000 {
                    counter.add(1).wait().expect("the worker answers");
                }
            });
        }
    });
    let total = counter.add(0).wait_timeout(Duration::from_secs(1))?;
    println!("4 threads x 1000 calls: {total}");
    assert_eq!(total, 4000);

    block_on(driver.shutdown())?;
    block_on(worker.shutdown())?;
    Ok(())
}

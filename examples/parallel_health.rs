//! A health check that answers while a model step keeps the service busy.
//!
//!     cargo run --release --example parallel_health

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use slimerpc_actors::{PeerAgent, Share, service};

/// What the model's steps and its health checks both see: the compiler lets it be `Sync` data only.
#[derive(Default)]
struct Vitals {
    layers_done: AtomicU32,
}

#[derive(Default)]
struct Model {
    steps: u32,
    vitals: Arc<Vitals>,
}

impl Share for Model {
    type Shared = Vitals;

    fn share(&self) -> Arc<Vitals> {
        self.vitals.clone()
    }
}

#[service]
impl Model {
    /// Has the model, and its thread, for half a second.
    #[method]
    fn step(&mut self) -> u32 {
        for _ in 0..10 {
            sleep(Duration::from_millis(50));
            self.vitals.layers_done.fetch_add(1, Ordering::Relaxed);
        }
        self.steps += 1;
        self.steps
    }

    /// Runs beside that, on a thread of the service's pool.
    #[method(parallel)]
    fn health(vitals: &Vitals) -> u32 {
        vitals.layers_done.load(Ordering::Relaxed)
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = PeerAgent::builder().alias("worker:0").start().await?;
    worker.serve(Model::default()).workers(2).await?;
    let driver = PeerAgent::builder().alias("driver:0").start().await?;
    let model = driver.proxy::<Model>("worker:0").await?;

    let mut step = std::pin::pin!(model.step());
    loop {
        tokio::select! {
            steps = &mut step => {
                println!("step {} is done", steps?);
                return Ok(());
            }
            () = tokio::time::sleep(Duration::from_millis(120)) => {
                let asked = Instant::now();
                let layers = model.health().await?;
                println!("busy: {layers} layers done, says health() after {:?}", asked.elapsed());
            }
        }
    }
}

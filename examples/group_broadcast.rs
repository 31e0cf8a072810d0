//! One message to a group of workers, and a part of the work to each.
//!
//!     cargo run --release --example group_broadcast

use std::time::Duration;

use slimerpc_actors::{Group, PeerAgent, service};

/// Holds the weights of a linear model.
#[derive(Default)]
struct Worker {
    weights: Vec<f64>,
}

#[service]
impl Worker {
    #[method]
    fn load(&mut self, weights: Vec<f64>) -> usize {
        self.weights = weights;
        self.weights.len()
    }

    /// The sum of squared errors over a part of the samples: y = 2 x + 1.
    #[method]
    fn loss(&mut self, xs: Vec<f64>) -> Result<f64, String> {
        let [slope, offset] = self.weights[..] else {
            return Err("no weights yet".to_owned());
        };
        let error = |x: &f64| slope * x + offset - (2.0 * x + 1.0);
        Ok(xs.iter().map(|x| error(x).powi(2)).sum())
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let driver = PeerAgent::builder().alias("driver:0").start().await?;
    let (mut agents, mut workers) = (Vec::new(), Vec::new());
    for rank in 0..4 {
        let worker = PeerAgent::builder()
            .alias(format!("worker:{rank}"))
            .start()
            .await?;
        worker.serve(Worker::default()).await?;
        workers.push(driver.proxy::<Worker>(worker.alias()).await?);
        agents.push(worker);
    }
    let workers = Group::new(workers)?.with_timeout(Duration::from_secs(5));

    let part = |rank: usize| (0..25).map(move |n| (rank * 25 + n) as f64 / 100.0);
    let parts = || {
        (0..4).map(|rank| Loss {
            xs: part(rank).collect(),
        })
    };
    if let Err(error) = workers.scatter(parts())?.await {
        println!("too early: {error}");
    }
    for weights in [vec![0.0, 0.0], vec![1.9, 1.1], vec![2.0, 1.0]] {
        println!(
            "weights {weights:?} go to {} workers",
            workers.members().len()
        );
        workers.broadcast(Load { weights }).await?;
        let losses = workers.scatter(parts())?.await?;
        println!(
            "  losses by rank {losses:.3?}, together {:.3}",
            losses.iter().sum::<f64>()
        );
    }
    Ok(())
}

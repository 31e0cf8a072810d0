//! Finds services without knowing which agents serve them: a driver that uses whatever workers
//! there are.
//!
//!     cargo run --release --example discover
//!     # Follows the workers of a NanoCtrl:
//!     cargo run --release --example discover -- --ctrl host

use slimerpc_actors::{PeerAgent, ServiceChange, service};

#[derive(Default)]
struct Summer {
    calls: u32,
}

#[service]
impl Summer {
    #[method]
    fn sum(&mut self, numbers: Vec<f64>) -> f64 {
        self.calls += 1;
        numbers.iter().sum()
    }

    #[method]
    fn calls(&mut self) -> u32 {
        self.calls
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[actix::main]
async fn main() -> Outcome {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match &*arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        [] => here().await,
        ["--ctrl", control] => follow(control).await,
        _ => Err("usage: discover [--ctrl URL|host]".into()),
    }
}

/// Workers that come and go, in this process.
async fn here() -> Outcome {
    let driver = PeerAgent::builder().alias("driver:0").start().await?;
    let mut changes = driver.watch_services::<Summer>().await?;

    let mut workers = Vec::new();
    for rank in [10, 9, 1] {
        let alias = format!("worker:{rank}");
        let worker = PeerAgent::builder().alias(alias).start().await?;
        worker.serve(Summer::default()).await?;
        workers.push(worker);
        print(&changes.next().await.ok_or("the driver has left")?);
    }
    let found = driver.discover::<Summer>().await?;
    for service in &found {
        println!("found {service} with {:?}", service.methods());
    }

    // One of them, whichever; all of them, in an order that stays.
    let any = driver.proxy_any::<Summer>().await?;
    println!("one says {}", any.sum(vec![1.0, 2.0, 3.5]).await?);
    let all = driver.group_of::<Summer>().await?;
    let parts = (1..=all.members().len()).map(|rank| Sum {
        numbers: vec![rank as f64; 4],
    });
    println!("all say {:?}", all.scatter(parts)?.await?);
    println!("calls by rank {:?}", all.broadcast(Calls).await?);

    for worker in workers {
        worker.shutdown().await?;
        print(&changes.next().await.ok_or("the driver has left")?);
    }
    match driver.discover::<Summer>().await?.len() {
        0 => println!("nobody is left"),
        left => println!("{left} are left"),
    }
    Ok(())
}

/// Those of other processes, for as long as this runs.
async fn follow(control: &str) -> Outcome {
    let agent = PeerAgent::builder().control(control).start().await?;
    let mut changes = agent.watch_services::<Summer>().await?;
    while let Some(change) = changes.next().await {
        print(&change);
    }
    Ok(())
}

fn print(change: &ServiceChange) {
    match change {
        ServiceChange::Added(service) => println!("+ {service}"),
        ServiceChange::Removed(service) => println!("- {service}"),
        ServiceChange::Changed { is, .. } => println!("~ {is}"),
    }
}

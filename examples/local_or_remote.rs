//! Code that works wherever an actor runs: a cache that is called here, and by another agent.
//!
//!     cargo run --release --example local_or_remote

use std::collections::HashMap;
use std::time::Instant;

use slimerpc_actors::{PeerAgent, Proxy, RpcError, service};

#[derive(Default)]
struct Cache {
    entries: HashMap<String, u64>,
}

#[service]
impl Cache {
    #[method]
    fn put(&mut self, key: String, value: u64) -> Option<u64> {
        self.entries.insert(key, value)
    }

    #[method]
    fn get(&mut self, key: String) -> Option<u64> {
        self.entries.get(&key).copied()
    }
}

/// Takes any `Proxy<Cache>`.
async fn count_words(cache: &Proxy<Cache>, text: &str) -> Result<(), RpcError> {
    for word in text.split_whitespace() {
        let count = cache.get(word.to_owned()).await?.unwrap_or_default();
        cache.put(word.to_owned(), count + 1).await?;
    }
    Ok(())
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = PeerAgent::builder().alias("worker:0").start().await?;
    worker.serve(Cache::default()).await?;
    let driver = PeerAgent::builder().alias("driver:0").start().await?;

    let text = "the actor does not care where the actor lives";
    for agent in [&worker, &driver] {
        let cache = agent.proxy::<Cache>("worker:0").await?;
        let started = Instant::now();
        count_words(&cache, text).await?;
        let way = if cache.is_local() {
            "in its own service"
        } else {
            "in another agent's service"
        };
        println!("{} counted {way} in {:?}", agent.alias(), started.elapsed());
    }
    let cache = worker.proxy::<Cache>("worker:0").await?;
    println!(
        "the: {:?}, actor: {:?}",
        cache.get("the".into()).await?,
        cache.get("actor".into()).await?
    );
    Ok(())
}

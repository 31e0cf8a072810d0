//! The halves of a test on two hosts, each a process on one of them: `tests/soft_roce/two` runs
//! them in two guests with a wire between.
#![allow(clippy::unwrap_used)]

use std::env;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use slimerpc_actors::{AgentEvent, Builder, PeerAgent, RpcError, service};
use tokio::time::sleep;

const LEN: usize = 4096;

struct Bytes;

#[service]
impl Bytes {
    #[method]
    fn reversed(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.reverse();
        bytes
    }
}

/// The settings come from the environment.
fn agent(alias: &str) -> Builder {
    PeerAgent::builder().alias(alias)
}

#[actix::test]
#[ignore = "half of a test: tests/soft_roce/two"]
async fn worker() {
    let worker = agent("worker").start().await.unwrap();
    worker.serve(Bytes).await.unwrap();
    println!("serves");
    std::future::pending().await
}

/// Calls the worker one call after the other, whatever happens to the wire, for as many seconds as
/// `SLIME_TEST_SECONDS` says, or until the worker is lost if that is 0.
#[actix::test]
#[ignore = "half of a test: tests/soft_roce/two"]
async fn driver() {
    let seconds: u64 = env::var("SLIME_TEST_SECONDS").unwrap().parse().unwrap();
    let driver = agent("driver").start().await.unwrap();
    let mut events = driver.events();
    let worker = driver.proxy::<Bytes>("worker").await.unwrap();
    let message: Vec<u8> = (0..LEN).map(|at| (at * 31) as u8).collect();
    let started = Instant::now();
    let (mut answered, mut lost, mut last) = (0, 0, started);
    while seconds == 0 || started.elapsed() < Duration::from_secs(seconds) {
        match worker.reversed(message.clone()).await {
            Ok(answer) => {
                assert!(answer.iter().eq(message.iter().rev()));
                (answered, last) = (answered + 1, Instant::now());
                if answered == 20 {
                    println!("calling");
                }
            }
            Err(RpcError::PeerLost { cause, .. }) if seconds == 0 => {
                println!("lost after {} ms: {cause}", last.elapsed().as_millis());
                return;
            }
            Err(RpcError::PeerLost { .. }) => {
                lost += 1;
                sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    while let Some(Some(AgentEvent::FabricChanged {
        from, to, cause, ..
    })) = events.next().now_or_never()
    {
        println!("changed from {from} to {to}: {cause}");
    }
    let link = worker.channel().unwrap().link().unwrap();
    println!("answered {answered}, lost {lost}, over {link}");
    driver.shutdown().await.unwrap();
}

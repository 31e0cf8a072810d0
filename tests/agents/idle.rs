//! What connections that nobody uses cost, over shared memory. Alone in its process, whose memory
//! is counted.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use slimerpc::channel::RegisteredMemory;
use slimerpc_actors::{PeerAgent, service};
use support::alone::is_alone;

const CONNECTIONS: usize = 20;
const KIB: usize = 1 << 10;

#[derive(Default)]
struct Idler;

#[service]
impl Idler {
    #[method]
    fn nothing(&mut self) {}
}

/// Bytes of shared memory, which is what shm devices register, each range of a file counted once.
fn shared_memory() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut ranges = HashMap::new();
    for line in maps.lines().filter(|line| line.contains("/memfd:")) {
        let mut words = line.split_whitespace();
        let (from, to) = words.next().unwrap().split_once('-').unwrap();
        let address = |text| usize::from_str_radix(text, 16).unwrap();
        let (offset, inode) = (words.nth(1).unwrap(), words.nth(1).unwrap());
        let range = (inode.to_owned(), offset.to_owned());
        ranges.insert(range, address(to) - address(from));
    }
    ranges.values().sum()
}

#[actix::test]
async fn an_idle_connection_registers_at_most_64_kib_at_each_end() {
    if !is_alone(
        module_path!(),
        "an_idle_connection_registers_at_most_64_kib_at_each_end",
    ) {
        return;
    }
    let worker = PeerAgent::builder()
        .alias("idle:worker")
        .start()
        .await
        .unwrap();
    worker.serve(Idler).await.unwrap();
    let driver = PeerAgent::builder()
        .alias("idle:driver")
        .start()
        .await
        .unwrap();
    let first = driver.proxy::<Idler>("idle:worker").await.unwrap();
    first.nothing().await.unwrap();

    let (before, registered) = (shared_memory(), RegisteredMemory::now().bytes);
    let mut proxies = Vec::new();
    for _ in 0..CONNECTIONS {
        proxies.push(driver.proxy::<Idler>("idle:worker").await.unwrap());
    }
    let each = (shared_memory() - before) / CONNECTIONS;
    // Both ends are here.
    let registered = RegisteredMemory::now().bytes - registered;
    let registered = registered as usize / CONNECTIONS / 2;
    assert!(
        registered > 32 * KIB && each > registered,
        "rings are somewhere: {each} bytes a connection"
    );
    assert!(registered <= 64 * KIB, "{registered} bytes at each end");
    // Beside the rings there are the receive queues, which hold no payload.
    assert!(each <= (128 + 128) * KIB, "{each} bytes a connection");
}

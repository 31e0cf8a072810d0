//! What connections that nobody uses cost, over shared memory. Alone in its process, whose memory
//! is counted.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use slimerpc_actors::{PeerAgent, service};
use support::alone::is_alone;

const CONNECTIONS: usize = 20;
const MIB: usize = 1 << 20;

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
async fn an_idle_connection_takes_at_most_a_mebibyte_at_each_end() {
    if !is_alone(
        module_path!(),
        "an_idle_connection_takes_at_most_a_mebibyte_at_each_end",
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

    let before = shared_memory();
    let mut proxies = Vec::new();
    for _ in 0..CONNECTIONS {
        proxies.push(driver.proxy::<Idler>("idle:worker").await.unwrap());
    }
    let each = (shared_memory() - before) / CONNECTIONS;
    assert!(
        each > MIB / 2,
        "rings are somewhere: {each} bytes a connection"
    );
    // Both ends are here. Beside the rings, of 1 MiB at each end, there are the receive queues,
    // which hold no payload.
    let queues = 128 * 1024;
    assert!(each <= 2 * MIB + queues, "{each} bytes a connection");
}

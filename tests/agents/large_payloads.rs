//! Payloads beyond a slot: both directions, several at once, beside small calls, and what goes
//! wrong. Over shared memory, or the device that `SLIME_TEST_DEVICE` names.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use slimerpc_actors::{
    Builder, Limits, PeerAgent, Proxy, Ran, RpcError, ServiceHandle, Share, service, wait_all,
};
use support::{Tally, credits_are_back, joined, unique, until};
use tokio::time::sleep;

const LONG: Duration = Duration::from_secs(120);
const SLOT_SIZE: usize = 4096;
const SLOTS: usize = 4;
const MIB: usize = 1 << 20;

#[derive(Default)]
struct Store {
    total: u64,
    /// Handlers of `later`.
    begun: Tally,
    dropped: Tally,
}

impl Share for Store {
    type Shared = ();

    fn share(&self) -> Arc<()> {
        Arc::default()
    }
}

#[service]
impl Store {
    #[method(raw)]
    fn echo(&mut self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method(raw)]
    fn sum(&mut self, request: &[u8]) -> [u8; 8] {
        sum(request).to_le_bytes()
    }

    #[method(raw)]
    async fn later(&mut self, request: &[u8]) -> Vec<u8> {
        let _guard = self.dropped.on_drop();
        self.begun.up();
        sleep(Duration::from_millis(500)).await;
        request.to_vec()
    }

    #[method(raw, inplace)]
    fn first(&mut self, request: &[u8], reply: &mut [u8]) -> usize {
        reply[..8].copy_from_slice(&request[..8]);
        8
    }

    #[method(raw, parallel)]
    fn parallel_echo(_shared: &(), request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method]
    fn reversed(&mut self, mut values: Vec<u32>) -> Vec<u32> {
        values.reverse();
        values
    }

    #[method]
    fn small(&mut self, n: u64) -> u64 {
        n + 1
    }

    #[method]
    fn text(&mut self, len: usize) -> Result<String, String> {
        if len == 0 {
            Err("e".repeat(9000))
        } else {
            Ok("t".repeat(len))
        }
    }

    #[method(oneway)]
    fn add(&mut self, values: Vec<u64>) {
        self.total += values.iter().sum::<u64>();
    }

    #[method]
    fn total(&mut self) -> u64 {
        self.total
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|&byte| u64::from(byte)).sum()
}

/// Bytes that are wrong at every place but their own.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at * 7 + at / 251 + seed) as u8)
        .collect()
}

fn agent(role: &str) -> Builder {
    support::agent(unique(role)).limits(
        Limits::default()
            .slot_size(SLOT_SIZE)
            .max_inflight(SLOTS)
            .max_payload(64 * MIB),
    )
}

struct Pair {
    worker: PeerAgent,
    driver: PeerAgent,
    service: ServiceHandle,
    store: Proxy<Store>,
    begun: Tally,
    dropped: Tally,
}

async fn pair() -> Pair {
    pair_of(agent("worker"), agent("driver")).await
}

async fn pair_of(worker: Builder, driver: Builder) -> Pair {
    let (worker, driver) = (worker.start().await.unwrap(), driver.start().await.unwrap());
    let state = Store::default();
    let (begun, dropped) = (state.begun.clone(), state.dropped.clone());
    let service = worker.serve(state).await.unwrap();
    let store = driver.proxy(worker.alias()).await.unwrap();
    Pair {
        worker,
        driver,
        service,
        store,
        begun,
        dropped,
    }
}

impl Pair {
    /// SLOT-2, and no memory is lent any more.
    async fn accounts_are_back(&self) {
        let are_back = || self.worker.memory().lent + self.driver.memory().lent == 0;
        let hasty = self.store.with_timeout(Duration::from_millis(100));
        let call = async || {
            drop(hasty.small(1).await);
            drop(hasty.parallel_echo(b"").await);
        };
        credits_are_back(LONG, &self.store, call).await;
        until("no memory is lent", are_back).await;
    }
}

#[actix::test]
async fn payloads_of_every_size_come_back_as_they_were() {
    let pair = pair().await;
    let limit = SLOT_SIZE - 16;
    for len in [
        limit - 1,
        limit,
        limit + 1,
        65_536,
        262_144,
        262_145,
        MIB + 3,
        5 * MIB,
    ] {
        let bytes = pattern(len, len);
        assert_eq!(pair.store.echo(&bytes).await.unwrap(), bytes, "{len}");
        assert_eq!(*pair.store.echo(&bytes).lent().await.unwrap(), bytes);
        assert_eq!(pair.store.parallel_echo(&bytes).await.unwrap(), bytes);
        let filled = pair.store.sum_with(|room| {
            if let Some(room) = room.get_mut(..len) {
                room.copy_from_slice(&bytes);
            }
            len
        });
        assert_eq!(filled.await.unwrap(), sum(&bytes).to_le_bytes());
        assert_eq!(pair.store.first(&bytes).await.unwrap(), bytes[..8]);
        let values: Vec<u32> = (0..len as u32 / 4).collect();
        let reversed: Vec<u32> = values.iter().rev().copied().collect();
        assert_eq!(pair.store.reversed(values).await.unwrap(), reversed);
        assert_eq!(pair.store.text(len).await.unwrap().len(), len);
    }
    pair.accounts_are_back().await;
    assert!(pair.worker.memory().idle > 0, "and kept for the next");
}

#[actix::test]
async fn several_at_once_and_small_calls_among_them() {
    let pair = pair().await;
    let (mut large, mut small) = (Vec::new(), Vec::new());
    for n in 0..24 {
        let bytes = pattern(MIB + n * 1000, n);
        // Somebody awaits it: an answer takes up its credit until then.
        large.push((actix::spawn(pair.store.echo(&bytes).timeout(LONG)), bytes));
        small.push(pair.store.small(n as u64));
    }
    assert_eq!(wait_all(small, LONG).await, Ok((1..=24).collect()));
    for (reply, bytes) in large {
        assert!(reply.await.unwrap().unwrap() == bytes);
    }
    pair.accounts_are_back().await;
}

#[actix::test]
async fn small_calls_do_not_wait_for_a_large_one() {
    let pair = pair().await;
    let bytes = pattern(64 * MIB, 1);
    let large = pair.store.sum(&bytes);
    let mut calls = 0;
    // Nobody polls the large one yet, but the channel is polled for the small ones.
    while calls < 20 {
        calls = pair.store.small(calls).timeout(LONG).await.unwrap();
    }
    assert_eq!(large.await.unwrap(), sum(&bytes).to_le_bytes());
    pair.accounts_are_back().await;
}

#[actix::test]
async fn threads_without_a_runtime_call_with_large_payloads() {
    let pair = pair().await;
    let store = pair.store.clone();
    let bytes = pattern(3 * MIB, 3);
    let echoed = std::thread::spawn(move || {
        let echoed = store.echo(&bytes).wait().unwrap();
        echoed == bytes
    });
    assert!(joined(echoed).await);
    pair.accounts_are_back().await;
}

#[actix::test]
async fn large_calls_wait_for_a_credit_like_others_and_oneway_ones_arrive() {
    let pair = pair().await;
    let blocks: Vec<_> = (0..SLOTS).map(|_| pair.store.later(b"x")).collect();
    let values: Vec<u64> = (0..10_000).collect();
    let waits: Vec<_> = (0..SLOTS)
        .map(|n| pair.store.echo(&pattern(MIB, n)))
        .collect();
    wait_all(blocks, LONG).await.unwrap();
    for (n, reply) in waits.into_iter().enumerate() {
        assert!(reply.await.unwrap() == pattern(MIB, n));
    }
    pair.store.add(values.clone()).await.unwrap();
    let total: u64 = values.iter().sum();
    let started = Instant::now();
    while pair.store.total().await.unwrap() != total {
        assert!(started.elapsed() < LONG);
    }
    pair.accounts_are_back().await;
}

#[actix::test]
async fn what_is_cancelled_or_late_gives_its_memory_back() {
    let pair = pair().await;
    let bytes = pattern(16 * MIB, 5);
    for round in 0..20 {
        // Dropped while it is being read there, handled, or read here.
        drop(pair.store.echo(&bytes));
        let echo = pair.store.echo(&bytes);
        let later = pair.store.later(&bytes);
        let _ = tokio::time::timeout(Duration::from_millis(round), async {
            tokio::join!(echo, later)
        })
        .await;
        let hasty = pair.store.with_timeout(Duration::from_millis(round + 1));
        let _ = hasty.echo(&bytes).await;
        assert_eq!(pair.store.small(round).timeout(LONG).await, Ok(round + 1));
    }
    // Until one is dropped while it is handled: how long a payload takes to get there depends on
    // the device.
    let (started, mut patience) = (Instant::now(), Duration::ZERO);
    while pair.dropped.get() == 0 {
        assert!(started.elapsed() < LONG, "no handler was dropped");
        patience = patience * 3 / 2 + Duration::from_millis(20);
        let later = pair.store.later(&bytes);
        let _ = tokio::time::timeout(patience, later).await;
    }
    pair.accounts_are_back().await;
}

#[actix::test]
async fn a_payload_over_the_limit_of_either_side_is_refused() {
    let small = || agent("x").limits(Limits::default().max_payload(100_000));
    let pair = pair_of(agent("worker"), small()).await;
    let error = pair.store.echo(&[0; 100_001]).await.unwrap_err();
    let limit = 100_000;
    assert_eq!(
        error,
        RpcError::TooLarge {
            size: 100_001,
            limit
        }
    );
    let error = pair.store.text(200_000).await.unwrap_err();
    assert!(
        matches!(error, RpcError::NoMemory { ran: Ran::Yes, .. }),
        "{error}"
    );
    pair.accounts_are_back().await;

    let pair = pair_of(small(), agent("driver")).await;
    let error = pair.store.echo(&[0; 100_001]).await.unwrap_err();
    assert_eq!(
        error,
        RpcError::TooLarge {
            size: 100_001,
            limit
        }
    );
    assert_eq!(error.ran(), Ran::No);
    let error = pair.store.text(200_000).await.unwrap_err();
    assert!(
        matches!(error, RpcError::ReplyTooLarge { limit: 100_000, .. }),
        "{error}"
    );
    // Texts of errors are shortened, as they always were.
    let error = pair.store.text(0).await.unwrap_err();
    assert!(matches!(error, RpcError::Remote { .. }), "{error}");
    pair.accounts_are_back().await;
}

#[actix::test]
async fn memory_that_is_spent_is_a_typed_error_and_comes_back() {
    let scarce = agent("worker").limits(Limits::default().payload_memory(4 * MIB));
    let pair = pair_of(
        scarce,
        agent("driver").limits(Limits::default().payload_memory(6 * MIB)),
    )
    .await;
    let bytes = pattern(2 * MIB, 2);
    let calls: Vec<_> = (0..4).map(|_| pair.store.later(&bytes)).collect();
    let mut refused = 0;
    for call in calls {
        match call.timeout(LONG).await {
            Ok(echoed) => assert!(echoed == bytes),
            Err(RpcError::NoMemory { size, .. }) => {
                assert_eq!(size, bytes.len());
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0, "6 MiB for 4 requests of 2 MiB");
    assert!(pair.store.echo(&bytes).await.unwrap() == bytes);
    pair.accounts_are_back().await;
}

/// What was agreed on is there, also before the rings have grown to it.
#[actix::test]
async fn messages_that_fit_a_slot_need_no_payload_memory() {
    let slot = 32 << 10;
    let limits = || {
        let limits = Limits::default().slot_size(slot).max_inflight(SLOTS);
        limits.max_payload(slot - 16).payload_memory(0)
    };
    for len in [10_000, slot - 64] {
        let side = |role: &str| support::agent(unique(role)).limits(limits());
        let pair = pair_of(side("worker"), side("driver")).await;
        let bytes = pattern(len, 5);
        // Most of them wait for a credit.
        let calls: Vec<_> = (0..10 * SLOTS).map(|_| pair.store.echo(&bytes)).collect();
        for echoed in wait_all(calls, LONG).await.unwrap() {
            assert!(echoed == bytes);
        }
        assert_eq!(pair.store.first(&bytes).await.unwrap(), &bytes[..8]);
        let error = pair.store.echo(&pattern(2 * slot, 5)).await.unwrap_err();
        assert!(matches!(error, RpcError::TooLarge { .. }), "{error}");
        pair.accounts_are_back().await;
    }
}

#[actix::test]
async fn a_peer_that_leaves_in_the_middle_gives_all_memory_back() {
    for side in [0, 1] {
        let pair = pair().await;
        let bytes = pattern(32 * MIB, 9);
        let echo = pair.store.echo(&bytes);
        let waiting = actix::spawn(echo.timeout(LONG));
        until("the worker fetches the payload", || {
            pair.worker.memory().lent > 0 || waiting.is_finished()
        })
        .await;
        let leaving = if side == 0 {
            &pair.worker
        } else {
            &pair.driver
        };
        leaving.shutdown().await.unwrap();
        if let Err(error) = waiting.await.unwrap() {
            assert!(matches!(error, RpcError::PeerLost { .. }), "{error}");
        }
        until("no memory is lent", || {
            pair.worker.memory().lent + pair.driver.memory().lent == 0
        })
        .await;
    }
}

#[actix::test]
async fn stop_waits_until_large_answers_have_been_read() {
    let pair = pair().await;
    let bytes = pattern(16 * MIB, 4);
    let later = actix::spawn(pair.store.later(&bytes).timeout(LONG));
    pair.begun.reaches(1).await;
    pair.service.stop().await.unwrap();
    assert!(later.await.unwrap().unwrap() == bytes);
}

//! Raw methods that turn a request into its reply where it stands: in the ring, or in the memory
//! that it was read into.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use slimerpc_actors::{Limits, PeerAgent, Proxy, RpcError, Share, service, wait_all};
use support::until;

/// Bytes of a slot here, of which the header takes 16.
const SLOT: usize = 4096;
const MAX: usize = SLOT - 16;
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Cipher {
    keys: Arc<Keys>,
}

/// What is to be added to each byte.
struct Keys(u8);

impl Default for Keys {
    fn default() -> Self {
        Self(13)
    }
}

impl Share for Cipher {
    type Shared = Keys;

    fn share(&self) -> Arc<Keys> {
        self.keys.clone()
    }
}

fn add(key: u8, bytes: &mut [u8]) -> usize {
    bytes
        .iter_mut()
        .for_each(|byte| *byte = byte.wrapping_add(key));
    bytes.len()
}

#[service]
impl Cipher {
    #[method(raw, inplace)]
    fn serial(&mut self, bytes: &mut [u8]) -> usize {
        add(self.keys.0, bytes)
    }

    #[method(raw, inplace)]
    async fn later(&self, bytes: &mut [u8]) -> usize {
        tokio::task::yield_now().await;
        add(self.keys.0, bytes)
    }

    #[method(parallel, raw, inplace)]
    fn beside(keys: &Keys, bytes: &mut [u8]) -> usize {
        add(keys.0, bytes)
    }

    /// The first half of what came.
    #[method(raw, inplace)]
    fn half(&mut self, bytes: &mut [u8]) -> Result<usize, String> {
        let half = bytes.len() / 2;
        if half == 0 {
            return Err(format!("{} bytes have no half", bytes.len()));
        }
        Ok(add(self.keys.0, &mut bytes[..half]))
    }

    #[method(raw, inplace)]
    fn nothing(&mut self, _bytes: &mut [u8]) -> usize {
        0
    }

    /// Claims more than there is.
    #[method(raw, inplace)]
    fn boast(&mut self, bytes: &mut [u8]) -> usize {
        bytes.len() + 1
    }

    /// Panics when half of its work is done.
    #[method(raw, inplace)]
    fn give_up(&mut self, bytes: &mut [u8]) -> usize {
        bytes.fill(0);
        panic!("of {} bytes", bytes.len())
    }
}

fn request(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + seed) as u8).collect()
}

fn added(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte.wrapping_add(13)).collect()
}

/// Of an agent in front of a service of another, or of its own.
async fn pair(name: &str, is_local: bool) -> (Proxy<Cipher>, [PeerAgent; 2]) {
    let agent = |role| {
        support::agent(format!("{role}-{name}:0"))
            .limits(Limits::default().slot_size(SLOT).max_inflight(4))
    };
    let worker = agent("worker").start().await.unwrap();
    worker.serve(Cipher::default()).await.unwrap();
    let driver = agent("driver").start().await.unwrap();
    let caller = if is_local { &worker } else { &driver };
    let proxy = caller.proxy(worker.alias()).await.unwrap();
    (proxy, [driver, worker])
}

async fn end(agents: [PeerAgent; 2]) {
    for agent in agents {
        agent.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn ring_1_a_request_becomes_its_reply_whatever_its_size() {
    for is_local in [false, true] {
        let (cipher, agents) = pair("sizes", is_local).await;
        // Around what is sent inline, what fits a slot with and without a deadline, and what is
        // read.
        for size in [
            0,
            1,
            8,
            203,
            204,
            205,
            221,
            MAX - 20,
            MAX - 1,
            MAX,
            MAX + 1,
            3 * SLOT,
            1 << 20,
        ] {
            let bytes = request(size, size);
            for cipher in [&cipher, &cipher.with_timeout(LONG)] {
                let replies = [
                    cipher.serial(&bytes),
                    cipher.later(&bytes),
                    cipher.beside(&bytes),
                ];
                for reply in wait_all(replies, LONG).await.unwrap() {
                    assert!(reply == added(&bytes), "{size} bytes");
                }
                let lent = cipher.serial(&bytes).lent().await.unwrap();
                assert!(*lent == added(&bytes), "{size} bytes");
            }
        }
        end(agents).await;
    }
}

#[actix::test]
async fn a_reply_may_be_shorter_than_its_request_but_not_longer() {
    for is_local in [false, true] {
        let (cipher, agents) = pair("shorter", is_local).await;
        for size in [2, 100, MAX, 3 * SLOT, 1 << 20] {
            let bytes = request(size, 1);
            let half = cipher.half(&bytes).await.unwrap();
            assert_eq!(half, added(&bytes[..size / 2]), "{size}");
            for _ in 0..10 {
                let nothing = cipher.nothing(&bytes).timeout(LONG);
                assert_eq!(nothing.await.unwrap(), b"", "{size}");
            }
            let error = cipher.boast(&bytes).await.unwrap_err();
            let (claimed, there) = (size as u64 + 1, size as u64);
            assert!(
                matches!(error, RpcError::ReplyTooLarge { size, limit } if (size, limit) == (claimed, there)),
                "{error:?}"
            );
        }
        let error = cipher.half(&[1]).await.unwrap_err();
        assert!(
            error.to_string().contains("1 bytes have no half"),
            "{error}"
        );
        end(agents).await;
    }
}

#[actix::test]
async fn panic_1_a_request_that_was_half_rewritten_is_answered_with_the_panic() {
    let (cipher, agents) = pair("panics", false).await;
    for size in [0, 10, MAX, 3 * SLOT] {
        let error = cipher.give_up(&request(size, 2)).await.unwrap_err();
        assert!(
            error.to_string().contains(&format!("of {size} bytes")),
            "{error}"
        );
        let bytes = request(size, 3);
        assert_eq!(cipher.serial(&bytes).await.unwrap(), added(&bytes));
    }
    end(agents).await;
}

/// More than there are slots, of all kinds, again and again.
#[actix::test]
async fn slot_1_rewritten_slots_are_used_again() {
    let (cipher, agents) = pair("again", false).await;
    for round in 0..50 {
        let sizes = (0..24).map(|call| [64, 300, MAX, SLOT + 1][call % 4] + round);
        let requests: Vec<_> = sizes
            .map(|size| request(size.min(2 * SLOT), round))
            .collect();
        let replies = requests
            .iter()
            .enumerate()
            .map(|(call, bytes)| match call % 3 {
                0 => cipher.serial(bytes),
                1 => cipher.later(bytes),
                _ => cipher.beside(bytes),
            });
        let replies: Vec<_> = replies.collect();
        let replies = wait_all(replies, LONG).await.unwrap();
        for (reply, request) in replies.iter().zip(&requests) {
            assert!(*reply == added(request), "{} bytes", request.len());
        }
    }
    until("what was read goes back", || agents[1].memory().lent == 0).await;
    end(agents).await;
}

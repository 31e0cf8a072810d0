//! What a process holds is back where it was after everything that can go wrong with a call, once
//! its agents have left. Alone in its process, whose descriptors, mappings and threads are counted.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slimerpc_actors::{Limits, PeerAgent, Proxy, RpcError, Share, service};
use support::{ResourceUsage, alone::is_alone, until};

#[derive(Default)]
struct Victim;

impl Share for Victim {
    type Shared = ();

    fn share(&self) -> Arc<()> {
        Arc::default()
    }
}

/// Goes over the wire as a number, of which it takes half.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
struct Even(u64);

impl TryFrom<u64> for Even {
    type Error = String;

    fn try_from(n: u64) -> Result<Self, String> {
        let is_even = n.is_multiple_of(2);
        is_even
            .then_some(Self(n))
            .ok_or_else(|| format!("{n} is odd"))
    }
}

impl From<Even> for u64 {
    fn from(even: Even) -> Self {
        even.0
    }
}

#[service]
impl Victim {
    #[method]
    fn pick(&mut self, n: Even) -> u64 {
        n.into()
    }

    #[method]
    fn number(&mut self, n: u64) -> u64 {
        n
    }

    #[method]
    async fn never(&mut self) {
        std::future::pending::<()>().await;
    }

    #[method(parallel)]
    async fn never_either(_shared: &()) {
        std::future::pending::<()>().await;
    }

    #[method(parallel)]
    fn panics(_shared: &()) {
        panic!("as it should");
    }

    #[method]
    fn breaks(&mut self) {
        panic!("as it should");
    }

    #[method]
    fn blob(&mut self, len: usize) -> Vec<u8> {
        vec![1; len]
    }

    #[method(raw, inplace)]
    fn claims(&mut self, _request: &[u8], reply: &mut [u8]) -> usize {
        reply.len() + 1
    }

    #[method(oneway)]
    fn told(&mut self, fails: bool) -> Result<(), String> {
        if fails { Err("told".into()) } else { Ok(()) }
    }
}

/// The same service as a caller knows it who is of another version.
mod other {
    use super::service;

    pub(super) struct Victim;

    #[service]
    impl Victim {
        #[method]
        fn pick(&mut self, n: u64) -> u64 {
            n
        }

        #[method]
        fn unheard_of(&mut self) {}
    }
}

/// Everything that can go wrong with a call, in one life of two agents.
async fn life(number: usize) {
    let agent = |role| {
        let alias = format!("accounts:{role}:{number}");
        let agent = PeerAgent::builder()
            .alias(alias)
            .limits(Limits::default().slot_size(1024).max_payload(1500));
        agent.limits(Limits::default().max_inflight(4)).start()
    };
    let (worker, driver) = (
        agent("worker").await.unwrap(),
        agent("driver").await.unwrap(),
    );
    let served = worker.serve(Victim).workers(2).await.unwrap();
    let victim: Proxy<Victim> = driver.proxy(worker.alias()).await.unwrap();
    let other: Proxy<other::Victim> = driver.proxy(worker.alias()).await.unwrap();

    for round in 0..20 {
        let timely = victim.with_timeout(Duration::from_millis(1));
        assert!(matches!(
            timely.never().await,
            Err(RpcError::Timeout { .. })
        ));
        assert!(matches!(
            timely.never_either().await,
            Err(RpcError::Timeout { .. })
        ));
        assert!(victim.with_timeout(Duration::ZERO).number(1).await.is_err());
        assert_eq!(
            victim.with_timeout(Duration::MAX).number(round).await,
            Ok(round)
        );
        drop((victim.number(1), victim.blob(10_000)));
        drop((victim.never(), victim.never_either()));
        assert!(matches!(
            victim.blob(2000).await,
            Err(RpcError::ReplyTooLarge { .. })
        ));
        assert!(matches!(
            victim.claims(b"").await,
            Err(RpcError::ReplyTooLarge { .. })
        ));
        assert!(matches!(
            victim.claims(&[0; 2000]).await,
            Err(RpcError::TooLarge { .. })
        ));
        assert!(matches!(
            victim.panics().await,
            Err(RpcError::Remote { .. })
        ));
        assert!(matches!(
            victim.breaks().await,
            Err(RpcError::Remote { .. })
        ));
        assert!(matches!(
            other.pick(1).await,
            Err(RpcError::BadArguments { .. })
        ));
        assert!(other.unheard_of().await.is_err());
        victim.told(round % 2 == 0).await.unwrap();
    }
    let channels = [
        victim.channel().unwrap(),
        victim.parallel_channel().unwrap(),
        other.channel().unwrap(),
    ];
    for channel in channels {
        until("SLOT-2", || {
            channel.credits().free == channel.geometry().slots()
        })
        .await;
    }
    assert!(ResourceUsage::now().mappings > 0, "rings are counted");
    // The connections end in three ways.
    match number % 3 {
        0 => drop((victim, other)),
        1 => served.stop().await.unwrap(),
        _ => {}
    }
    driver.shutdown().await.unwrap();
    worker.shutdown().await.unwrap();
}

#[actix::test]
async fn slot_2_drop_1_accounts_are_back_after_everything_that_can_go_wrong() {
    if !is_alone(
        module_path!(),
        "slot_2_drop_1_accounts_are_back_after_everything_that_can_go_wrong",
    ) {
        return;
    }
    for number in 0..3 {
        life(number).await;
    }
    let before = ResourceUsage::settled().await;
    assert!(before.descriptors > 0 && before.threads > 0);
    for number in 3..12 {
        life(number).await;
    }
    before.is_back().await;
}

//! Those who do nothing wrong: they call the victim while it is attacked.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use slimerpc::fabric::TCP;
use slimerpc_actors::{PeerAgent, PeerEvent, Proxy, Timeouts};

use super::victim::{ALIAS, Bytes};

/// How long a call, or connecting, may take beside the attacks, on a machine that is busy with
/// them.
const PATIENCE: Duration = Duration::from_secs(30);
const LARGEST: usize = 300_000;
/// Calls between two connections that are made anew.
const CALLS: usize = 20;

/// Calls until the time is over. Says how many calls were made, how many connections, and what
/// took longest.
pub(super) fn run(seed: u64, until: Instant) {
    actix::System::new().block_on(async {
        let mut rng = fastrand::Rng::with_seed(seed);
        let steady = agent("steady").await;
        let lasting = proxy(&steady).await;
        let mut events = lasting.watch().await.unwrap();
        let (mut calls, mut connections) = (0_u64, 0_u64);
        let mut longest = [Duration::ZERO; 2];
        while Instant::now() < until {
            let began = Instant::now();
            let new = agent(&format!("new:{connections}")).await;
            let proxy = proxy(&new).await;
            call(&proxy, &mut rng).await;
            longest[1] = longest[1].max(began.elapsed());
            connections += 1;
            for _ in 0..CALLS {
                let began = Instant::now();
                call(&lasting, &mut rng).await;
                longest[0] = longest[0].max(began.elapsed());
                calls += 1;
            }
            drop(proxy);
            new.shutdown().await.unwrap();
        }
        while let Some(event) = events.next().now_or_never() {
            let is_lost = matches!(event, None | Some(PeerEvent::Lost { .. }));
            assert!(!is_lost, "{event:?}");
        }
        println!(
            "says: {calls} calls, the longest {:.2?}; {connections} connections made anew, the longest {:.2?}",
            longest[0], longest[1]
        );
    });
}

async fn agent(alias: &str) -> PeerAgent {
    let patient = Timeouts::default()
        .connect_timeout(PATIENCE)
        .call_timeout(PATIENCE);
    let builder = PeerAgent::builder().alias(alias).host().device(TCP);
    builder.timeouts(patient).start().await.unwrap()
}

async fn proxy(agent: &PeerAgent) -> Proxy<Bytes> {
    agent.proxy::<Bytes>(ALIAS).await.unwrap()
}

async fn call(proxy: &Proxy<Bytes>, rng: &mut fastrand::Rng) {
    let most = if rng.u8(..) < 32 { LARGEST } else { 2000 };
    let len = rng.usize(..most);
    let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
    let answer = proxy.reversed(bytes.clone()).await.unwrap();
    assert!(answer.iter().eq(bytes.iter().rev()), "a wrong answer");
}

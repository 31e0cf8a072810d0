//! Agents of a test.

use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use slimerpc::channel::Credits;
use slimerpc_actors::{Builder, PeerAgent, Proxy, Service};

/// Names the environment's variable for the device that agents of a test use; without it, they
/// choose.
pub const DEVICE: &str = "SLIME_TEST_DEVICE";

/// A name that begins with `role` and that nothing else in this process has.
pub fn unique(role: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{role}:{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// An agent of a test that can run on any device.
pub fn agent(alias: impl Into<String>) -> Builder {
    let builder = PeerAgent::builder().alias(alias);
    match env::var(DEVICE) {
        Ok(device) => builder.device(&device),
        Err(_) => builder,
    }
}

/// SLOT-2: waits until every slot of a proxy's channels is free. `call` makes a call on each of
/// them: answers to calls that were given up are taken in by whoever waits for another.
///
/// # Panics
/// They are not free after `limit`.
pub async fn credits_are_back<S: Service + ?Sized>(
    limit: Duration,
    proxy: &Proxy<S>,
    call: impl AsyncFn(),
) {
    let began = Instant::now();
    loop {
        call().await;
        let channels = [proxy.channel(), proxy.parallel_channel()];
        let are_back = |channel: &slimerpc_actors::ChannelView| {
            channel.credits().free == channel.geometry().slots()
        };
        if channels.iter().flatten().all(are_back) {
            return;
        }
        let credits: Vec<Credits> = channels.iter().flatten().map(|it| it.credits()).collect();
        assert!(began.elapsed() < limit, "SLOT-2: {credits:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

//! What the agent says of itself: a record in Redis, published once a period.
//!
//! A task of the supervisor's arbiter puts it together from what the supervisor knows anyway.
//! Calls take no part in it. If Redis is away, records are lost and nothing else.

mod fit;
mod log;
mod rates;
mod record;

use std::rc::Rc;
use std::time::Duration;

use slimerpc::control::obs::ObsRecord;
use tokio::time::{MissedTickBehavior, interval};

use self::fit::fitted;
use self::record::Reporter;
use super::AgentState;

pub(super) use self::log::ObsLog;

/// How long a record stays in Redis, at least: longer than it takes to be called stale.
const KEPT: Duration = Duration::from_secs(180);
/// How long the last record of an agent stays there, at least.
const LAST_KEPT: Duration = Duration::from_secs(10);
/// A record outlives this number of periods.
const PERIODS: u32 = 3;

impl AgentState {
    /// Publishes a record at once and then each period, until the agent leaves; then a last one.
    pub(super) async fn report(self: Rc<Self>, period: Duration) {
        let mut stopped = self.obs.begin();
        let mut reporter = Reporter::new(&self, period);
        let kept = (PERIODS * period).max(KEPT);
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        let done = loop {
            let tick = async {
                ticks.tick().await;
                let record = reporter.record(&self);
                self.control().report(&fitted(record), kept).await
            };
            let published = tokio::select! {
                done = &mut stopped => break done,
                published = tick => published,
            };
            match published {
                Ok(()) => is_failing = false,
                // Once, and not with every period.
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!(%error, "what this agent says of itself cannot be published; calls go on");
                }
                Err(error) => tracing::debug!(%error, "still nothing published"),
            }
        };
        let mut record = reporter.record(&self);
        record.status = Some(ObsRecord::STOPPED.to_owned());
        record.ewma_bandwidth_bps = 0.0;
        (record.nics.iter_mut()).for_each(|nic| nic.ewma_bandwidth_bps = 0.0);
        let kept = (PERIODS * period).max(LAST_KEPT);
        if let Err(error) = self.control().report(&fitted(record), kept).await {
            tracing::debug!(%error, "the last record was not published");
        }
        if let Ok(done) = done {
            // The agent may have left without waiting.
            let _ = done.send(());
        }
    }
}

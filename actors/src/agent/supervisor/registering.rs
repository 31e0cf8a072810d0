//! Registers the agent, possibly under the alias of an agent that has died.

use std::time::{Duration, Instant};

use slimerpc::backoff::Backoff;
use slimerpc::control::ControlError;
use tokio::time::sleep;

use crate::agent::builder::Settings;

/// Pauses between checks whether the alias is free.
const BACKOFF: Backoff = Backoff::doubling(Duration::from_millis(250), Duration::from_secs(2));

/// Registers and returns the alias. Waits for a taken alias as long as the settings allow.
pub(super) async fn register(settings: &Settings) -> Result<String, ControlError> {
    let (started, mut pauses) = (Instant::now(), BACKOFF.pauses());
    let mut is_told = false;
    loop {
        let alias = settings.alias.as_deref();
        let registration = settings.topology.registration(alias, "");
        let taken = match settings.control.register(registration).await {
            Err(taken @ ControlError::AliasTaken { .. }) => taken,
            done => return done,
        };
        let left = settings.take_over.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(taken);
        }
        if !is_told {
            tracing::warn!(within = ?settings.take_over, %taken, "waiting for an alias");
            is_told = true;
        }
        sleep(pauses.take().min(left)).await;
    }
}

//! What an agent finds at this control plane.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::Pipeline;

use super::{NanoCtrl, store::Store};
use crate::control::{Control, ControlError, Registration};

/// What an agent finds of Redis.
#[derive(Debug)]
#[non_exhaustive]
pub struct RedisDiagnosis {
    /// `host:port`, as the server names it, or as the [setting](NanoCtrl::redis) does.
    pub address: String,
    /// The policy by which Redis removes keys that are in use when its memory is full, if it does.
    pub eviction: Option<String>,
    /// How far this host's clock is from Redis', give or take the time that the question took.
    /// `None` if Redis does not tell.
    pub clock_skew: Option<Duration>,
}

impl NanoCtrl {
    /// Registers as `doctor`, examines the Redis that the server names, and leaves. Use a scope of
    /// its own, so that no agent takes notice.
    ///
    /// # Errors
    /// Whatever keeps an agent from registering: the errors of [`Control::register`].
    ///
    /// ```no_run
    /// # use slimerpc::control::{ControlError, NanoCtrl};
    /// # async fn example() -> Result<(), ControlError> {
    /// let found = NanoCtrl::new("http://127.0.0.1:3000", "examination")?.diagnose().await?;
    /// println!("agents use the Redis at {}", found.address);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn diagnose(&self) -> Result<RedisDiagnosis, ControlError> {
        let registration = Registration {
            alias: Some("doctor".to_owned()),
            ..Registration::default()
        };
        self.register(registration).await?;
        let session = self.life.current()?;
        let store = &session.store;
        let found = RedisDiagnosis {
            address: store.address(),
            eviction: store.eviction().await,
            clock_skew: clock_skew(store).await,
        };
        self.clean_up().await?;
        Ok(found)
    }
}

async fn clock_skew(store: &Store) -> Option<Duration> {
    let mut ask = Pipeline::new();
    ask.cmd("TIME");
    let asked = SystemTime::now();
    let ((seconds, micros),) = store.query::<((u64, u64),)>(&ask).await.ok()?;
    let theirs = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))?;
    let earliest = asked.duration_since(UNIX_EPOCH).ok()?;
    let latest = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let ahead = theirs.saturating_sub(latest);
    Some(ahead.max(earliest.saturating_sub(theirs)))
}

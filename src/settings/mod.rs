//! Settings of agents: the variables of the environment that supply them, and the values that are
//! refused.
//!
//! Agents ask here when they start, and `nanoctrl doctor` before they do.

mod rules;
mod variables;

pub use self::rules::{
    DEFAULT_BUSY_POLL, DEFAULT_CONNECT_TIMEOUT, DEFAULT_OBS_PERIOD, DEFAULT_STREAM_PATIENCE,
    busy_poll, check_heartbeats, codec, fabrics, geometries, heartbeats, idle_after, memory,
    metrics_address, obs_period, some_time, tcp, tcp_advertise, tcp_bind, tls_files, workers,
};
pub use self::variables::*;

/// A setting that an agent does not start with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}; {allowed}")]
pub struct Refused {
    /// Name of the setting.
    pub setting: &'static str,
    /// The value that was given.
    pub value: String,
    /// The values that are allowed.
    pub allowed: String,
}

impl Refused {
    fn new(setting: &'static str, value: impl ToString, allowed: impl Into<String>) -> Self {
        Self {
            setting,
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }

    fn time(setting: &'static str, value: std::time::Duration, allowed: impl Into<String>) -> Self {
        Self::new(setting, format!("{value:?}"), allowed)
    }
}

//! Settings that come from the environment.

use std::env::{self, VarError};
use std::str::FromStr;
use std::time::Duration;

use slimerpc::control::Secret;
use slimerpc::fabric::RetryPolicy;

use crate::AgentError;

/// Reads a number from the variable `name`; `None` if it is unset or empty.
pub(crate) fn number<T: FromStr>(name: &'static str) -> Result<Option<T>, AgentError> {
    let value = match env::var(name) {
        Err(VarError::NotPresent) => return Ok(None),
        Ok(value) if value.trim().is_empty() => return Ok(None),
        Ok(value) => value,
        Err(VarError::NotUnicode(value)) => value.to_string_lossy().into_owned(),
    };
    match value.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(AgentError::Setting {
            name: name.into(),
            value,
            allowed: "a whole number is expected, not too large".to_owned(),
        }),
    }
}

/// Reads a secret from the variable `name`; `None` if it is unset or empty.
pub(crate) fn secret(name: &str) -> Option<Secret> {
    let value = env::var_os(name)?;
    // Bytes that are not text make an invalid token or URL, which its user refuses without
    // repeating it.
    let text = value.to_string_lossy();
    (!text.trim().is_empty()).then(|| Secret::from(text))
}

/// Reads a yes or no from the variable `name`; `None` if it is unset or empty.
pub(crate) fn flag(name: &'static str) -> Result<Option<bool>, AgentError> {
    let value = env::var_os(name).unwrap_or_default();
    let value = value.to_string_lossy();
    match &*value.trim().to_lowercase() {
        "" => Ok(None),
        "0" | "false" | "no" | "off" => Ok(Some(false)),
        "1" | "true" | "yes" | "on" => Ok(Some(true)),
        _ => Err(AgentError::Setting {
            name: name.into(),
            value: value.into_owned(),
            allowed: "1 or 0 is expected".to_owned(),
        }),
    }
}

/// Reads a time in microseconds from the variable `name`.
pub(crate) fn micros(name: &'static str) -> Result<Option<Duration>, AgentError> {
    Ok(number(name)?.map(Duration::from_micros))
}

/// Reads a time in milliseconds from the variable `name`.
pub(crate) fn millis(name: &'static str) -> Result<Option<Duration>, AgentError> {
    Ok(number(name)?.map(Duration::from_millis))
}

/// The default retry policy, with the fields that the environment overrides.
pub(crate) fn retry() -> Result<RetryPolicy, AgentError> {
    let default = RetryPolicy::default();
    Ok(RetryPolicy {
        min_rnr_timer: number("SLIME_RPC_MIN_RNR_TIMER")?.unwrap_or(default.min_rnr_timer),
        rnr_retry: number("SLIME_RPC_RNR_RETRY")?.unwrap_or(default.rnr_retry),
        timeout: number("SLIME_RPC_ACK_TIMEOUT")?.unwrap_or(default.timeout),
        retry_cnt: number("SLIME_RPC_RETRY_CNT")?.unwrap_or(default.retry_cnt),
    })
}

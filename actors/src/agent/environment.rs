//! Settings that come from the environment.

use std::env::{self, VarError};
use std::str::FromStr;
use std::sync::Once;
use std::time::Duration;

use slimerpc::control::Secret;
use slimerpc::fabric::RetryPolicy;

use crate::AgentError;

/// What the name of a variable begins with that supplies a setting.
const PREFIX: &str = "SLIME_RPC_";

/// The variables that supply the fields of a retry policy.
pub(crate) const RETRY: [&str; 4] = [
    "SLIME_RPC_MIN_RNR_TIMER",
    "SLIME_RPC_RNR_RETRY",
    "SLIME_RPC_ACK_TIMEOUT",
    "SLIME_RPC_RETRY_CNT",
];

/// Warns of each variable that is named like a setting and is none of `known`, once in a process.
pub(crate) fn warn_of_unknown(known: &[&[&str]]) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let known = known.concat();
        let set = env::vars_os().filter(|(_, value)| !value.is_empty());
        for name in set.filter_map(|(name, _)| name.into_string().ok()) {
            if name.starts_with(PREFIX) && !known.contains(&&*name) {
                let nearest = known.iter().min_by_key(|it| strsim::levenshtein(it, &name));
                tracing::warn!(
                    name,
                    nearest,
                    "an environment variable is no setting: ignored"
                );
            }
        }
    });
}

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
    text(name).map(Secret::from)
}

/// Reads a text from the variable `name`; `None` if it is unset or empty.
pub(crate) fn text(name: &str) -> Option<String> {
    let value = env::var_os(name)?;
    // Bytes that are not text make a value that its reader refuses.
    let text = value.to_string_lossy();
    (!text.trim().is_empty()).then(|| text.into_owned())
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
    let [min_rnr_timer, rnr_retry, timeout, retry_cnt] = RETRY;
    Ok(RetryPolicy {
        min_rnr_timer: number(min_rnr_timer)?.unwrap_or(default.min_rnr_timer),
        rnr_retry: number(rnr_retry)?.unwrap_or(default.rnr_retry),
        timeout: number(timeout)?.unwrap_or(default.timeout),
        retry_cnt: number(retry_cnt)?.unwrap_or(default.retry_cnt),
    })
}

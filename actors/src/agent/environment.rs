//! Settings that come from the environment.

use std::env;
use std::str::FromStr;
use std::sync::Once;
use std::time::Duration;

use slimerpc::control::Secret;
use slimerpc::fabric::RetryPolicy;
use slimerpc::settings::{self, PREFIX, RETRY, VARIABLES};

use crate::AgentError;

/// Warns of each variable that is named like a setting and is none, once in a process.
pub(crate) fn warn_of_unknown() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let known = || VARIABLES.iter().map(|it| it.name);
        let set = env::vars_os().filter(|(_, value)| !value.is_empty());
        for name in set.filter_map(|(name, _)| name.into_string().ok()) {
            if name.starts_with(PREFIX) && !known().any(|it| it == name) {
                let nearest = settings::nearest(&name, known()).map(|(nearest, _)| nearest);
                tracing::warn!(
                    name,
                    nearest,
                    "an environment variable is no setting: ignored"
                );
            }
        }
    });
}

/// Reads a value from the variable `name`; `None` if it is unset or empty.
fn read<T>(
    name: &'static str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Option<T>, AgentError> {
    let Some(value) = text(name) else {
        return Ok(None);
    };
    match parse(&value) {
        Ok(parsed) => Ok(Some(parsed)),
        Err(allowed) => Err(AgentError::Setting {
            name: name.into(),
            value,
            allowed: allowed.to_owned(),
        }),
    }
}

/// Reads a number from the variable `name`; `None` if it is unset or empty.
pub(crate) fn number<T: FromStr>(name: &'static str) -> Result<Option<T>, AgentError> {
    read(name, settings::whole)
}

/// Reads a yes or no from the variable `name`; `None` if it is unset or empty.
pub(crate) fn flag(name: &'static str) -> Result<Option<bool>, AgentError> {
    read(name, settings::flag)
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

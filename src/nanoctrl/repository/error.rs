//! Errors of Redis and of the connection to it.

use std::fmt;

use redis::RedisError;

/// Why Redis did not do what was asked.
#[derive(Debug)]
pub(in crate::nanoctrl) enum RepositoryError {
    /// Redis refused, or cannot be reached.
    Redis(RedisError),
    /// Redis lacks something that is needed, or does not allow it.
    Unfit(String),
    /// Redis took too long. What was asked may have been done, or may be done yet.
    Slow,
    /// So many requests were before this one that its turn did not come. Nothing was done.
    Busy,
    /// Others changed the same keys again and again.
    Contention,
}

impl RepositoryError {
    /// Whether it is about one key, which has not the type that it should have.
    pub(in crate::nanoctrl) fn is_wrong_type(&self) -> bool {
        matches!(self, Self::Redis(error) if error.code() == Some("WRONGTYPE"))
    }

    /// Whether it passes when others have been served: the same request may succeed a moment later.
    pub(in crate::nanoctrl) fn is_of_load(&self) -> bool {
        matches!(self, Self::Slow | Self::Busy | Self::Contention)
    }
}

impl From<RedisError> for RepositoryError {
    fn from(error: RedisError) -> Self {
        match error.is_timeout() {
            true => Self::Slow,
            false => Self::Redis(error),
        }
    }
}

impl std::error::Error for RepositoryError {}

impl fmt::Display for RepositoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redis: ")?;
        match self {
            Self::Redis(error) => f.write_str(&describe(error)),
            Self::Unfit(lacking) => f.write_str(lacking),
            Self::Slow => f.write_str("no answer in time"),
            Self::Busy => f.write_str("too many requests at once, try again"),
            Self::Contention => f.write_str("the keys keep changing, try again"),
        }
    }
}

/// Describes `error` as the original server does: `CODE: text` for errors of Redis itself.
fn describe(error: &RedisError) -> String {
    let first = error.clone().into_server_errors();
    match first.as_deref().and_then(<[_]>::first) {
        Some((_, error)) => refusal(error.code(), error.details()),
        None => match error.code() {
            Some(code) => refusal(code, error.detail()),
            None => error.to_string(),
        },
    }
}

/// Removes where in which script the error happened.
fn refusal(code: &str, text: Option<&str>) -> String {
    let text = text.unwrap_or_default();
    let text = text.split(" script: ").next().unwrap_or_default();
    format!("{code}: {text}")
}

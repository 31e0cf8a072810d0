//! Errors that show that a Redis is not the master, or not yet ready. After a failover the
//! connection to the former master stays open: it answers, but refuses to write. Such a connection
//! is dropped, and the next one, to the same address, reaches the present master.

use std::time::Duration;

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value, aio::ConnectionLike};

use crate::backoff::Backoff;

/// Pauses between attempts to reach a Redis that accepts writes.
pub(crate) const BACKOFF: Backoff =
    Backoff::doubling(Duration::from_millis(50), Duration::from_millis(500));

/// Error codes that another Redis, or the same one a little later, may not return.
const CODES: [&str; 10] = [
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "MOVED",
    "ASK",
    "TRYAGAIN",
    "UNBLOCKED",
    "NOREPLICAS",
    "MISCONF",
];

/// Returns whether a new connection, now or a little later, may find a Redis that does what was
/// asked.
pub(crate) fn is_passing(error: &RedisError) -> bool {
    says(error, &CODES)
}

/// Returns whether a connection is useless: it is broken, it leads to a Redis that is not the
/// master, or Redis was restarted and no longer knows the login.
pub(crate) fn is_of_no_use(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || is_passing(error) || says(error, &["NOAUTH"])
}

/// Returns whether Redis answered with one of these codes, to a command or to one within a script.
/// Older versions pass on the inner code in the text of the script's own error.
pub(crate) fn says(error: &RedisError, codes: &[&str]) -> bool {
    if error.code().is_some_and(|code| codes.contains(&code)) {
        return true;
    }
    let errors = error.clone().into_server_errors();
    errors
        .iter()
        .flat_map(|errors| errors.iter())
        .any(|(_, error)| {
            let text = error.details().unwrap_or_default();
            let mut words = text.split(|c: char| !c.is_ascii_uppercase());
            codes.contains(&error.code()) || words.any(|word| codes.contains(&word))
        })
}

/// Refuses a Redis that is a replica: writes to it fail or are lost. A Redis that does not let its
/// user ask for the role is taken for a master.
pub(crate) async fn check_master(connection: &mut impl ConnectionLike) -> RedisResult<()> {
    let role = redis::cmd("ROLE").query_async::<Value>(connection).await;
    let role = match role {
        Ok(Value::Array(role)) => role,
        Err(error) if is_of_no_use(&error) => return Err(error),
        _ => return Ok(()),
    };
    let text = |at: usize| match role.get(at) {
        Some(Value::BulkString(text)) => String::from_utf8_lossy(text).into_owned(),
        Some(Value::Int(number)) => number.to_string(),
        _ => String::new(),
    };
    if text(0) != "slave" {
        return Ok(());
    }
    let detail = format!("its master is {}:{}", text(1), text(2));
    let kind = ErrorKind::Server(ServerErrorKind::ReadOnly);
    let replica = "it is a replica, which cannot be written to; name its master";
    Err((kind, replica, detail).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::make_extension_error;

    fn error(code: &str, text: &str) -> RedisError {
        make_extension_error(code.to_owned(), Some(text.to_owned()))
    }

    #[test]
    fn a_redis_that_is_not_the_one_to_ask_is_told_from_one_that_refuses() {
        for passing in [
            error("READONLY", "You can't write against a read only replica."),
            error(
                "ERR",
                "Error running script (call to f_1): @user_script:1: -READONLY You can't",
            ),
            error("UNBLOCKED", "force unblock from blocking operation"),
            (ErrorKind::Server(ServerErrorKind::BusyLoading), "loading").into(),
        ] {
            assert!(is_passing(&passing) && is_of_no_use(&passing), "{passing}");
        }
        for lasting in [
            error(
                "WRONGTYPE",
                "Operation against a key holding the wrong kind of value",
            ),
            error("OOM", "command not allowed when used memory > 'maxmemory'"),
            error("ERR", "unknown command 'readonly'"),
            (ErrorKind::Server(ServerErrorKind::NoPerm), "no").into(),
        ] {
            assert!(
                !is_passing(&lasting) && !is_of_no_use(&lasting),
                "{lasting}"
            );
        }
        let forgotten = error("NOAUTH", "Authentication required.");
        assert!(!is_passing(&forgotten) && is_of_no_use(&forgotten));
    }
}

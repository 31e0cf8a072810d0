//! Errors by which a Redis says that it is not, or not now, the one to ask. After a failover a connection to the former master
//! stays open: it answers, and refuses to write. So the connection is dropped, and another one, to the same address, reaches
//! whoever is the master now.

use std::time::Duration;

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value, aio::ConnectionLike};

use crate::backoff::Backoff;

/// Between attempts to reach a Redis that can be written to.
pub(crate) const BACKOFF: Backoff =
    Backoff::doubling(Duration::from_millis(50), Duration::from_millis(500));

/// What a Redis says, in whatever answer, that another one may not say, or it may not say a little later.
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

/// Whether another connection, now or a little later, may find a Redis that does what was asked.
pub(crate) fn is_passing(error: &RedisError) -> bool {
    says(error, &CODES)
}

/// Whether a connection is of no use any more: it is broken, it leads to a Redis that is not the one to ask, or that does not
/// know who we are, as it has been started again.
pub(crate) fn is_of_no_use(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || is_passing(error) || says(error, &["NOAUTH"])
}

/// Whether a Redis answered with one of these codes, to a command or to one within a script: older ones pass on the code of that
/// in the text of an error of their own.
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

/// Refuses a Redis that is the replica of another: what is written there is lost, if it can be written at all. One that does not
/// let us ask is taken for a master.
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

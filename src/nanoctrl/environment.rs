//! Environment variables. Each has two names: this project's, `NANOCTRL_…`, which wins, and the
//! original's, `DLSLIME_CTRL_…`. An empty value counts as unset.
//!
//! | name | means |
//! | --- | --- |
//! | `…_REDIS_URL` | Redis to use; overrides `--redis-url` |
//! | `…_REDIS_ADVERTISE` | Redis address to tell agents, `host:port`, whatever the URL says |
//! | `…_TOKEN` | bearer token that callers have to bring, and that our own agents and commands do bring |
//! | `…_TLS_CERT`, `…_TLS_KEY`, `…_TLS_CLIENT_CA` | as `--tls-cert`, `--tls-key` and `--tls-client-ca` |
//! | `…_RUNTIME_DIR` | where pid file, metadata and log of a started server are |
//! | `…_RUST_LOG` | what to log, in the syntax of `tracing_subscriber::EnvFilter`; `info` |
//! | `REDIS_PUBLIC_ADDRESS` | Redis address to tell agents elsewhere when the URL is on loopback; one name only |

use std::env;

const PREFIXES: [&str; 2] = ["NANOCTRL", "DLSLIME_CTRL"];

/// What stands behind the prefix.
const NAMES: [&str; 8] = [
    "REDIS_URL",
    "REDIS_ADVERTISE",
    "TOKEN",
    "TLS_CERT",
    "TLS_KEY",
    "TLS_CLIENT_CA",
    "RUNTIME_DIR",
    "RUST_LOG",
];

/// What the variable of this name stands for, if it is one of these: a name of the table.
pub(super) fn meaning(variable: &str) -> Option<&'static str> {
    let name = |prefix: &&str| variable.strip_prefix(prefix)?.strip_prefix('_');
    let name = PREFIXES.iter().find_map(name)?;
    NAMES.into_iter().find(|known| *known == name)
}

/// All names with a prefix.
pub(super) fn names() -> Vec<String> {
    let with = |prefix: &&str| NAMES.map(|name| format!("{prefix}_{name}"));
    PREFIXES.iter().flat_map(with).collect()
}

/// The value of `NANOCTRL_<name>`, or of `DLSLIME_CTRL_<name>`, for one of the names above.
pub fn lookup(name: &str) -> Option<String> {
    debug_assert!(NAMES.contains(&name), "{name} is not in the table");
    PREFIXES
        .iter()
        .find_map(|prefix| non_empty(&format!("{prefix}_{name}")))
}

/// The value of `REDIS_PUBLIC_ADDRESS`.
pub fn redis_public_address() -> Option<String> {
    non_empty("REDIS_PUBLIC_ADDRESS")
}

fn non_empty(name: &str) -> Option<String> {
    let value = env::var(name).ok();
    value.filter(|value| !value.trim().is_empty())
}

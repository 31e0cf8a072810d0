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

/// The value of `NANOCTRL_<name>`, or of `DLSLIME_CTRL_<name>`.
pub fn lookup(name: &str) -> Option<String> {
    ["NANOCTRL", "DLSLIME_CTRL"]
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

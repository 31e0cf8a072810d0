//! NanoCtrl, the server of the control plane: HTTP in front of Redis, compatible with
//! `dlslime-ctrl` 0.1.23.
//!
//! The server itself keeps no state; agents, topology, mail and records live in Redis, where
//! agents read most of them directly. A server may be restarted, or several may share a Redis,
//! without effect on agents.
//!
//! | file | holds |
//! | --- | --- |
//! | `server`, `config`, `environment` | life of a server, what it is told at start |
//! | `agents`, `topology`, `regions`, `entities`, `address` | requests and answers, by noun |
//! | `connections` | how many clients there is room for |
//! | `server_tls` | certificates, if it speaks TLS |
//! | `console` | the pages for people |
//! | `gate` | the bearer token, if callers have to bring one |
//! | `body` | JSON bodies and what is said about bad ones |
//! | `repository` | what each request does to Redis, atomically |
//! | `host` | hosts as they are written |
//! | `private_redis` | a Redis that lives and dies with the server |
//! | [`daemon`] | `nanoctrl start`, `status` and `stop` |
//! | [`doctor`] | `nanoctrl doctor`: what agents of this machine would stumble over |
//!
//! # Where it differs from the original on purpose
//!
//! - Effects of one request are atomic, and all or nothing where Redis allows it.
//! - Without a scope, clean-up events go to both `inbox:<alias>` and `:inbox:<alias>`, so that
//!   Python peers (which listen on the latter) get them. Each inbox keeps the newest 1024 events.
//! - `start_peer_agent` returns a plain `host:port`: no scheme, credentials, path or IPv6 literal,
//!   which Python peers could not parse; `get_redis_address` returns the scheme too, but neither
//!   credentials nor path.
//! - Keys are found through indexes, which are sets beside them in Redis, and never by pattern:
//!   unrelated keys cost nothing, and an agent `w` that leaves takes nothing of `w:0` along.
//!   Servers and native agents add what they register and renew to the indexes. An agent that
//!   registered with a server of DLSlime is therefore listed, and told of peers that leave, once
//!   one of its heartbeats or declarations has reached this server, or if it is native. The indexes
//!   are `nanoctrl/*`: an ACL has to allow these keys.
//! - Every key has a lease. A native agent renews its own keys, with 60 s, and publishes lost ones
//!   again. An agent of DLSlime does neither, so the server renews its records, topology and stream
//!   with its heartbeats, with an hour. Mail for an unregistered agent waits for 10 minutes.
//!   Counters start anew when nobody is left in a scope.
//! - A generated name is a free one. An entity does not take the key of something else (409), and
//!   is removed by its own type and id.
//! - Requests take turns at Redis. One whose turn does not come within 4 s, that Redis does not
//!   answer in time, or whose keys others change again and again, is answered 503 with
//!   `Retry-After`, and not 500: native agents ask again.
//! - `POST /query` with a `name` lists that agent alone.
//! - `POST /list_scopes` returns the scopes in which something is registered.
//! - With a token ([`Config::token`]) every route but `/` answers 401 to requests without it as
//!   `Authorization: Bearer`, which Python peers cannot send. A server without one ignores tokens.
//! - SIGTERM and SIGINT stop it cleanly.
//!
//! # Example
//!
//! ```no_run
//! use slimerpc::nanoctrl::{Config, Server};
//!
//! # async fn example() -> Result<(), slimerpc::nanoctrl::StartError> {
//! let config = Config::with_redis("redis://127.0.0.1:6379").listen("127.0.0.1", 0);
//! let server = Server::start(config).await?;
//! println!("NanoCtrl at http://{}", server.address());
//! server.stop().await;
//! # Ok(())
//! # }
//! ```

mod address;
mod agents;
mod body;
mod config;
mod connections;
mod console;
pub mod daemon;
pub mod doctor;
mod entities;
pub mod environment;
mod error;
mod gate;
mod host;
mod private_redis;
mod regions;
mod repository;
mod server;
#[cfg(feature = "tls")]
mod server_tls;
mod topology;

pub use config::{Config, RedisSource, ServerTls};
pub use error::StartError;
pub use server::Server;

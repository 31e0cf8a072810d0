//! NanoCtrl, the control plane's server: HTTP in front of Redis, as `dlslime-ctrl` 0.1.23 has it.
//!
//! The server keeps nothing itself; agents, topology, mailboxes and records live in Redis, where
//! agents read most of them directly. A server may be restarted, or several may share a Redis, and
//! nobody notices.
//!
//! | file | holds |
//! | --- | --- |
//! | `server`, `config`, `environment` | life of a server, what it is told at start |
//! | `agents`, `topology`, `regions`, `entities`, `cleanup`, `redis_address` | requests and answers, by noun |
//! | `gate` | the bearer token, if callers have to bring one |
//! | `body` | JSON bodies and what is said about bad ones |
//! | `repository` | what each request does to Redis, atomically |
//! | `address`, `host` | which Redis address an agent is told; hosts as they are written |
//! | `private_redis` | a Redis that lives and dies with the server |
//! | [`daemon`] | `nanoctrl start`, `status` and `stop` |
//!
//! # Where it differs from the original on purpose
//!
//! - Effects of one request are atomic, and all or nothing where Redis allows it.
//! - Without a scope, clean-up events go to both `inbox:<alias>` and `:inbox:<alias>`, so that
//!   Python peers (which listen on the latter) get them. Each inbox keeps the newest 1024 events.
//! - `start_peer_agent` tells a plain `host:port`: no scheme, credentials, path or IPv6 literal,
//!   which Python peers could not parse; `get_redis_address` tells the scheme too, but neither
//!   credentials nor path.
//! - Keys are found through indexes, sets beside them in Redis, and never by pattern: keys of
//!   others cost nothing, and an agent `w` that leaves takes nothing of `w:0` along. Servers and
//!   native agents add to the indexes what they register and renew. So an agent that registered
//!   with a server of DLSlime is listed, and told of peers that leave, once a heartbeat or a
//!   declaration of it has come to this server, or if it is native. The indexes are `nanoctrl/*`:
//!   an ACL has to allow these keys.
//! - Every key has a lease. A native agent renews what is its own, with 60 s; what it has lost it
//!   publishes again. For an agent of DLSlime, which publishes nothing again, the server renews
//!   records, topology and stream with its heartbeats, with an hour. Mail for an agent that is not
//!   registered waits for 10 minutes. Counters begin anew when nobody is left in a scope.
//! - A generated name is a free one. An entity does not take the key of something else (409), and
//!   is removed by its own type and id.
//! - `POST /list_scopes` answers the scopes in which something is registered.
//! - With a token ([`Config::token`]) every route but `/` answers 401 to those who do not bring it
//!   as `Authorization: Bearer`, which Python peers cannot do. A server without one takes no notice
//!   of tokens.
//! - SIGTERM and SIGINT end it cleanly.
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
mod cleanup;
mod config;
pub mod daemon;
mod entities;
pub mod environment;
mod error;
mod gate;
mod host;
mod private_redis;
mod redis_address;
mod regions;
mod repository;
mod server;
mod topology;

pub use config::{Config, RedisSource};
pub use error::StartError;
pub use server::Server;

//! What requests do to Redis.
//!
//! Effects on more than one key happen in a script or a transaction, so that nobody sees half of one. Scripts
//! check what could make them fail before they write anything. Values are bytes from anybody: nothing here
//! trusts that they are text, JSON or of the expected type.
//!
//! Nothing here looks through the keys of Redis, of which there may be millions that are not ours: indexes tell what
//! there is. And every key has a lease, so that what is left behind by those who end without leaving goes by itself.

mod agents;
mod cleanup;
mod entities;
mod error;
mod index;
mod topology;

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, Client, RedisResult, Script, Value};

pub(super) use agents::{AgentName, AgentRow};
pub(super) use entities::Entity;
pub(super) use error::RepositoryError;
pub(super) use topology::Spec;

use crate::control::keys::Keys;
use crate::control::{eviction, lease};

/// Keys or values that are asked for in one command.
const CHUNK: usize = 512;

/// Longest wait for Redis to accept a connection, to answer one command, and to serve a whole request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Redis, as the control plane uses it. Clones share a connection.
#[derive(Clone)]
pub(super) struct Repository {
    connection: ConnectionManager,
}

impl Repository {
    /// Connects, and makes sure that Redis answers; `url` is for messages.
    pub(super) async fn connect(client: Client, url: &str) -> Result<Self, RepositoryError> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT))
            .set_number_of_retries(0);
        let connecting = ConnectionManager::new_with_config(client, config);
        let connection = tokio::time::timeout(REQUEST_TIMEOUT, connecting)
            .await
            .map_err(|_| RepositoryError::Slow)??;
        let repository = Self { connection };
        repository.run(async |_| Ok(())).await?;
        if let Err(error) = repository.warn_of_eviction(url).await {
            tracing::debug!(%error, "Redis does not tell whether it removes keys");
        }
        Ok(repository)
    }

    /// Does `work` on a connection that was alive a moment ago, within [`REQUEST_TIMEOUT`].
    async fn run<T>(
        &self,
        work: impl AsyncFnOnce(ConnectionManager) -> Result<T, RepositoryError>,
    ) -> Result<T, RepositoryError> {
        let job = async { work(self.live_connection().await?).await };
        tokio::time::timeout(REQUEST_TIMEOUT, job)
            .await
            .map_err(|_| RepositoryError::Slow)?
    }

    /// The manager reconnects only after a command has failed. Let that be a PING, which may be repeated, and
    /// not a registration, which may not.
    async fn live_connection(&self) -> RedisResult<ConnectionManager> {
        let mut connection = self.connection.clone();
        if connection.ping::<()>().await.is_err() {
            connection.ping::<()>().await?;
        }
        Ok(connection)
    }

    /// Stores a record of an agent.
    pub(super) async fn put_region(
        &self,
        keys: &Keys,
        agent: &str,
        name: &str,
        record: &str,
    ) -> Result<(), RepositoryError> {
        let key = keys.region(agent, name);
        self.run(async |mut redis| {
            Ok(script(include_str!("register_region.lua"))
                .key(&key)
                .key(keys.agent(agent))
                .key(keys.records(agent))
                .key(keys.rival_records(&key, agent))
                .arg(record)
                .invoke_async(&mut redis)
                .await?)
        })
        .await
    }

    /// Reads a value.
    pub(super) async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, RepositoryError> {
        self.run(async |mut redis| Ok(redis.get(key).await?)).await
    }

    /// Warns if Redis may remove our keys. One that tells nobody its settings is taken for one that does not.
    async fn warn_of_eviction(&self, redis_url: &str) -> Result<(), RepositoryError> {
        self.run(async |mut redis| {
            for question in eviction::QUESTIONS {
                let asked = redis::cmd(question[0])
                    .arg(&question[1..])
                    .query_async::<Value>(&mut redis)
                    .await;
                let Ok(answer) = asked else {
                    continue;
                };
                if let Some(policy) = eviction::policy(&eviction::text(answer)) {
                    eviction::warn(redis_url, policy);
                }
                break;
            }
            Ok(())
        })
        .await
    }
}

/// A script that may use the functions of leases and indexes.
fn script(body: &str) -> Script {
    Script::new(&lease::script(body))
}

/// Unix time in seconds, with fraction.
fn now() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Text of bytes that should be text.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

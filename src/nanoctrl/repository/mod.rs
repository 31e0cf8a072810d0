//! What requests do to Redis.
//!
//! Effects on more than one key happen in a script or a transaction, so that nobody sees half of one. Scripts
//! check what could make them fail before they write anything. Values are bytes from anybody: nothing here
//! trusts that they are text, JSON or of the expected type.

mod agents;
mod cleanup;
mod entities;
mod error;
mod scan;
mod topology;

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, Client, RedisResult};

pub(super) use agents::{AgentName, AgentRow};
pub(super) use entities::Entity;
pub(super) use error::RepositoryError;
pub(super) use topology::Spec;

/// Life of an agent or entity that is not heard of, in seconds.
const TTL_SECONDS: u64 = 60;

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
    /// Connects, and makes sure that Redis answers.
    pub(super) async fn connect(client: Client) -> Result<Self, RepositoryError> {
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

    /// Stores a value.
    pub(super) async fn put(&self, key: &str, value: &str) -> Result<(), RepositoryError> {
        self.run(async |mut redis| Ok(redis.set::<_, _, ()>(key, value).await?))
            .await
    }

    /// Reads a value.
    pub(super) async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, RepositoryError> {
        self.run(async |mut redis| Ok(redis.get(key).await?)).await
    }

    /// Gives a key another [`TTL_SECONDS`]; false if there is no such key.
    pub(super) async fn keep_alive(&self, key: &str) -> Result<bool, RepositoryError> {
        self.run(async |mut redis| Ok(redis.expire(key, TTL_SECONDS as i64).await?))
            .await
    }
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

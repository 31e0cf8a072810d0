//! The effects of requests on Redis.
//!
//! Effects on more than one key happen in a script or a transaction, so that no reader sees half of
//! one. Scripts check what could make them fail before they write anything. Values are bytes from
//! any client: nothing here trusts that they are text, JSON or of the expected type.
//!
//! Nothing here searches the keys of Redis, of which millions may be unrelated: indexes list what
//! exists. Every key has a lease, so that keys of clients that end without leaving expire.

mod agents;
mod cleanup;
mod entities;
mod error;
mod index;
mod observations;
mod topology;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, Client, RedisResult, Script, Value};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub(super) use agents::{AgentName, AgentRow};
pub(super) use entities::Entity;
pub(super) use error::RepositoryError;
pub(super) use topology::Spec;

use crate::control::abilities::Needs;
use crate::control::keys::Keys;
use crate::control::{eviction, failover, lease};
use crate::unique::unique;

/// Most keys or values in one command.
const CHUNK: usize = 512;

/// Longest wait for Redis to accept a connection. The two below are for the answer to one command,
/// and for a whole request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Most requests that ask Redis at once; further ones wait for their turn. All share a connection,
/// on which a command waits for those before it, and that counts as time that Redis takes. Without
/// a bound, a thousand agents that come at once make each other's commands late; with a low one, a
/// Redis that answers late answers few of them at a time.
const TURNS: usize = 256;

/// How long a request waits for its turn: less than clients wait for an answer.
const TURN_TIMEOUT: Duration = Duration::from_secs(4);

/// For how long a connection that has answered counts as alive: less than Redis needs to restart.
const ALIVE: Duration = Duration::from_millis(10);

/// How long a request is repeated while the Redis that it finds is no master, or not ready.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(3);

/// The connection to Redis. Clones share it.
#[derive(Clone)]
pub(super) struct Repository {
    client: Client,
    connection: Arc<Mutex<Option<Connected>>>,
    turns: Arc<Semaphore>,
}

/// A connection, and when it answered last.
#[derive(Clone)]
struct Connected {
    connection: ConnectionManager,
    answered: Instant,
}

impl Repository {
    /// Connects, and checks that Redis answers; `url` is for messages.
    pub(super) async fn connect(client: Client, url: &str) -> Result<Self, RepositoryError> {
        let repository = Self {
            client,
            connection: Arc::default(),
            turns: Arc::new(Semaphore::new(TURNS)),
        };
        let probe = Needs::Server.probe(&format!("nano_meta:probe:{:016x}", unique()));
        let check = async |mut redis: ConnectionManager| {
            let answers: Vec<Value> = probe.query_async(&mut redis).await?;
            match Needs::Server.lacking(&answers) {
                Some(lacking) => Err(RepositoryError::Unfit(lacking)),
                None => Ok(()),
            }
        };
        repository.run(check).await?;
        if let Err(error) = repository.warn_of_eviction(url).await {
            tracing::debug!(%error, "Redis does not tell whether it removes keys");
        }
        Ok(repository)
    }

    /// Does `work` on a connection that was alive a moment ago, in turn with other requests, all
    /// within [`REQUEST_TIMEOUT`]. A Redis that turns out not to be the master has done
    /// nothing, so another one is tried.
    async fn run<T>(
        &self,
        work: impl AsyncFn(ConnectionManager) -> Result<T, RepositoryError>,
    ) -> Result<T, RepositoryError> {
        let insist = async {
            let (started, mut pauses) = (Instant::now(), failover::BACKOFF.pauses());
            loop {
                let error = match self.attempt(&work).await {
                    Err(RepositoryError::Redis(error)) if failover::is_of_no_use(&error) => error,
                    done => return done,
                };
                *self.connection() = None;
                let pause = pauses.take();
                let is_in_time = started.elapsed() + pause < FAILOVER_TIMEOUT;
                if !failover::is_passing(&error) || !is_in_time {
                    return Err(error.into());
                }
                tracing::debug!(%error, "this Redis is not the master; trying again");
                tokio::time::sleep(pause).await;
            }
        };
        let came = Instant::now();
        let turn = timeout(TURN_TIMEOUT, self.turns.acquire()).await;
        let _turn = turn.map_err(|_| RepositoryError::Busy)?;
        let left = REQUEST_TIMEOUT.saturating_sub(came.elapsed());
        let done = timeout(left, insist).await;
        done.map_err(|_| RepositoryError::Slow)?
    }

    async fn attempt<T>(
        &self,
        work: &impl AsyncFn(ConnectionManager) -> Result<T, RepositoryError>,
    ) -> Result<T, RepositoryError> {
        work(self.live_connection().await?).await
    }

    /// The manager reconnects only after a command has failed. Let that be a PING, which may be
    /// repeated, and not a registration, which may not. Requests that come together share one.
    async fn live_connection(&self) -> RedisResult<ConnectionManager> {
        let found = self.connection().clone();
        let Some(Connected {
            mut connection,
            answered,
        }) = found
        else {
            return self.open().await;
        };
        if answered.elapsed() < ALIVE {
            return Ok(connection);
        }
        let mut asked = Instant::now();
        if connection.ping::<()>().await.is_err() {
            asked = Instant::now();
            connection.ping::<()>().await?;
        }
        if let Some(connected) = &mut *self.connection() {
            connected.answered = connected.answered.max(asked);
        }
        Ok(connection)
    }

    /// Connects to a master.
    async fn open(&self) -> RedisResult<ConnectionManager> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT))
            .set_number_of_retries(0);
        let mut connection =
            ConnectionManager::new_with_config(self.client.clone(), config).await?;
        let asked = Instant::now();
        failover::check_master(&mut connection).await?;
        *self.connection() = Some(Connected {
            connection: connection.clone(),
            answered: asked,
        });
        Ok(connection)
    }

    /// Never held across an await; a poisoned lock is still good, as no change can panic half-way.
    fn connection(&self) -> std::sync::MutexGuard<'_, Option<Connected>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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

    /// Warns if Redis may evict keys. A Redis that does not show its settings is taken for one that
    /// does not.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use support::Redis;
    use tokio::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn no_more_requests_ask_redis_at_once_than_there_are_turns() {
        let redis = Redis::start();
        let client = Client::open(redis.url()).unwrap();
        let repository = Repository::connect(client, "").await.unwrap();
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (came, all_are_there) = (AtomicUsize::new(0), Barrier::new(TURNS));
        let ask = || {
            repository.run(async |_| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                if came.fetch_add(1, Ordering::SeqCst) < TURNS {
                    all_are_there.wait().await;
                }
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
        };
        let asked = join_all((0..3 * TURNS).map(|_| ask())).await;
        // On a slow machine some may wait in vain.
        let are_told =
            |answer: &Result<_, _>| matches!(answer, Ok(()) | Err(RepositoryError::Busy));
        assert!(asked.iter().all(are_told), "{asked:?}");
        assert_eq!(most.into_inner(), TURNS);
    }

    #[tokio::test]
    async fn a_request_whose_turn_does_not_come_is_told_in_time_and_does_nothing() {
        let redis = Redis::start();
        let client = Client::open(redis.url()).unwrap();
        let repository = Repository::connect(client, "").await.unwrap();
        let all = repository.turns.acquire_many(TURNS as u32).await.unwrap();
        let asked = repository.run::<()>(async |_| panic!("it is not its turn"));
        assert!(matches!(asked.await, Err(RepositoryError::Busy)));
        drop(all);
    }
}

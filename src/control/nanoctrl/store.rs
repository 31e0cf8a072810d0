//! The Redis half: one shared connection that is opened again after an outage.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult,
    aio::{MultiplexedConnection, PubSub},
};

use super::address::Address;
use crate::control::ControlError;

/// Redis, as NanoCtrl named it.
#[derive(Debug)]
pub(super) struct Store {
    /// URL of the NanoCtrl that named the address; for messages.
    url: String,
    /// Bound on every command, connecting included.
    timeout: Duration,
    link: Mutex<Link>,
}

/// The address, and the shared connection to it while there is one.
#[derive(Debug)]
struct Link {
    address: Address,
    /// Counts changes of the address.
    generation: u64,
    connection: Option<Line>,
    /// Counts connections.
    opened: u64,
}

/// A connection that remembers which it is.
#[derive(Debug, Clone)]
struct Line {
    connection: MultiplexedConnection,
    number: u64,
}

impl Store {
    /// Redis at the address named by the NanoCtrl at `url`; nothing is connected yet.
    pub(super) fn new(url: &str, address: &str, timeout: Duration) -> Result<Self, ControlError> {
        let link = Link {
            address: Address::parse(address)?,
            generation: 0,
            connection: None,
            opened: 0,
        };
        Ok(Self {
            url: url.to_owned(),
            timeout,
            link: Mutex::new(link),
        })
    }

    /// Takes over the address named at a later registration.
    pub(super) fn retarget(&self, address: &str) -> Result<(), ControlError> {
        let address = Address::parse(address)?;
        let mut link = self.link();
        if link.address != address {
            tracing::info!(from = %link.address, to = %address, "Redis has moved");
            link.address = address;
            link.generation += 1;
            link.connection = None;
        }
        Ok(())
    }

    /// Counts the changes of the address: a dedicated connection of an older generation is out of date.
    pub(super) fn generation(&self) -> u64 {
        self.link().generation
    }

    /// Runs commands and reads their answers as a tuple. A connection that turns out to be dead is replaced
    /// once, so commands run at least once.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> Result<T, ControlError> {
        match tokio::time::timeout(self.timeout, self.attempt_twice(commands)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.explain(&error)),
            Err(_) => {
                // It may be half open; the next command shall not wait for it.
                self.link().connection = None;
                Err(self.unreachable(format!("no answer within {:?}", self.timeout)))
            }
        }
    }

    async fn attempt_twice<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        let (line, is_fresh) = self.line().await?;
        match self.attempt(line, commands).await {
            Err(error) if error.is_unrecoverable_error() && !is_fresh => {
                let (line, _) = self.line().await?;
                self.attempt(line, commands).await
            }
            answer => answer,
        }
    }

    async fn attempt<T: FromRedisValue>(
        &self,
        mut line: Line,
        commands: &Pipeline,
    ) -> RedisResult<T> {
        let answer = commands.query_async(&mut line.connection).await;
        if answer
            .as_ref()
            .is_err_and(RedisError::is_unrecoverable_error)
        {
            self.hang_up(line.number);
        }
        answer
    }

    /// The shared connection, opened if there is none, and whether it was opened now.
    async fn line(&self) -> RedisResult<(Line, bool)> {
        if let Some(line) = self.link().connection.clone() {
            return Ok((line, false));
        }
        let (connection, generation) = self.open().await?;
        let mut link = self.link();
        link.opened += 1;
        let number = link.opened;
        let line = Line { connection, number };
        if link.generation == generation {
            link.connection = Some(line.clone());
        }
        Ok((line, true))
    }

    /// Forgets a dead connection, unless it has been replaced already.
    fn hang_up(&self, number: u64) {
        let mut link = self.link();
        if link
            .connection
            .as_ref()
            .is_some_and(|line| line.number == number)
        {
            link.connection = None;
        }
    }

    /// Opens a connection and gives it with the generation of its address. Answers are not timed by it.
    pub(super) async fn open(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        let (address, generation) = {
            let link = self.link();
            (link.address.clone(), link.generation)
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(None);
        let connection = address
            .client()?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok((connection, generation))
    }

    /// Opens a connection that listens to a channel, and gives it with the generation of its address.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<(PubSub, u64), ControlError> {
        let (address, generation) = {
            let link = self.link();
            (link.address.clone(), link.generation)
        };
        let open = async {
            let mut line = address.client()?.get_async_pubsub().await?;
            line.subscribe(channel).await?;
            Ok(line)
        };
        match tokio::time::timeout(self.timeout, open).await {
            Ok(Ok(line)) => Ok((line, generation)),
            Ok(Err(error)) => Err(self.explain(&error)),
            Err(_) => Err(self.unreachable(format!("no answer within {:?}", self.timeout))),
        }
    }

    fn explain(&self, error: &RedisError) -> ControlError {
        let reason = error.to_string();
        match error.kind() {
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => {
                malformed("Redis' answer", &reason)
            }
            _ if reason.contains("WRONGTYPE") => malformed("a key in Redis", &reason),
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
                ControlError::RedisRefused {
                    address: self.address(),
                    reason,
                }
            }
            _ => self.unreachable(reason),
        }
    }

    fn unreachable(&self, reason: String) -> ControlError {
        ControlError::RedisUnreachable {
            address: self.address(),
            url: self.url.clone(),
            reason,
        }
    }

    fn address(&self) -> String {
        self.link().address.to_string()
    }

    /// Never held across an await; a poisoned lock is still good, as no change can panic half-way.
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn malformed(what: &str, reason: &str) -> ControlError {
    ControlError::Malformed {
        what: what.to_owned(),
        reason: reason.to_owned(),
    }
}

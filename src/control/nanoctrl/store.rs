//! The connection to Redis: one that is shared and reopened after an outage.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Value,
    aio::{MultiplexedConnection, PubSub},
};

use super::{access::Access, address::Address};
use crate::control::abilities::Needs;
use crate::control::{ControlError, eviction, failover};

/// Redis, at the address that NanoCtrl names, unless the settings name another.
#[derive(Debug)]
pub(super) struct Store {
    /// The source of the address; for messages.
    named_by: String,
    access: Access,
    /// Bound on every command, connecting included.
    timeout: Duration,
    link: Mutex<SharedConnection>,
}

/// The address, and the shared connection to it while there is one.
#[derive(Debug)]
struct SharedConnection {
    address: Address,
    /// The address that was named at the last registration.
    registered: Address,
    epoch: Epoch,
    connection: Option<NumberedConnection>,
    /// Number of connections opened.
    opened: u64,
}

/// Distinguishes outdated connections from current ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Epoch {
    /// Number of changes of the address.
    pub(super) generation: u64,
    /// How often the Redis at this address has turned out not to be the master.
    failovers: u64,
}

impl SharedConnection {
    fn move_to(&mut self, address: Address) {
        if self.address != address {
            tracing::info!(from = %self.address, to = %address, "Redis has moved");
            self.address = address;
            self.epoch.generation += 1;
            self.connection = None;
        }
    }
}

/// A connection with its number.
#[derive(Debug, Clone)]
struct NumberedConnection {
    connection: MultiplexedConnection,
    number: u64,
}

impl Store {
    /// Redis at the `address` that the NanoCtrl at `url` has named, unless `access` has another;
    /// nothing is connected yet.
    pub(super) fn new(
        url: &str,
        address: &str,
        access: Access,
        timeout: Duration,
    ) -> Result<Self, ControlError> {
        let (named_by, address) = match &access.address {
            Some(address) => ("the setting `redis`".to_owned(), address.clone()),
            None => (format!("NanoCtrl at {url}"), Address::parse(address)?),
        };
        Ok(Self::at(address, named_by, access, timeout))
    }

    /// Redis at an `address` that is `named_by` this; nothing is connected yet.
    pub(super) fn at(
        address: Address,
        named_by: String,
        access: Access,
        timeout: Duration,
    ) -> Self {
        let link = SharedConnection {
            registered: address.clone(),
            address,
            epoch: Epoch::default(),
            connection: None,
            opened: 0,
        };
        Self {
            named_by,
            access,
            timeout,
            link: Mutex::new(link),
        }
    }

    /// Adopts an address that NanoCtrl names later, unless the settings name one.
    pub(super) fn retarget(&self, address: &str) -> Result<(), ControlError> {
        if self.access.address.is_some() {
            return Ok(());
        }
        let address = Address::parse(address)?;
        let mut link = self.link();
        link.registered = address.clone();
        link.move_to(address);
        Ok(())
    }

    /// Tries another address, as nothing answers at this one: the one that NanoCtrl tells
    /// everybody, which may be wrong from here, or else the one that it named at the registration.
    pub(super) fn try_instead(&self, told: &str) {
        if self.access.address.is_some() {
            return;
        }
        let told = Address::parse(told.strip_prefix("rediss://").unwrap_or(told));
        let mut link = self.link();
        let address = match told {
            Ok(told) if told != link.address => told,
            _ => link.registered.clone(),
        };
        link.move_to(address);
    }

    /// The present epoch; a dedicated connection of another epoch is outdated.
    pub(super) fn epoch(&self) -> Epoch {
        self.link().epoch
    }

    /// Refuses a Redis that lacks something that agents need; `key` must not exist.
    pub(super) async fn check_abilities(&self, key: &str) -> Result<(), ControlError> {
        let answers: Vec<redis::Value> = self.query(&Needs::Agent.probe(key)).await?;
        match Needs::Agent.lacking(&answers) {
            Some(lacking) => Err(ControlError::RedisUnfit {
                address: self.address(),
                lacking,
            }),
            None => Ok(()),
        }
    }

    /// Runs commands and reads their answers as a tuple. A dead connection is replaced, and so is
    /// one to a Redis that is not the master or not ready, until the time is over; so commands run
    /// at least once.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> Result<T, ControlError> {
        let mut refused = None;
        let insisted = self.insist(commands, &mut refused);
        match tokio::time::timeout(self.timeout, insisted).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.explain(&error)),
            Err(_) => {
                // The connection may be half open; the next command must not wait for it.
                self.link().connection = None;
                Err(match refused {
                    Some(error) => self.explain(&error),
                    None => self.unreachable(format!("no answer within {:?}", self.timeout)),
                })
            }
        }
    }

    /// Repeats while another attempt may succeed; `refused` is why the last one failed.
    async fn insist<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
        refused: &mut Option<RedisError>,
    ) -> RedisResult<T> {
        let mut pauses = failover::BACKOFF.pauses();
        loop {
            let (attempt, is_fresh) = match self.line().await {
                Ok((line, is_fresh)) => (self.attempt(line, commands).await, is_fresh),
                Err(error) => (Err(error), true),
            };
            match attempt {
                Err(error) if failover::is_passing(&error) => {
                    *refused = Some(error);
                    tokio::time::sleep(pauses.take()).await;
                }
                Err(error) if failover::is_of_no_use(&error) && !is_fresh => {}
                answer => return answer,
            }
        }
    }

    async fn attempt<T: FromRedisValue>(
        &self,
        mut line: NumberedConnection,
        commands: &Pipeline,
    ) -> RedisResult<T> {
        let answer = commands.query_async(&mut line.connection).await;
        if let Err(error) = &answer {
            self.hang_up(line.number, error);
        }
        answer
    }

    /// The shared connection, opened if there is none, and whether it was opened now.
    async fn line(&self) -> RedisResult<(NumberedConnection, bool)> {
        if let Some(line) = self.link().connection.clone() {
            return Ok((line, false));
        }
        let (connection, epoch) = self.open().await?;
        let mut link = self.link();
        link.opened += 1;
        let number = link.opened;
        let line = NumberedConnection { connection, number };
        if link.epoch == epoch {
            link.connection = Some(line.clone());
        }
        Ok((line, true))
    }

    /// Drops a useless connection, unless it has been replaced already.
    fn hang_up(&self, number: u64, error: &RedisError) {
        if !failover::is_of_no_use(error) {
            return;
        }
        let mut link = self.link();
        let current = link.connection.take_if(|line| line.number == number);
        if current.is_some() && failover::is_passing(error) {
            link.epoch.failovers += 1;
            tracing::warn!(address = %link.address, %error, "this Redis is not the master; connecting again");
        }
    }

    /// Has all connections reopened, because one of them leads to a Redis that is not the master.
    pub(super) fn suspect(&self, error: &RedisError) {
        if failover::is_passing(error) {
            let mut link = self.link();
            link.connection = None;
            link.epoch.failovers += 1;
        }
    }

    /// Opens a connection to a master and returns it with its epoch. It sets no time limit on
    /// answers.
    pub(super) async fn open(&self) -> RedisResult<(MultiplexedConnection, Epoch)> {
        let (address, epoch) = {
            let link = self.link();
            (link.address.clone(), link.epoch)
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(None);
        let mut connection = self
            .access
            .client(&address)?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let checked = failover::check_master(&mut connection);
        tokio::time::timeout(self.timeout, checked)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok((connection, epoch))
    }

    /// Opens a connection that listens to a channel, and returns it with its epoch.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<(PubSub, Epoch), ControlError> {
        let (address, epoch) = {
            let link = self.link();
            (link.address.clone(), link.epoch)
        };
        let open = async {
            let mut line = self.access.client(&address)?.get_async_pubsub().await?;
            line.subscribe(channel).await?;
            Ok(line)
        };
        match tokio::time::timeout(self.timeout, open).await {
            Ok(Ok(line)) => Ok((line, epoch)),
            Ok(Err(error)) => Err(self.explain(&error)),
            Err(_) => Err(self.unreachable(format!("no answer within {:?}", self.timeout))),
        }
    }

    /// Warns if Redis may evict this agent's keys.
    pub(super) async fn warn_of_eviction(&self) {
        if let Some(policy) = self.eviction().await {
            eviction::warn(&self.address(), &policy);
        }
    }

    /// The policy by which Redis evicts keys that are in use. A Redis that does not show its
    /// settings is taken for one that evicts none.
    pub(super) async fn eviction(&self) -> Option<String> {
        for question in eviction::QUESTIONS {
            let mut ask = Pipeline::new();
            ask.cmd(question[0]).arg(&question[1..]);
            match self.query::<(Value,)>(&ask).await {
                Ok((answer,)) => {
                    return eviction::policy(&eviction::text(answer)).map(str::to_owned);
                }
                Err(error) => {
                    tracing::debug!(%error, "Redis does not tell whether it removes keys")
                }
            }
        }
        None
    }

    pub(super) fn explain(&self, error: &RedisError) -> ControlError {
        let reason = error.to_string();
        match error.kind() {
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => {
                malformed("Redis' answer", &reason)
            }
            _ if reason.contains("WRONGTYPE") => malformed("a key in Redis", &reason),
            _ if is_about_login(error, &reason) => ControlError::RedisLogin {
                address: self.address(),
                reason,
            },
            ErrorKind::Server(_) | ErrorKind::Extension => ControlError::RedisRefused {
                address: self.address(),
                reason,
            },
            _ => self.unreachable(reason),
        }
    }

    fn unreachable(&self, reason: String) -> ControlError {
        ControlError::RedisUnreachable {
            address: self.address(),
            named_by: self.named_by.clone(),
            reason,
        }
    }

    pub(super) fn address(&self) -> String {
        self.link().address.to_string()
    }

    /// Never held across an await; a poisoned lock is still good, as no change can panic half-way.
    fn link(&self) -> MutexGuard<'_, SharedConnection> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether the login was the reason for the refusal.
fn is_about_login(error: &RedisError, reason: &str) -> bool {
    let codes = ["NOAUTH", "WRONGPASS", "NOPERM"];
    error.kind() == ErrorKind::AuthenticationFailed || codes.iter().any(|it| reason.contains(it))
}

fn malformed(what: &str, reason: &str) -> ControlError {
    ControlError::Malformed {
        what: what.to_owned(),
        reason: reason.to_owned(),
    }
}

//! The control plane of one user's processes on one host, with nothing installed.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::Value;

mod directory;
mod files;
mod index;
mod registered_agent;
mod scope;
mod threads;
mod turns;

use self::directory::make_private;
use self::registered_agent::RegisteredAgent;
use self::scope::{LockedScope, Scope};
use self::threads::blocking;
use super::{
    Control, ControlError, Entity, EntityEvent, Mail, MailEvent, PeerRecord, Registration,
    life::Life,
    names::{check_alias, check_scope},
};

/// A control plane for the processes of one user on one host. It has the semantics of NanoCtrl and
/// Redis, and needs neither: agents share a directory, `$XDG_RUNTIME_DIR/slimerpc`, or
/// `/tmp/slimerpc-<uid>` where that variable is not set. Only this user may enter it.
///
/// An agent is alive as long as the socket of its alias is bound, which ends with its process. What
/// a killed agent leaves is removed by whoever takes its alias, or else by the others within 15 s.
/// An operation fails after 5 s in which nobody could change the directory, because another process
/// is stopped while it does. Mail for an agent that is not up waits for 10 minutes. Dropping a
/// registered `Host` without [`clean_up`](Control::clean_up) is like a crash.
///
/// It must be used within a tokio runtime.
///
/// ```no_run
/// use slimerpc::control::{Control, Host, Registration};
/// # async fn example() -> Result<(), slimerpc::control::ControlError> {
/// let agent = Host::new("job-7");
/// let registration = Registration {
///     alias: Some("worker:0".to_owned()),
///     ..Registration::default()
/// };
/// agent.register(registration).await?;
/// agent.clean_up().await
/// # }
/// ```
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    scope: Scope,
    life: Arc<Life<RegisteredAgent>>,
}

impl Host {
    /// Makes an agent, not registered yet, in `scope` (empty for none) of this user.
    pub fn new(scope: impl Into<String>) -> Self {
        Self::at(directory::of_this_user(), scope)
    }

    /// Makes an agent whose peers use the same `directory`. It is made if its parent exists, must
    /// belong to this user alone, and its path should not be longer than 40 bytes.
    pub fn at(directory: impl Into<PathBuf>, scope: impl Into<String>) -> Self {
        let root = directory.into();
        Self {
            scope: Scope::new(&root, &scope.into()),
            root,
            life: Arc::new(Life::new()),
        }
    }

    /// Lists the live entities of a kind; this value need not be registered.
    ///
    /// # Errors
    /// [`ControlError::HostDirectory`] if the directory cannot be used.
    pub async fn list_entities(&self, kind: &str) -> Result<Vec<Entity>, ControlError> {
        let kind = kind.to_owned();
        self.list(move |scope| scope.entities(&kind)).await
    }

    /// Lists the registered agents, in any order; this value need not be registered.
    ///
    /// # Errors
    /// [`ControlError::HostDirectory`] if the directory cannot be used.
    pub async fn list_agents(&self) -> Result<Vec<PeerRecord>, ControlError> {
        self.list(Scope::peers).await
    }

    /// Reads the scope, if this user alone may enter the directory it is in.
    async fn list<T: Send + 'static>(
        &self,
        list: impl FnOnce(&Scope) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, ControlError> {
        check_scope(&self.scope.name)?;
        let (root, scope) = (self.root.clone(), self.scope.clone());
        blocking(move || {
            make_private(&root)?;
            list(&scope)
        })
        .await
    }

    /// Changes something while this agent is registered.
    async fn change(
        &self,
        change: impl FnOnce(&Arc<RegisteredAgent>) -> Result<(), ControlError> + Send + 'static,
    ) -> Result<(), ControlError> {
        let agent = self.life.current()?;
        self.scope.in_turn(move || change(&agent)).await
    }

    /// Does something to the scope while this agent is registered.
    async fn lock(
        &self,
        act: impl FnOnce(&LockedScope<'_>) -> Result<(), ControlError> + Send + 'static,
    ) -> Result<(), ControlError> {
        self.change(|agent| agent.with(act)).await
    }

    /// Asks the scope something while this agent is registered.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Scope) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, ControlError> {
        let agent = self.life.current()?;
        blocking(move || ask(&agent.scope)).await
    }

    /// Publishes a record of this agent, or withdraws it.
    async fn set_record(&self, name: &str, record: Option<Value>) -> Result<(), ControlError> {
        let name = name.to_owned();
        self.change(move |agent| {
            agent.change(
                |published| set(&mut published.records, name.clone(), record),
                |it, scope| scope.publish(&agent.alias, &name, it.records.get(&name)),
            )
        })
        .await
    }

    /// Publishes an entity of this agent, or withdraws it.
    async fn set_entity(&self, id: String, entity: Option<Entity>) -> Result<(), ControlError> {
        self.change(move |agent| {
            agent.change(
                |published| set(&mut published.entities, id.clone(), entity),
                |it, scope| scope.advertise(&agent.alias, &id, it.entities.get(&id)),
            )
        })
        .await
    }
}

fn set<T>(map: &mut BTreeMap<String, T>, key: String, value: Option<T>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

#[async_trait]
impl Control for Host {
    async fn register(&self, registration: Registration) -> Result<String, ControlError> {
        check_scope(&self.scope.name)?;
        if let Some(alias) = &registration.alias {
            check_alias(alias)?;
        }
        if let Ok(agent) = self.life.current() {
            return Err(ControlError::AliasTaken {
                alias: agent.alias.clone(),
                scope: self.scope.name.clone(),
                holder: "this agent".to_owned(),
            });
        }
        if !self.life.is_new() {
            return Err(ControlError::NotRegistered);
        }
        let (scope, life) = (self.scope.clone(), Arc::clone(&self.life));
        let registering = move || RegisteredAgent::register(scope, registration, life);
        let agent = self.scope.in_turn(registering).await?;
        if !self.life.begin(Arc::clone(&agent)) {
            self.scope.in_turn(move || agent.leave()).await?;
            return Err(ControlError::NotRegistered);
        }
        Ok(agent.alias.clone())
    }

    async fn heartbeat(&self) -> Result<(), ControlError> {
        self.change(RegisteredAgent::refresh).await
    }

    async fn set_topology(&self, peers: &[String]) -> Result<(), ControlError> {
        let peers = peers.to_vec();
        self.change(move |agent| {
            let declared = peers.clone();
            agent.change(
                |published| published.topology = declared,
                |published, scope| scope.declare(&agent.alias, &published.topology),
            )?;
            for peer in &peers {
                agent.mail.push(MailEvent::Mail(Mail::connect_peer(peer)));
            }
            Ok(())
        })
        .await
    }

    async fn peer(&self, alias: &str) -> Result<Option<PeerRecord>, ControlError> {
        let alias = alias.to_owned();
        self.ask(move |scope| scope.peer(&alias)).await
    }

    async fn send_mail(&self, peer: &str, mail: &Mail) -> Result<(), ControlError> {
        let (peer, event) = (peer.to_owned(), MailEvent::Mail(mail.clone()));
        self.lock(move |scope| scope.post(&peer, &event)).await
    }

    fn mail(&self) -> BoxStream<'static, MailEvent> {
        let (life, end) = (Arc::clone(&self.life), Arc::clone(&self.life));
        stream::once(async move { life.begun().await })
            .filter_map(|agent| async move { agent })
            .flat_map(|agent| Arc::clone(&agent.mail).read())
            .take_until(async move { end.ended().await })
            .boxed()
    }

    async fn publish(&self, name: &str, record: Value) -> Result<(), ControlError> {
        self.set_record(name, Some(record)).await
    }

    async fn withdraw(&self, name: &str) -> Result<(), ControlError> {
        self.set_record(name, None).await
    }

    async fn lookup(&self, peer: &str, name: &str) -> Result<Option<Value>, ControlError> {
        let (peer, name) = (peer.to_owned(), name.to_owned());
        self.ask(move |scope| scope.lookup(&peer, &name)).await
    }

    async fn advertise(&self, entity: Entity) -> Result<(), ControlError> {
        self.set_entity(entity.id.clone(), Some(entity)).await
    }

    async fn retract(&self, id: &str) -> Result<(), ControlError> {
        self.set_entity(id.to_owned(), None).await
    }

    async fn entities(&self, kind: &str) -> Result<Vec<Entity>, ControlError> {
        let kind = kind.to_owned();
        self.ask(move |scope| scope.entities(&kind)).await
    }

    fn watch_entities(&self, kind: &str) -> BoxStream<'static, EntityEvent> {
        let (life, end) = (Arc::clone(&self.life), Arc::clone(&self.life));
        let kind = kind.to_owned();
        stream::once(async move { life.begun().await })
            .filter_map(|agent| async move { agent })
            .flat_map(move |agent| agent.watch(kind.clone()))
            .take_until(async move { end.ended().await })
            .boxed()
    }

    async fn clean_up(&self) -> Result<(), ControlError> {
        match self.life.end() {
            Some(agent) => self.scope.in_turn(move || agent.leave()).await,
            None => Ok(()),
        }
    }

    fn describe(&self) -> String {
        format!("the agents of this user in {}", self.root.display())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The task that has the socket ends with the life.
        self.life.end();
    }
}

//! The control plane inside one process, without a server.

use std::sync::{Arc, LazyLock, Weak};

use async_trait::async_trait;
use dashmap::DashMap;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::Value;

mod registry;
mod service_directory;

use self::registry::{RegisteredAgent, Registry};
use super::{
    Control, ControlError, Entity, EntityEvent, Mail, MailEvent, PeerRecord, Registration,
    life::Life,
    mail_log::MailLog,
    names::{check_alias, check_scope},
};

/// The scopes in use, by name.
static TOWNS: LazyLock<DashMap<String, Weak<Registry>>> = LazyLock::new(DashMap::new);

/// A control plane for the agents of one process. It has the semantics of NanoCtrl and Redis: names
/// are unique in a scope, mail waits for a peer that is not up yet, and peers are told when one
/// leaves.
///
/// A scope exists as long as some `Local` of it does. Dropping a registered `Local` without
/// [`clean_up`](Control::clean_up) is like a crash, except that the name is free at once: its
/// records and mail are gone and no peer is told.
///
/// ```
/// use slimerpc::control::{Control, Local, Registration};
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let agent = Local::new("docs");
/// let name = agent.register(Registration::default()).await?;
/// assert_eq!(name, "agent-1");
/// # Ok::<_, slimerpc::control::ControlError>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Local {
    scope: String,
    registry: Arc<Registry>,
    life: Arc<Life<LocalIdentity>>,
}

/// The name and the mail of a registered agent.
#[derive(Debug)]
struct LocalIdentity {
    alias: String,
    mail: Arc<MailLog>,
}

impl Local {
    /// Makes an agent, not registered yet, in `scope` (empty for none) of this process.
    pub fn new(scope: impl Into<String>) -> Self {
        let scope = scope.into();
        Self {
            registry: registry(&scope),
            scope,
            life: Arc::new(Life::new()),
        }
    }

    /// Registers with a registry, under the requested or a generated name.
    fn register(&self, registration: Registration) -> Result<LocalIdentity, ControlError> {
        let wanted = registration.alias.clone();
        let agent = RegisteredAgent::new(registration);
        let (alias, mail) = self
            .registry
            .register(wanted, agent)
            .map_err(|alias| self.taken(alias))?;
        Ok(LocalIdentity { alias, mail })
    }

    fn taken(&self, alias: String) -> ControlError {
        ControlError::AliasTaken {
            alias,
            scope: self.scope.clone(),
            holder: String::new(),
        }
    }
}

/// The registry of a scope; made if there is none.
fn registry(scope: &str) -> Arc<Registry> {
    TOWNS.retain(|_, registry| registry.strong_count() > 0);
    let mut entry = TOWNS.entry(scope.to_owned()).or_default();
    entry.upgrade().unwrap_or_else(|| {
        let registry = Arc::new(Registry::default());
        *entry = Arc::downgrade(&registry);
        registry
    })
}

#[async_trait]
impl Control for Local {
    async fn register(&self, registration: Registration) -> Result<String, ControlError> {
        check_scope(&self.scope)?;
        if let Some(alias) = &registration.alias {
            check_alias(alias)?;
        }
        if let Ok(home) = self.life.current() {
            return Err(self.taken(home.alias.clone()));
        }
        let home = Arc::new(self.register(registration)?);
        if !self.life.begin(Arc::clone(&home)) {
            self.registry.unregister(&home.alias);
            return Err(ControlError::NotRegistered);
        }
        Ok(home.alias.clone())
    }

    async fn heartbeat(&self) -> Result<(), ControlError> {
        self.life.current().map(drop)
    }

    async fn set_topology(&self, peers: &[String]) -> Result<(), ControlError> {
        let home = self.life.current()?;
        self.registry.declare(&home.alias, peers);
        Ok(())
    }

    async fn peer(&self, alias: &str) -> Result<Option<PeerRecord>, ControlError> {
        self.life.current()?;
        Ok(self.registry.agent(alias))
    }

    async fn send_mail(&self, peer: &str, mail: &Mail) -> Result<(), ControlError> {
        self.life.current()?;
        self.registry.post(peer, MailEvent::Mail(mail.clone()));
        Ok(())
    }

    fn mail(&self) -> BoxStream<'static, MailEvent> {
        let (life, end) = (Arc::clone(&self.life), Arc::clone(&self.life));
        stream::once(async move { life.begun().await })
            .filter_map(|home| async move { home })
            .flat_map(|home| Arc::clone(&home.mail).read())
            .take_until(async move { end.ended().await })
            .boxed()
    }

    async fn publish(&self, name: &str, record: Value) -> Result<(), ControlError> {
        let home = self.life.current()?;
        self.registry.publish(&home.alias, name, record);
        Ok(())
    }

    async fn withdraw(&self, name: &str) -> Result<(), ControlError> {
        let home = self.life.current()?;
        self.registry.withdraw(&home.alias, name);
        Ok(())
    }

    async fn lookup(&self, peer: &str, name: &str) -> Result<Option<Value>, ControlError> {
        self.life.current()?;
        Ok(self.registry.lookup(peer, name))
    }

    async fn advertise(&self, entity: Entity) -> Result<(), ControlError> {
        let home = self.life.current()?;
        let id = entity.id.clone();
        self.registry.services.publish(&home.alias, entity);
        // If this agent has left meanwhile, its entities were removed before this one was added.
        if self.life.current().is_err() {
            self.registry.services.take_down(&id);
        }
        Ok(())
    }

    async fn retract(&self, id: &str) -> Result<(), ControlError> {
        self.life.current()?;
        self.registry.services.take_down(id);
        Ok(())
    }

    async fn entities(&self, kind: &str) -> Result<Vec<Entity>, ControlError> {
        self.life.current()?;
        Ok(self.registry.services.read(kind))
    }

    fn watch_entities(&self, kind: &str) -> BoxStream<'static, EntityEvent> {
        let (life, end) = (Arc::clone(&self.life), Arc::clone(&self.life));
        let (registry, kind) = (Arc::clone(&self.registry), kind.to_owned());
        stream::once(async move { life.begun().await })
            .filter_map(|home| async move { home })
            .flat_map(move |_| registry.services.watch(kind.clone()))
            .take_until(async move { end.ended().await })
            .boxed()
    }

    async fn clean_up(&self) -> Result<(), ControlError> {
        if let Some(home) = self.life.end() {
            for peer in self.registry.unregister(&home.alias) {
                tracing::debug!(
                    alias = home.alias,
                    peer,
                    "told a peer that this agent leaves"
                );
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        "this process".to_owned()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(home) = self.life.end() {
            self.registry.unregister_silently(&home.alias);
        }
    }
}

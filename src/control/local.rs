//! The control plane of one process: no server, nothing installed.

use std::sync::{Arc, LazyLock, Weak};

use async_trait::async_trait;
use dashmap::DashMap;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::Value;

mod notices;
mod town;

use self::town::{MailLog, Resident, Town};
use super::{
    Control, ControlError, Entity, EntityEvent, Mail, MailEvent, PeerRecord, Registration,
    life::Life,
    names::{check_alias, check_scope},
};

/// The scopes in use, by name.
static TOWNS: LazyLock<DashMap<String, Weak<Town>>> = LazyLock::new(DashMap::new);

/// Joins agents of one process without NanoCtrl and Redis, with the same semantics: names are unique in a
/// scope, mail waits for a peer that is not up yet, peers are told when one leaves.
///
/// A scope lives as long as some `Local` of it does. Dropping a registered `Local` without
/// [`clean_up`](Control::clean_up) is like a crash, except that the name is free at once: its records and
/// mail are gone and nobody is told.
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
    town: Arc<Town>,
    life: Arc<Life<Home>>,
}

/// What a registered agent has: its name and its mailbox.
#[derive(Debug)]
struct Home {
    alias: String,
    mail: Arc<MailLog>,
}

impl Local {
    /// An agent-to-be in `scope` (empty for none) of this process.
    pub fn new(scope: impl Into<String>) -> Self {
        let scope = scope.into();
        Self {
            town: town(&scope),
            scope,
            life: Arc::new(Life::new()),
        }
    }

    /// Registers with a town, under the wanted or a generated name.
    fn move_in(&self, registration: Registration) -> Result<Home, ControlError> {
        let wanted = registration.alias.clone();
        let resident = Resident::new(registration);
        let (alias, mail) = self
            .town
            .move_in(wanted, resident)
            .map_err(|alias| self.taken(alias))?;
        Ok(Home { alias, mail })
    }

    fn taken(&self, alias: String) -> ControlError {
        ControlError::AliasTaken {
            alias,
            scope: self.scope.clone(),
            holder: String::new(),
        }
    }
}

/// The town of a scope, founded if there is none.
fn town(scope: &str) -> Arc<Town> {
    TOWNS.retain(|_, town| town.strong_count() > 0);
    let mut entry = TOWNS.entry(scope.to_owned()).or_default();
    entry.upgrade().unwrap_or_else(|| {
        let town = Arc::new(Town::default());
        *entry = Arc::downgrade(&town);
        town
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
        let home = Arc::new(self.move_in(registration)?);
        if !self.life.begin(Arc::clone(&home)) {
            self.town.move_out(&home.alias);
            return Err(ControlError::NotRegistered);
        }
        Ok(home.alias.clone())
    }

    async fn heartbeat(&self) -> Result<(), ControlError> {
        self.life.current().map(drop)
    }

    async fn set_topology(&self, peers: &[String]) -> Result<(), ControlError> {
        let home = self.life.current()?;
        self.town.declare(&home.alias, peers);
        Ok(())
    }

    async fn peer(&self, alias: &str) -> Result<Option<PeerRecord>, ControlError> {
        self.life.current()?;
        Ok(self.town.resident(alias))
    }

    async fn send_mail(&self, peer: &str, mail: &Mail) -> Result<(), ControlError> {
        self.life.current()?;
        self.town.post(peer, MailEvent::Mail(mail.clone()));
        Ok(())
    }

    fn mailbox(&self) -> BoxStream<'static, MailEvent> {
        let (life, end) = (Arc::clone(&self.life), Arc::clone(&self.life));
        stream::once(async move { life.begun().await })
            .filter_map(|home| async move { home })
            .flat_map(|home| Arc::clone(&home.mail).read())
            .take_until(async move { end.ended().await })
            .boxed()
    }

    async fn publish(&self, name: &str, record: Value) -> Result<(), ControlError> {
        let home = self.life.current()?;
        self.town.publish(&home.alias, name, record);
        Ok(())
    }

    async fn withdraw(&self, name: &str) -> Result<(), ControlError> {
        let home = self.life.current()?;
        self.town.withdraw(&home.alias, name);
        Ok(())
    }

    async fn lookup(&self, peer: &str, name: &str) -> Result<Option<Value>, ControlError> {
        self.life.current()?;
        Ok(self.town.lookup(peer, name))
    }

    async fn advertise(&self, entity: Entity) -> Result<(), ControlError> {
        let home = self.life.current()?;
        let id = entity.id.clone();
        self.town.notices.put_up(&home.alias, entity);
        // If we left meanwhile, the others have been taken down already.
        if self.life.current().is_err() {
            self.town.notices.take_down(&id);
        }
        Ok(())
    }

    async fn retract(&self, id: &str) -> Result<(), ControlError> {
        self.life.current()?;
        self.town.notices.take_down(id);
        Ok(())
    }

    async fn entities(&self, kind: &str) -> Result<Vec<Entity>, ControlError> {
        self.life.current()?;
        Ok(self.town.notices.read(kind))
    }

    fn watch_entities(&self, kind: &str) -> BoxStream<'static, EntityEvent> {
        let (life, end) = (Arc::clone(&self.life), Arc::clone(&self.life));
        let (town, kind) = (Arc::clone(&self.town), kind.to_owned());
        stream::once(async move { life.begun().await })
            .filter_map(|home| async move { home })
            .flat_map(move |_| town.notices.watch(kind.clone()))
            .take_until(async move { end.ended().await })
            .boxed()
    }

    async fn clean_up(&self) -> Result<(), ControlError> {
        if let Some(home) = self.life.end() {
            for peer in self.town.move_out(&home.alias) {
                tracing::debug!(alias = home.alias, peer, "told a peer that we leave");
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
            self.town.evict(&home.alias);
        }
    }
}

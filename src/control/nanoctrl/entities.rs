//! This agent's entities: registering them, keeping them alive, removing them.

use futures_util::future::join_all;
use redis::pipe;
use serde_json::Value;

use super::{NanoCtrl, renewal::Renewal, session::Session};
use crate::control::{ControlError, Entity, PeerRecord, lease, names::check_scope};

/// Renews the leases of entities, and returns for each whether it exists.
const RENEW: &str = "local there, found = {}, {} \
                     for i = 3, #KEYS do \
                     there[i - 2] = redis.call('EXPIRE', KEYS[i], NATIVE) \
                     if there[i - 2] == 1 then table.insert(found, KEYS[i]) end end \
                     if #found > 0 then \
                     redis.call('SADD', KEYS[1], unpack(found)) enlist(KEYS[1], found[1], ARGV[1], NATIVE) end \
                     prolong(KEYS[2]) return there";

impl NanoCtrl {
    /// Lists the live entities of a kind; this value need not be registered. See
    /// [`Control::entities`](crate::control::Control::entities).
    ///
    /// ```no_run
    /// use slimerpc::control::{NanoCtrl, ServiceRecord};
    /// # async fn example() -> Result<(), slimerpc::control::ControlError> {
    /// let nanoctrl = NanoCtrl::new("127.0.0.1:3000", "")?;
    /// let services = nanoctrl.list_entities(ServiceRecord::KIND).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The server is out of reach, or keeps no entities.
    pub async fn list_entities(&self, kind: &str) -> Result<Vec<Entity>, ControlError> {
        check_scope(self.keys.scope())?;
        self.http.entities(kind).await
    }

    /// Lists the registered agents, in any order; this value need not be registered.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), slimerpc::control::ControlError> {
    /// for agent in slimerpc::control::NanoCtrl::new("127.0.0.1:3000", "")?.list_agents().await? {
    ///     println!("{} at {}", agent.alias, agent.address);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The server is out of reach.
    pub async fn list_agents(&self) -> Result<Vec<PeerRecord>, ControlError> {
        check_scope(self.keys.scope())?;
        self.http.agents().await
    }

    /// Lists the scopes in which something is registered, including the empty one if something is
    /// registered without a scope.
    ///
    /// # Errors
    /// The server is out of reach, or keeps no such list, as DLSlime's server:
    /// [`ControlError::Refused`] with 404.
    pub async fn list_scopes(&self) -> Result<Vec<String>, ControlError> {
        self.http.scopes().await
    }

    /// Remembers an entity and registers it.
    pub(super) async fn add_entity(
        &self,
        session: &Session,
        entity: Entity,
    ) -> Result<(), ControlError> {
        let remembered = entity.clone();
        session
            .published()
            .entities
            .insert(remembered.id.clone(), remembered);
        let renewal = self.renewal();
        renewal.check_owner(session).await?;
        renewal.register_entity(session, &entity).await
    }

    /// Forgets an entity and removes it.
    pub(super) async fn remove_entity(
        &self,
        session: &Session,
        id: &str,
    ) -> Result<(), ControlError> {
        session.published().entities.remove(id);
        if self.renewal().is_others(session.keep().await?) {
            return Ok(()); // What has that id now is another's.
        }
        if session.others_entities(&[id]).await?.contains(&id) {
            return Ok(());
        }
        let life = &session.incarnation;
        self.http.unregister_entity(id, life).await?;
        session.unlist_entities(&[id]).await;
        Ok(())
    }

    /// Removes all entities of this agent when it leaves. Entities that the server cannot be told
    /// of are removed without an event.
    pub(super) async fn remove_entities(&self, session: &Session) -> Result<(), ControlError> {
        let mut entities = std::mem::take(&mut session.published().entities);
        let ids: Vec<String> = entities.keys().cloned().collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        for id in session.others_entities(&ids).await.unwrap_or_default() {
            entities.remove(id);
        }
        if entities.is_empty() {
            return Ok(());
        }
        let life = &session.incarnation;
        let ids: Vec<&str> = entities.keys().map(String::as_str).collect();
        let removals = ids.iter().map(|id| self.http.unregister_entity(id, life));
        let failed = join_all(removals).await.into_iter().find_map(Result::err);
        match failed {
            None => {
                session.unlist_entities(&ids).await;
                Ok(())
            }
            Some(error) if keeps_no_entities(&error) => Ok(()),
            Some(error) => {
                tracing::debug!(%error, "entities are removed without telling their watchers");
                session.remove_entities(&ids).await
            }
        }
    }
}

impl Renewal {
    /// Keeps the entities alive in one round trip, however many they are, and registers lost ones
    /// again.
    pub(super) async fn renew_entities(&self, session: &Session) -> Result<(), ControlError> {
        let entities = session.published().entities.clone();
        if entities.is_empty() {
            return Ok(());
        }
        let keys = &session.keys;
        let mut renew = pipe();
        let command = renew.cmd("EVAL").arg(lease::script(RENEW));
        command.arg(2 + entities.len());
        command
            .arg(keys.entities())
            .arg(keys.entity_revision(Entity::TYPE));
        for id in entities.keys() {
            command.arg(keys.entity(Entity::TYPE, id));
        }
        command.arg(keys.index_name());
        let (renewed,): (Vec<bool>,) = session.store.query(&renew).await?;
        for (entity, is_there) in entities.values().zip(renewed) {
            if is_there {
                continue;
            }
            match self.register_entity(session, entity).await {
                Ok(()) => tracing::debug!(id = entity.id, "entity registered again"),
                // There are no entities to keep alive, so an error here says nothing about the
                // registration of the agent.
                Err(error) if keeps_no_entities(&error) => tracing::debug!(%error, "no entities"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn register_entity(
        &self,
        session: &Session,
        entity: &Entity,
    ) -> Result<(), ControlError> {
        self.http.register_entity(entity, session.mark()).await?;
        // The entity may have been retracted, or the agent may have left, while the request was
        // under way.
        let is_ours = session.published().entities.contains_key(&entity.id);
        if is_ours && self.life.current().is_ok() {
            return Ok(());
        }
        let life = &session.incarnation;
        self.http.unregister_entity(&entity.id, life).await?;
        session.unlist_entities(&[&entity.id]).await;
        Ok(())
    }
}

impl Session {
    /// The ids among these that another agent has registered in place of this one.
    async fn others_entities<'a>(&self, ids: &[&'a str]) -> Result<Vec<&'a str>, ControlError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = pipe();
        for id in ids {
            let key = self.keys.entity(Entity::TYPE, id);
            read.cmd("HGET").arg(key).arg("endpoint");
        }
        let marks: Vec<Option<Vec<u8>>> = self.store.query(&read).await?;
        let others = ids.iter().zip(marks).filter(|(_, mark)| {
            let mark: Value =
                serde_json::from_slice(mark.as_deref().unwrap_or_default()).unwrap_or_default();
            mark["incarnation"].is_string() && mark != self.mark()
        });
        Ok(others.map(|(id, _)| *id).collect())
    }
}

/// Returns whether the server has no such routes; services are then found by alias only.
fn keeps_no_entities(error: &ControlError) -> bool {
    matches!(
        error,
        ControlError::Refused {
            status: 404 | 405 | 501,
            ..
        }
    )
}

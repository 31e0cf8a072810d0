//! Entities, the counters of their changes, and the events about them.

use std::collections::BTreeMap;

use redis::aio::ConnectionManager;
use redis::{AsyncCommands, RedisResult};
use serde::Serialize;
use serde_json::Value;

use super::index::{Index, scopes};
use super::{CHUNK, Repository, RepositoryError, now, script};
use crate::control::keys::Keys;

/// An entity to register.
pub(in crate::nanoctrl) struct Entity {
    pub(in crate::nanoctrl) entity_type: String,
    pub(in crate::nanoctrl) entity_id: String,
    pub(in crate::nanoctrl) kind: String,
    pub(in crate::nanoctrl) endpoint: Option<Value>,
    pub(in crate::nanoctrl) metadata: Value,
    pub(in crate::nanoctrl) resource: Option<Value>,
}

impl Entity {
    /// The public description of the entity; its keys are sorted.
    fn info(&self) -> String {
        serde_json::json!({
            "endpoint": self.endpoint,
            "entity_id": self.entity_id,
            "entity_type": self.entity_type,
            "id": self.entity_id,
            "kind": self.kind,
            "metadata": self.metadata,
            "resource": self.resource,
        })
        .to_string()
    }

    /// The event of its registration, up to where Redis inserts the revision.
    fn event(&self) -> String {
        #[derive(Serialize)]
        struct Added<'a> {
            event_type: &'static str,
            entity_type: &'a str,
            entity_id: &'a str,
            kind: &'a str,
            timestamp: u64,
        }
        open_object(&Added {
            event_type: "ADD",
            entity_type: &self.entity_type,
            entity_id: &self.entity_id,
            kind: &self.kind,
            timestamp: now().as_secs(),
        })
    }
}

/// The event of a removal, up to where Redis inserts the revision.
fn removal(entity_type: &str, entity_id: &str) -> String {
    #[derive(Serialize)]
    struct Removed<'a> {
        entity_type: &'a str,
        entity_id: &'a str,
        timestamp: String,
        event_type: &'static str,
    }
    open_object(&Removed {
        entity_type,
        entity_id,
        timestamp: now().as_secs().to_string(),
        event_type: "REMOVE",
    })
}

/// The JSON text of `object` without its closing brace.
fn open_object(object: &impl Serialize) -> String {
    let mut text = serde_json::to_string(object).expect("strings and numbers are JSON");
    text.pop();
    text
}

/// JSON text, or nothing for nothing.
fn optional(value: &Option<Value>) -> String {
    value.as_ref().map(Value::to_string).unwrap_or_default()
}

impl Repository {
    /// Registers an entity, or registers it again, and notifies the watchers of its type. Returns
    /// false if its key belongs to something else, for instance to an agent.
    pub(in crate::nanoctrl) async fn register_entity(
        &self,
        keys: &Keys,
        entity: &Entity,
    ) -> Result<bool, RepositoryError> {
        let info = entity.info();
        self.run(async |mut redis| {
            Ok(script(include_str!("register_entity.lua"))
                .key(keys.entity(&entity.entity_type, &entity.entity_id))
                .key(keys.entity_revision(&entity.entity_type))
                .key(keys.entity_events(&entity.entity_type))
                .key(keys.entities())
                .arg(keys.index_name())
                .arg(entity.event())
                .arg(format!(",\"payload\":{info}}}"))
                .arg(("entity_type", &entity.entity_type))
                .arg(("entity_id", &entity.entity_id))
                .arg(("kind", &entity.kind))
                .arg(("endpoint", optional(&entity.endpoint)))
                .arg(("metadata", entity.metadata.to_string()))
                .arg(("resource", optional(&entity.resource)))
                .arg(("info", &info))
                .invoke_async(&mut redis)
                .await?)
        })
        .await
    }

    /// Removes an entity and notifies the watchers of its type. Does nothing if it does not exist,
    /// or if `owner` is given and the entity names another one (FENCE-1).
    pub(in crate::nanoctrl) async fn unregister_entity(
        &self,
        keys: &Keys,
        entity_type: &str,
        entity_id: &str,
        owner: Option<&str>,
    ) -> Result<(), RepositoryError> {
        self.run(async |mut redis| {
            Ok(script(include_str!("unregister_entity.lua"))
                .key(keys.entity(entity_type, entity_id))
                .key(keys.entity_revision(entity_type))
                .key(keys.entity_events(entity_type))
                .key(keys.entities())
                .arg(keys.index_name())
                .arg(removal(entity_type, entity_id))
                .arg(entity_type)
                .arg(entity_id)
                .arg(owner.unwrap_or_default())
                .invoke_async(&mut redis)
                .await?)
        })
        .await
    }

    /// The description of an entity.
    pub(in crate::nanoctrl) async fn entity_info(
        &self,
        key: &str,
    ) -> Result<Option<Value>, RepositoryError> {
        let info: Option<Vec<u8>> = self
            .run(async |mut redis| Ok(redis.hget(key, "info").await?))
            .await?;
        Ok(info.and_then(|info| serde_json::from_slice(&info).ok()))
    }

    /// The descriptions of the entities of a type, or of all types; without scope and type, of all
    /// scopes.
    pub(in crate::nanoctrl) async fn entities(
        &self,
        keys: &Keys,
        entity_type: Option<&str>,
    ) -> Result<Vec<Value>, RepositoryError> {
        self.run(async |mut redis| {
            let scopes = match entity_type {
                None if keys.scope().is_empty() => scopes(&mut redis).await?,
                _ => vec![keys.clone()],
            };
            let mut found = BTreeMap::new();
            for keys in scopes {
                let index = Index {
                    key: keys.entities(),
                    prefix: String::new(),
                    scope: keys.index_name(),
                };
                let listed = index.members(&mut redis).await?;
                let mut gone = Vec::new();
                for chunk in listed.chunks(CHUNK) {
                    for (key, info) in chunk.iter().zip(read_infos(&mut redis, chunk).await?) {
                        match info {
                            Some(info) => drop(found.insert(key.clone(), info)),
                            None => gone.push(key.clone()),
                        }
                    }
                }
                index.forget(&mut redis, &gone).await?;
            }
            let mut entities: Vec<Value> = found
                .into_values()
                .filter_map(|info| serde_json::from_slice(&info).ok())
                .collect();
            if let Some(wanted) = entity_type {
                entities.retain(|info| info.get("entity_type").is_none_or(|it| it == wanted));
            }
            Ok(entities)
        })
        .await
    }
}

/// Reads the descriptions in these hashes; a key that is not a hash has none.
async fn read_infos(
    redis: &mut ConnectionManager,
    keys: &[Vec<u8>],
) -> RedisResult<Vec<Option<Vec<u8>>>> {
    let mut pipe = redis::pipe();
    for key in keys {
        pipe.hget(key, "info");
    }
    let infos: Vec<RedisResult<Option<Vec<u8>>>> = pipe.ignore_errors().query_async(redis).await?;
    Ok(infos.into_iter().map(|info| info.ok().flatten()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_an_info_are_sorted() {
        let entity = Entity {
            entity_type: "service".into(),
            entity_id: "e1".into(),
            kind: "cache".into(),
            endpoint: None,
            metadata: serde_json::json!({"z": 1, "a": 2}),
            resource: None,
        };
        assert_eq!(
            entity.info(),
            r#"{"endpoint":null,"entity_id":"e1","entity_type":"service","id":"e1","kind":"cache","metadata":{"a":2,"z":1},"resource":null}"#
        );
    }
}

//! Entities of the control plane, which their owners register to be found by others.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest id of an entity, in bytes. The id of a service contains an alias and a name.
const LONGEST_ID: usize = 2048;

/// Something that its owner registers so that others find it (`POST /register`), for as long as the
/// owner is alive.
///
/// ```no_run
/// use serde_json::json;
/// use slimerpc::control::{Control, Entity};
/// # async fn example(agent: &dyn Control) -> Result<(), slimerpc::control::ControlError> {
/// let entity = Entity {
///     id: "cache:0".to_owned(),
///     kind: "cache".to_owned(),
///     metadata: json!({"port": 7000}),
/// };
/// agent.advertise(entity).await?;
/// assert_eq!(agent.entities("cache").await?[0].metadata["port"], 7000);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    /// Unique id in the scope.
    pub id: String,
    /// Kind of the entity; readers list one kind at a time.
    pub kind: String,
    /// Data that the owner publishes about it.
    pub metadata: Value,
}

impl Entity {
    /// The `entity_type` of every entity; DLSlime uses it too where none is named.
    pub const TYPE: &'static str = "service";

    /// Reads the server's description of an entity. Any agent may have registered it, so every
    /// field is checked.
    pub(super) fn read(mut info: Value) -> Result<Self, &'static str> {
        let text = |name: &str| info.get(name).and_then(Value::as_str).map(str::to_owned);
        if text("entity_type").is_some_and(|it| it != Self::TYPE) {
            return Err("it is of another type");
        }
        let id = text("entity_id").ok_or("it has no id")?;
        if id.len() > LONGEST_ID {
            return Err("its id is longer than 2 KiB");
        }
        Ok(Self {
            id,
            kind: text("kind").ok_or("it has no kind")?,
            metadata: info
                .get_mut("metadata")
                .map(Value::take)
                .unwrap_or_default(),
        })
    }
}

/// A change among the entities of a kind.
///
/// ```no_run
/// use futures_util::StreamExt;
/// use slimerpc::control::{Control, EntityEvent};
/// # async fn example(agent: &dyn Control) {
/// let mut events = agent.watch_entities("cache");
/// while let Some(event) = events.next().await {
///     match event {
///         EntityEvent::All(all) => println!("there are {}", all.len()),
///         EntityEvent::Added(entity) => println!("+ {}", entity.id),
///         EntityEvent::Removed { id } => println!("- {id}"),
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntityEvent {
    /// The complete list, which replaces everything known before. It is the first event, and comes
    /// again whenever changes may have been missed.
    All(Vec<Entity>),
    /// An entity was registered, or registered again, possibly with other metadata.
    Added(Entity),
    /// An entity has gone.
    Removed {
        /// Id of the entity.
        id: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entity_is_read_from_what_the_server_tells() {
        let info = json!({"entity_id": "w:0/Calc", "entity_type": "service", "kind": "rpc-worker",
            "metadata": {"alias": "w:0"}, "endpoint": null, "id": "w:0/Calc", "resource": null});
        let entity = Entity {
            id: "w:0/Calc".to_owned(),
            kind: "rpc-worker".to_owned(),
            metadata: json!({"alias": "w:0"}),
        };
        assert_eq!(Entity::read(info), Ok(entity));
    }

    #[test]
    fn input_1_what_is_no_entity_is_refused() {
        for info in [
            json!(null),
            json!([]),
            json!("service"),
            json!({"kind": "rpc-worker"}),
            json!({"entity_id": 7, "kind": "rpc-worker"}),
            json!({"entity_id": "x", "kind": null}),
            json!({"entity_id": "x", "kind": "k", "entity_type": "cache"}),
            json!({"entity_id": "x".repeat(LONGEST_ID + 1), "kind": "k"}),
        ] {
            assert!(Entity::read(info.clone()).is_err(), "{info}");
        }
    }
}

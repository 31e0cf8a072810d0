//! Entities: services that register themselves to be found by others.

use actix_web::web::{Data, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::agents::Said;
use super::body::JsonBody;
use super::error::ApiError;
use super::repository::Entity;
use super::server::{App, keys};

#[derive(Deserialize)]
pub(super) struct Register {
    entity_id: String,
    kind: String,
    #[serde(default = "service")]
    entity_type: String,
    #[serde(default)]
    endpoint: Option<Value>,
    #[serde(default = "empty_object")]
    metadata: Value,
    #[serde(default)]
    resource: Option<Value>,
    #[serde(default)]
    scope: Option<String>,
}

fn service() -> String {
    "service".to_owned()
}

fn empty_object() -> Value {
    Value::Object(Map::new())
}

pub(super) async fn register(
    app: Data<App>,
    JsonBody(request): JsonBody<Register>,
) -> Result<Json<Said>, ApiError> {
    let keys = keys(&request.scope);
    let entity = Entity {
        entity_type: request.entity_type,
        entity_id: request.entity_id,
        kind: request.kind,
        endpoint: request.endpoint,
        metadata: request.metadata,
        resource: request.resource,
    };
    if !app.repository.register_entity(&keys, &entity).await? {
        return Err(ApiError::EntityKeyTaken {
            key: keys.entity(&entity.entity_type, &entity.entity_id),
        });
    }
    tracing::info!(
        entity_type = entity.entity_type,
        entity_id = entity.entity_id,
        scope = keys.scope(),
        "entity registered"
    );
    Ok(Json(said(
        "registered",
        &entity.entity_type,
        &entity.entity_id,
    )))
}

fn said(done: &str, entity_type: &str, entity_id: &str) -> Said {
    Said {
        status: "ok",
        message: format!("Entity {entity_type}:{entity_id} {done} successfully"),
    }
}

#[derive(Deserialize)]
pub(super) struct Named {
    entity_id: String,
    #[serde(default = "service")]
    entity_type: String,
    /// Incarnation of the owner, as its remover knows it; without one, any owner's entity is
    /// removed.
    #[serde(default)]
    incarnation: Option<String>,
    #[serde(default)]
    scope: Option<String>,
}

pub(super) async fn unregister(
    app: Data<App>,
    JsonBody(request): JsonBody<Named>,
) -> Result<Json<Said>, ApiError> {
    let (keys, kind, id) = (
        keys(&request.scope),
        &request.entity_type,
        &request.entity_id,
    );
    let owner = request.incarnation.as_deref();
    let removed = app.repository.unregister_entity(&keys, kind, id, owner);
    removed.await?;
    Ok(Json(said("unregistered", kind, id)))
}

#[derive(Serialize)]
pub(super) struct Info {
    status: &'static str,
    entity_info: Option<Value>,
}

pub(super) async fn info(
    app: Data<App>,
    JsonBody(request): JsonBody<Named>,
) -> Result<Json<Info>, ApiError> {
    let key = keys(&request.scope).entity(&request.entity_type, &request.entity_id);
    let entity_info = app.repository.entity_info(&key).await?;
    let status = if entity_info.is_some() {
        "ok"
    } else {
        "not_found"
    };
    Ok(Json(Info {
        status,
        entity_info,
    }))
}

#[derive(Deserialize)]
pub(super) struct List {
    #[serde(default)]
    entity_type: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    scope: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Listed {
    status: &'static str,
    entities: Vec<Value>,
}

pub(super) async fn list(
    app: Data<App>,
    JsonBody(request): JsonBody<List>,
) -> Result<Json<Listed>, ApiError> {
    let entity_type = request.entity_type.filter(|name| !name.is_empty());
    let mut entities = app
        .repository
        .entities(&keys(&request.scope), entity_type.as_deref())
        .await?;
    if let Some(kind) = request.kind {
        entities.retain(|info| info.get("kind").and_then(Value::as_str) == Some(&kind));
    }
    Ok(Json(Listed {
        status: "ok",
        entities,
    }))
}

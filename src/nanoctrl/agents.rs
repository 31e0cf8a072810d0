//! Requests about agents: registering, keeping alive, listing, and cleaning up after those
//! that leave.

use actix_web::HttpRequest;
use actix_web::web::{Data, Json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::address::Asker;
use super::body::JsonBody;
use super::error::ApiError;
use super::repository::{AgentName, AgentRow};
use super::server::{App, keys, reached};

#[derive(Deserialize)]
pub(super) struct StartPeerAgent {
    address: String,
    #[serde(default)]
    alias: Option<String>,
    #[serde(default = "agent_prefix")]
    name_prefix: String,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    link_type: Option<String>,
    #[serde(default)]
    ib_port: Option<u32>,
    #[serde(default)]
    resource: Option<Value>,
    /// Incarnation of the agent, if it has one.
    #[serde(default)]
    incarnation: Option<String>,
    #[serde(default)]
    scope: Option<String>,
}

fn agent_prefix() -> String {
    "agent".to_owned()
}

#[derive(Serialize)]
pub(super) struct StartedAgent {
    status: &'static str,
    name: String,
    redis_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Value>,
}

pub(super) async fn start(
    app: Data<App>,
    connection: HttpRequest,
    JsonBody(request): JsonBody<StartPeerAgent>,
) -> Result<Json<StartedAgent>, ApiError> {
    let resource = request.resource.as_ref();
    let asker = Asker {
        at: &request.address,
        reached: reached(&connection),
        is_native: resource.is_some_and(|resource| resource.get("slime").is_some()),
    };
    let redis_address = app.address.for_agent(asker).await?;
    let keys = keys(&request.scope);
    let name = match &request.alias {
        Some(alias) => AgentName::Wanted(alias),
        None => AgentName::Generated {
            prefix: &request.name_prefix,
        },
    };
    let name = app
        .repository
        .register_agent(&keys, name, &fields(&request))
        .await?
        .ok_or_else(|| ApiError::AliasTaken(request.alias.clone().unwrap_or_default()))?;
    tracing::info!(name, scope = keys.scope(), "agent registered");
    Ok(Json(StartedAgent {
        status: "ok",
        name,
        redis_address,
        resource: request.resource,
    }))
}

/// The fields of the agent's hash, except the time.
fn fields(request: &StartPeerAgent) -> Vec<(&'static str, String)> {
    let mut fields = vec![("addr", request.address.clone())];
    fields.extend(request.device.clone().map(|device| ("device", device)));
    fields.extend(request.ib_port.map(|port| ("ib_port", port.to_string())));
    fields.extend(request.link_type.clone().map(|link| ("link_type", link)));
    let incarnation = request.incarnation.clone();
    fields.extend(incarnation.map(|incarnation| ("incarnation", incarnation)));
    if let Some(resource) = &request.resource {
        let text = resource.to_string();
        fields.extend([("resource", text.clone()), ("topology", text)]);
    }
    fields
}

#[derive(Deserialize)]
pub(super) struct Heartbeat {
    entity_type: String,
    entity_id: String,
    #[serde(default)]
    scope: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Said {
    pub(super) status: &'static str,
    pub(super) message: String,
}

pub(super) async fn heartbeat(
    app: Data<App>,
    JsonBody(request): JsonBody<Heartbeat>,
) -> Result<Json<Said>, ApiError> {
    let Heartbeat {
        entity_type,
        entity_id,
        scope,
    } = request;
    let keys = keys(&scope);
    let is_there = app
        .repository
        .heartbeat(&keys, &entity_type, &entity_id)
        .await?;
    Ok(Json(if is_there {
        Said {
            status: "ok",
            message: format!("Heartbeat successful for {entity_type} {entity_id}"),
        }
    } else {
        Said {
            status: "not_found",
            message: format!("{entity_type} {entity_id} not found. Please register first."),
        }
    }))
}

#[derive(Deserialize)]
pub(super) struct Query {
    #[serde(default)]
    scope: Option<String>,
    /// Only the agent of this name, if there is one. DLSlime knows no such field.
    #[serde(default)]
    name: Option<String>,
}

pub(super) async fn query(
    app: Data<App>,
    JsonBody(request): JsonBody<Query>,
) -> Result<Json<Vec<Agent>>, ApiError> {
    let keys = keys(&request.scope);
    let rows = match &request.name {
        Some(name) => app.repository.agent(&keys, name).await?,
        None => app.repository.agents(&keys).await?,
    };
    Ok(Json(rows.into_iter().map(Agent::from).collect()))
}

#[derive(Deserialize)]
pub(super) struct ListScopes {}

#[derive(Serialize)]
pub(super) struct Scopes {
    status: &'static str,
    scopes: Vec<String>,
}

/// The scopes in which something is registered; the empty one stands for registrations without
/// scope.
pub(super) async fn list_scopes(
    app: Data<App>,
    JsonBody(ListScopes {}): JsonBody<ListScopes>,
) -> Result<Json<Scopes>, ApiError> {
    Ok(Json(Scopes {
        status: "ok",
        scopes: app.repository.scopes().await?,
    }))
}

#[derive(Serialize)]
pub(super) struct Agent {
    name: String,
    device: String,
    ib_port: u32,
    link_type: String,
    address: String,
    resource: Value,
    memory_keys: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<String>,
}

impl From<AgentRow> for Agent {
    /// Missing or malformed fields get defaults.
    fn from(row: AgentRow) -> Self {
        let json = |text: &Option<String>| serde_json::from_str(text.as_deref()?).ok();
        Self {
            resource: json(&row.resource).unwrap_or_default(),
            memory_keys: row
                .memory_keys
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default(),
            ib_port: row.ib_port.and_then(|port| port.parse().ok()).unwrap_or(1),
            name: row.name,
            device: row.device.unwrap_or_default(),
            link_type: row.link_type.unwrap_or_default(),
            address: row.address,
            incarnation: row.incarnation,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Cleanup {
    agent_name: String,
    /// Incarnation of the agent that leaves. Agents of DLSlime send none: then the present owner of
    /// the name is meant.
    #[serde(default)]
    incarnation: Option<String>,
    #[serde(default)]
    scope: Option<String>,
}

pub(super) async fn cleanup(
    app: Data<App>,
    JsonBody(request): JsonBody<Cleanup>,
) -> Result<Json<Said>, ApiError> {
    let (keys, name) = (keys(&request.scope), request.agent_name);
    let life = request.incarnation.as_deref();
    let Some(told) = app.repository.clean_up(&keys, &name, life).await? else {
        return Err(ApiError::OtherIncarnation(name));
    };
    tracing::info!(name, scope = keys.scope(), told, "agent cleaned up");
    Ok(Json(Said {
        status: "ok",
        message: format!("Cleaned up agent: {name}"),
    }))
}

//! Removes an agent that leaves, and tells its peers.

use actix_web::web::{Data, Json};
use serde::Deserialize;

use super::agents::Said;
use super::body::JsonBody;
use super::error::ApiError;
use super::server::{App, keys};

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

//! Topology: which peers an agent wants to be connected with.

use actix_web::web::{Data, Json, Path};
use serde::{Deserialize, Serialize};

use super::body::JsonBody;
use super::error::ApiError;
use super::repository::Spec;
use super::server::{App, keys};

#[derive(Deserialize)]
pub(super) struct DesiredTopology {
    target_peers: Vec<String>,
    #[serde(default)]
    min_bw: Option<String>,
    #[serde(default)]
    symmetric: bool,
    #[serde(default)]
    scope: Option<String>,
}

/// The answer to requests without a result.
#[derive(Serialize)]
pub(super) struct Done {
    status: &'static str,
}

impl Done {
    pub(super) const OK: Self = Self { status: "ok" };
}

pub(super) async fn declare(
    app: Data<App>,
    alias: Path<String>,
    JsonBody(request): JsonBody<DesiredTopology>,
) -> Result<Json<Done>, ApiError> {
    if alias.contains(char::REPLACEMENT_CHARACTER) {
        return Err(ApiError::PathNotText("alias"));
    }
    let keys = keys(&request.scope);
    let spec = Spec {
        target_peers: request.target_peers,
        min_bw: request.min_bw,
        symmetric: request.symmetric,
        scope: request.scope,
    };
    app.repository
        .declare_topology(&keys, &alias, &spec)
        .await?;
    tracing::info!(
        alias = alias.as_str(),
        scope = keys.scope(),
        peers = spec.target_peers.len(),
        "topology declared"
    );
    Ok(Json(Done::OK))
}

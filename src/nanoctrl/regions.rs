//! Records of memory regions. Agents mostly read and write them in Redis themselves.

use actix_web::web::{Data, Json};
use serde::{Deserialize, Serialize};

use super::body::JsonBody;
use super::error::ApiError;
use super::server::{App, keys};
use super::topology::Done;

#[derive(Deserialize)]
pub(super) struct RegisterRegion {
    agent_name: String,
    mr_name: String,
    addr: u64,
    length: u64,
    rkey: u32,
    #[serde(default)]
    lkey: u32,
    #[serde(default)]
    scope: Option<String>,
}

/// A record as it is stored; its keys are sorted.
#[derive(Serialize)]
struct StoredRegion {
    addr: u64,
    length: u64,
    lkey: u32,
    rkey: u32,
}

pub(super) async fn register(
    app: Data<App>,
    JsonBody(request): JsonBody<RegisterRegion>,
) -> Result<Json<Done>, ApiError> {
    let keys = keys(&request.scope);
    let record = serde_json::to_string(&StoredRegion {
        addr: request.addr,
        length: request.length,
        lkey: request.lkey,
        rkey: request.rkey,
    })
    .expect("numbers are JSON");
    app.repository
        .put_region(&keys, &request.agent_name, &request.mr_name, &record)
        .await?;
    Ok(Json(Done::OK))
}

#[derive(Deserialize)]
pub(super) struct GetRegion {
    #[serde(rename = "src")]
    _src: String,
    dst: String,
    mr_name: String,
    #[serde(default)]
    scope: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Found {
    mr_info: Option<Region>,
}

/// A record as it is returned. The numbers must exist, whoever wrote it.
#[derive(Deserialize, Serialize)]
struct Region {
    addr: u64,
    length: u64,
    rkey: u32,
    lkey: u32,
}

pub(super) async fn get(
    app: Data<App>,
    JsonBody(request): JsonBody<GetRegion>,
) -> Result<Json<Found>, ApiError> {
    let key = keys(&request.scope).region(&request.dst, &request.mr_name);
    let record = app.repository.get(&key).await?;
    let mr_info = record.and_then(|record| serde_json::from_slice(&record).ok());
    Ok(Json(Found { mr_info }))
}

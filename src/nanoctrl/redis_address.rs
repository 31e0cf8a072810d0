//! The address of Redis for clients that are not agents.

use actix_web::HttpRequest;
use actix_web::web::{Data, Json};
use serde::{Deserialize, Serialize};

use super::body::JsonBody;
use super::server::{App, reached};

#[derive(Deserialize)]
pub(super) struct GetRedisAddress {
    #[serde(default, rename = "scope")]
    _scope: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Answer {
    status: &'static str,
    redis_address: String,
}

pub(super) async fn get(
    app: Data<App>,
    request: HttpRequest,
    JsonBody(_): JsonBody<GetRedisAddress>,
) -> Json<Answer> {
    Json(Answer {
        status: "ok",
        redis_address: app.address.url(reached(&request)).await,
    })
}

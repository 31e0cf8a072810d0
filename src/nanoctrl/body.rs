//! JSON bodies of requests, and the errors about malformed ones.

use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::{self, Bytes};
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError};
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;

/// Longest body that is read, in bytes.
const LIMIT: usize = 2 * 1024 * 1024;

/// Longest wait for a body to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request's JSON body.
pub(super) struct JsonBody<T>(pub(super) T);

/// Why a request has no valid [`JsonBody`]. The texts begin as DLSlime's do.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("Expected request with `Content-Type: application/json`")]
    ContentType,
    #[error("Failed to buffer the request body: length limit exceeded")]
    TooLong,
    #[error("Failed to buffer the request body: it did not arrive in time")]
    TooSlow,
    #[error("Failed to buffer the request body: {0}")]
    Broken(actix_web::Error),
    #[error("Failed to parse the request body as JSON: {0}")]
    Syntax(serde_json::Error),
    #[error("Failed to deserialize the JSON body into the target type: {0}")]
    Data(serde_json::Error),
}

impl ResponseError for BodyError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) | Self::Syntax(_) => StatusCode::BAD_REQUEST,
            Self::Data(_) => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::build(self.status_code())
            .content_type("text/plain; charset=utf-8")
            .body(self.to_string())
    }
}

impl<T: DeserializeOwned + 'static> FromRequest for JsonBody<T> {
    type Error = BodyError;
    type Future = LocalBoxFuture<'static, Result<Self, BodyError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let acceptable = check_head(request);
        let payload = web::Payload::from_request(request, payload).into_inner();
        Box::pin(async move {
            acceptable?;
            let body = read(payload.map_err(BodyError::Broken)?, LIMIT).await?;
            parse(&body).map(Self)
        })
    }
}

/// Checks what is known before the body has arrived.
fn check_head(request: &HttpRequest) -> Result<(), BodyError> {
    if !is_json(request) {
        return Err(BodyError::ContentType);
    }
    if announced_length(request).is_some_and(|length| length > LIMIT) {
        return Err(BodyError::TooLong);
    }
    Ok(())
}

fn is_json(request: &HttpRequest) -> bool {
    let Ok(Some(mime)) = request.mime_type() else {
        return false;
    };
    mime.type_() == "application"
        && (mime.subtype() == "json" || mime.suffix().is_some_and(|suffix| suffix == "json"))
}

fn announced_length(request: &HttpRequest) -> Option<usize> {
    let length = request.headers().get(CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read(payload: web::Payload, limit: usize) -> Result<Bytes, BodyError> {
    match tokio::time::timeout(PATIENCE, payload.to_bytes_limited(limit)).await {
        Ok(Ok(body)) => body.map_err(BodyError::Broken),
        Ok(Err(_)) => Err(BodyError::TooLong),
        Err(_) => Err(BodyError::TooSlow),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            BodyError::Data(error)
        } else {
            BodyError::Syntax(error)
        }
    })
}

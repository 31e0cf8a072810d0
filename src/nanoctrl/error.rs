//! Errors of the start, and of requests.

use std::io;

use actix_web::http::StatusCode;
use actix_web::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;

use super::address::Unspeakable;
use super::gate::CHALLENGE;
use super::repository::RepositoryError;
use crate::tls::TlsFileError;

/// How long clients should wait before they repeat a request that load was in the way of, in
/// seconds.
const RETRY: &str = "1";

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The Redis URL cannot be used.
    #[error("`{url}` is not a usable Redis URL: {reason}")]
    RedisUrl {
        /// The URL, without its credentials.
        url: String,
        /// Why the URL cannot be used.
        reason: String,
    },

    /// The Redis address for agents cannot be used.
    #[error("agents cannot be told the Redis address `{address}`: {reason}")]
    RedisAddress {
        /// The address, without its credentials.
        address: String,
        /// Why it cannot be used, and what to set.
        reason: String,
    },

    /// A header cannot carry the token.
    #[error("the token cannot be used: {reason}")]
    Token {
        /// Why it cannot.
        reason: &'static str,
    },

    /// A file of the certificates cannot be used.
    #[error(transparent)]
    TlsFile(#[from] TlsFileError),

    /// TLS was asked for, and this program was built without it.
    #[error("--tls-cert needs a nanoctrl that was built with the cargo feature `tls`")]
    NoTls,

    /// Redis does not answer.
    #[error(
        "Failed to connect to Redis at {url}. Please start Redis or set NANOCTRL_REDIS_URL / --redis-url \
         to a reachable Redis instance. Details: {reason}"
    )]
    RedisUnreachable {
        /// URL of Redis, without credentials.
        url: String,
        /// The error of Redis or of the network.
        reason: String,
    },

    /// No URL was given, nothing answers at the default one, and there is no `redis-server` to run.
    #[error(
        "no Redis: none answers at {default}, and `redis-server` is not on PATH. Either\n\
         \x20 - install redis-server, and nanoctrl runs a private one (Debian: apt-get install redis-server), or\n\
         \x20 - start a Redis at {default}, or\n\
         \x20 - name one: --redis-url redis://HOST:PORT, or NANOCTRL_REDIS_URL"
    )]
    NoRedis {
        /// The default URL.
        default: &'static str,
    },

    /// `redis-server` exists but does not run.
    #[error("the private redis-server did not start: {reason}")]
    PrivateRedis {
        /// The output of `redis-server`.
        reason: String,
    },

    /// The address to listen on is taken or does not belong to this host.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// `host:port`.
        address: String,
        /// The system's error.
        source: io::Error,
    },
}

/// Why a well-formed request was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("Invalid URL: Invalid UTF-8 in `{0}`")]
    PathNotText(&'static str),
    #[error("Peer agent alias '{0}' already exists in this scope")]
    AliasTaken(String),
    #[error("another incarnation has the name '{0}' of this peer agent")]
    OtherIncarnation(String),
    #[error("the key `{key}` of this entity is that of something else, for instance of an agent")]
    EntityKeyTaken { key: String },
    #[error(
        "this server wants a bearer token: set NANOCTRL_TOKEN to the one that it was started with"
    )]
    TokenMissing,
    #[error("this server was started with another token: set NANOCTRL_TOKEN to that")]
    TokenWrong,
    #[error(transparent)]
    RedisAddress(#[from] Unspeakable),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

#[derive(Serialize)]
struct ErrorBody {
    message: String,
    status: &'static str,
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::PathNotText(_) => StatusCode::BAD_REQUEST,
            Self::AliasTaken(_) | Self::OtherIncarnation(_) | Self::EntityKeyTaken { .. } => {
                StatusCode::CONFLICT
            }
            Self::TokenMissing | Self::TokenWrong => StatusCode::UNAUTHORIZED,
            Self::RedisAddress(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Repository(error) if error.is_of_load() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Repository(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Self::PathNotText(_) = self {
            return response
                .content_type("text/plain; charset=utf-8")
                .body(self.to_string());
        }
        if let Self::Repository(error) = self {
            tracing::warn!(%error, "request failed");
        }
        if self.status_code() == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((RETRY_AFTER, RETRY));
        }
        if self.status_code() == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, CHALLENGE));
        }
        response.json(ErrorBody {
            message: self.to_string(),
            status: "error",
        })
    }
}

//! Admits requests: all, or those with the token.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use actix_web::middleware::Next;
use actix_web::web::Data;
use subtle::ConstantTimeEq;

use super::console;
use super::error::ApiError;
use super::server::App;
use crate::control::Secret;

/// Tells the client that a token would make a difference.
pub(super) const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");

/// The one route that needs no token, because monitoring asks there whether a server is up. Its
/// [`CHALLENGE`] says what the other routes would answer to the same client.
const HEALTH: &str = "/";

/// The token that clients must send, if there is one.
pub(super) struct Gate(pub(super) Option<Secret>);

impl Gate {
    fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(token) = &self.0 else {
            return Ok(());
        };
        match headers.get(AUTHORIZATION).and_then(bearer) {
            Some(brought) if is(token, brought) => Ok(()),
            Some(_) => Err(ApiError::TokenWrong),
            None => Err(ApiError::TokenMissing),
        }
    }
}

/// Compares a guess with the token, in a time that depends on the lengths only, so that a token
/// cannot be guessed byte by byte.
pub(super) fn is(token: &Secret, guess: &[u8]) -> bool {
    token.expose().as_bytes().ct_eq(guess).into()
}

/// The token in a `Bearer` header.
pub(super) fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked("Bearer ".len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer ");
    is_bearer.then(|| token.trim_ascii())
}

/// Guards all routes but the console's, which has a login: clients without the token do not learn
/// which there are.
pub(super) async fn guard(
    app: Data<App>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    if console::has(request.path()) {
        return next.call(request).await;
    }
    let checked = app.gate.check(request.headers());
    if request.path() != HEALTH {
        checked?;
        return next.call(request).await;
    }
    let mut answer = next.call(request).await?;
    if checked.is_err() {
        answer.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_text_is_the_secret() {
        let secret = Secret::from("abc");
        assert!(is(&secret, b"abc"));
        for guess in ["", "ab", "abcd", "abd", "ABC"] {
            assert!(!is(&secret, guess.as_bytes()), "{guess}");
        }
    }
}

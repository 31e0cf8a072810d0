//! Who may ask: everybody, or those who bring the token.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use actix_web::middleware::Next;
use actix_web::web::Data;
use subtle::ConstantTimeEq;

use super::error::ApiError;
use super::server::App;
use crate::control::Secret;

/// Says in a response that a token would make a difference.
pub(super) const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");

/// The one route that is open to all, since those who look after servers ask there whether one is
/// up. It says with a [`CHALLENGE`] what the others would say to the same caller.
const HEALTH: &str = "/";

/// The token that callers have to bring, if there is one.
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

/// Compares a guess with the token. How long that takes depends on the lengths alone, so that a
/// token cannot be guessed byte by byte.
fn is(token: &Secret, guess: &[u8]) -> bool {
    token.expose().as_bytes().ct_eq(guess).into()
}

/// The token of a `Bearer` header.
fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked("Bearer ".len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer ");
    is_bearer.then(|| token.trim_ascii())
}

/// Stands before all routes: those who are not let in do not learn which there are.
pub(super) async fn guard(
    app: Data<App>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
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

//! Admits visitors of the console, and marks its answers for their browsers.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, HeaderMap, HeaderName,
    HeaderValue, LOCATION, REFERRER_POLICY, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use actix_web::middleware::Next;
use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use serde::Deserialize;

use super::assets;
use super::login::{Attempt, SESSION};
use super::{Console, ROOT, own_page};
use crate::nanoctrl::body;
use crate::nanoctrl::gate::{self, CHALLENGE};
use crate::nanoctrl::server::App;

/// Longest body of a login, in bytes.
const LOGIN_LIMIT: usize = 16 * 1024;

/// What the login page is made of, and the login itself.
const OPEN: [&str; 4] = ["/style.css", "/icon.svg", "/theme.js", "/login"];

/// What browsers are told with every answer. Scripts, styles and connections are the console's own;
/// nothing is inline, nothing becomes a document but by its text, and no other page frames this.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // Without one the login would come from the origin `null`, as pages of strangers may.
    (REFERRER_POLICY, "same-origin"),
    (CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Lets in those with the token or a session; shows the login page to others.
pub(super) async fn admit(
    app: Data<App>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let mut answer = match refusal(&app.console, request.request()) {
        Some(refusal) => request.into_response(refusal),
        None => next.call(request).await?.map_into_boxed_body(),
    };
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        answer.headers_mut().insert(name, value);
    }
    Ok(answer)
}

/// The answer to a request that is not admitted.
fn refusal(console: &Console, request: &HttpRequest) -> Option<HttpResponse> {
    let login = &console.login;
    if login.is_open() {
        let host = header(request.headers(), HOST);
        return (!console.own_host.is(host)).then(misdirected);
    }
    let path = request.path().strip_prefix(ROOT).unwrap_or_default();
    if OPEN.contains(&path) {
        return None;
    }
    let now = Instant::now();
    if session(request).is_some_and(|key| login.has(key, now)) {
        return None;
    }
    let brought = request.headers().get(AUTHORIZATION).and_then(gate::bearer);
    let Some(brought) = brought else {
        return Some(unauthorized(""));
    };
    match login.attempt(visitor(request), brought, now) {
        Attempt::Right => None,
        Attempt::Wrong => Some(unauthorized(assets::WRONG)),
        Attempt::TooEarly(wait) => Some(too_early(wait)),
    }
}

/// What the login page sends.
#[derive(Deserialize)]
struct Brought {
    token: String,
}

/// Begins a session for those who bring the token.
pub(super) async fn log_in(
    app: Data<App>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    if !own_page::has_sent(request.headers()) {
        return forbidden();
    }
    let body = match body::read(payload, LOGIN_LIMIT).await {
        Ok(body) => body,
        Err(error) => return error.error_response(),
    };
    let text = std::str::from_utf8(&body).unwrap_or_default();
    let Ok(brought) = web::Query::<Brought>::from_query(text) else {
        return unauthorized(assets::WRONG);
    };
    let (login, now) = (&app.console.login, Instant::now());
    let token = brought.token.trim();
    match login.attempt(visitor(&request), token.as_bytes(), now) {
        Attempt::Right => {}
        Attempt::Wrong => return unauthorized(assets::WRONG),
        Attempt::TooEarly(wait) => return too_early(wait),
    }
    let mut answer = to_console();
    if !login.is_open() {
        let Some(key) = login.begin(now) else {
            return HttpResponse::InternalServerError().body("no random numbers");
        };
        answer.insert_header((SET_COOKIE, cookie(&request, &key, SESSION)));
    }
    answer.finish()
}

/// Leads those who look for the login to the page that asks for the token.
pub(super) async fn to_login() -> HttpResponse {
    to_console().finish()
}

/// Ends the session that is brought.
pub(super) async fn log_out(app: Data<App>, request: HttpRequest) -> HttpResponse {
    if let Some(key) = session(&request) {
        app.console.login.end(key);
    }
    let expired = cookie(&request, "", Duration::ZERO);
    to_console().insert_header((SET_COOKIE, expired)).finish()
}

fn to_console() -> actix_web::HttpResponseBuilder {
    let mut answer = HttpResponse::SeeOther();
    answer.insert_header((LOCATION, ROOT));
    answer
}

fn unauthorized(notice: &'static str) -> HttpResponse {
    let mut answer = assets::login(StatusCode::UNAUTHORIZED, notice);
    answer.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
    answer
}

fn too_early(wait: Duration) -> HttpResponse {
    let mut answer = assets::login(StatusCode::TOO_MANY_REQUESTS, assets::SLOWED);
    let seconds = HeaderValue::from(wait.as_secs() + 1);
    answer.headers_mut().insert(RETRY_AFTER, seconds);
    answer
}

fn forbidden() -> HttpResponse {
    HttpResponse::Forbidden()
        .content_type("text/plain; charset=utf-8")
        .body(
            "A page of another site has sent this login. Open /console and sign in there; a proxy \
             in front of this server must pass the Host header on.",
        )
}

fn misdirected() -> HttpResponse {
    HttpResponse::build(StatusCode::MISDIRECTED_REQUEST)
        .content_type("text/plain; charset=utf-8")
        .body(
            "This server has no token, and a page of a stranger could have sent you here under this \
             name. Open the console by the server's IP address or host name, or start the server \
             with NANOCTRL_TOKEN.",
        )
}

/// The address that a request comes from.
pub(super) fn visitor(request: &HttpRequest) -> IpAddr {
    let peer = request.peer_addr();
    peer.map_or(IpAddr::from([0; 4]), |peer| peer.ip())
}

pub(super) fn header(headers: &HeaderMap, name: HeaderName) -> &str {
    let value = headers.get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Name of the cookie. Browsers send cookies to all ports of a host, hence the port.
fn cookie_name(request: &HttpRequest) -> String {
    format!("nanoctrl-{}", request.app_config().local_addr().port())
}

fn cookie(request: &HttpRequest, key: &str, life: Duration) -> String {
    let secure = match request.app_config().secure() {
        true => "; Secure",
        false => "",
    };
    format!(
        "{}={key}; Path={ROOT}; Max-Age={}; HttpOnly; SameSite=Strict{secure}",
        cookie_name(request),
        life.as_secs()
    )
}

/// The key of the session that a request brings.
pub(super) fn session(request: &HttpRequest) -> Option<&str> {
    let name = cookie_name(request);
    let headers = request.headers().get_all(COOKIE);
    let mut cookies = headers
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='));
    let (_, key) = cookies.find(|(known, _)| *known == name)?;
    Some(key)
}

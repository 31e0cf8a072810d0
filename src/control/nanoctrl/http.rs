//! HTTP requests to a NanoCtrl (or `dlslime-ctrl`) server.

use std::{error::Error, io, time::Duration};

use reqwest::{StatusCode, Url};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::client_tls::ClientTls;
use super::http_client::HttpClient;
use crate::backoff::Backoff;
use crate::control::{ControlError, Entity, PeerRecord, Registration, Secret};
use crate::fabric::SystemLimit;

/// Longest answer read: a list of agents with their topologies, a few kilobytes each.
const LONGEST_ANSWER: usize = 16 << 20;

/// Longest part of an error's body that is reported.
const LONGEST_EXCERPT: usize = 300;

/// Pauses before a busy server is asked again, with jitter: those that it had no time for must not
/// return at the same moment.
const BUSY: Backoff =
    Backoff::doubling(Duration::from_millis(100), Duration::from_secs(1)).with_jitter(0.5);

/// Answer to `/start_peer_agent`.
#[derive(Debug, Deserialize)]
pub(super) struct Registered {
    /// The alias that this agent is registered under.
    pub(super) name: String,
    /// Address of Redis: `host:port`.
    pub(super) redis_address: String,
}

/// An agent in the answer to `/query`.
#[derive(Debug, Deserialize)]
struct Listed {
    name: String,
    #[serde(default)]
    address: String,
    device: Option<String>,
    ib_port: Option<u32>,
    link_type: Option<String>,
    resource: Option<Value>,
    incarnation: Option<String>,
}

/// The agent that has a name.
#[derive(Debug)]
pub(super) struct Holder {
    /// Its topology.
    pub(super) resource: Option<Value>,
    /// Incarnation of the agent; unknown if it names none or the server is DLSlime's.
    pub(super) incarnation: Option<String>,
}

impl From<Listed> for PeerRecord {
    fn from(listed: Listed) -> Self {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        Self {
            alias: listed.name,
            address: listed.address,
            device: some(listed.device),
            ib_port: listed.ib_port,
            link_type: some(listed.link_type),
            resource: listed.resource,
        }
    }
}

/// The answer to `/list_entities`.
#[derive(Debug, Deserialize)]
struct Entities {
    entities: Vec<Value>,
}

/// The answer to `/list_scopes`.
#[derive(Debug, Deserialize)]
struct Scopes {
    scopes: Vec<String>,
}

/// The answer to `/get_redis_address`.
#[derive(Debug, Deserialize)]
struct RedisAddress {
    redis_address: String,
}

#[derive(Debug, Deserialize)]
struct Status {
    status: String,
}

/// A NanoCtrl server, queried on behalf of one scope.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: HttpClient,
    base: Url,
    /// The address as it was given, if no scheme stood in front.
    bare: Option<String>,
    scope: String,
    /// Sent with every request.
    pub(super) token: Option<Secret>,
    /// Bound on every request, from connecting to the last byte of the answer.
    pub(super) timeout: Duration,
}

impl Http {
    /// A client for the server at `url`. An address without a scheme is one of `http://`, or, once
    /// there are files for TLS, of `https://`.
    pub(super) fn new(url: &str, scope: String, timeout: Duration) -> Result<Self, ControlError> {
        let no_files = ClientTls::default();
        let bare = (!url.contains("://")).then(|| url.trim().to_owned());
        let base = match &bare {
            Some(address) => no_files.url_of(address),
            None => url.trim().to_owned(),
        };
        let base = parse_url(&base, url)?;
        Ok(Self {
            client: HttpClient::new(&base, &no_files)?,
            base,
            bare,
            scope,
            token: None,
            timeout,
        })
    }

    pub(super) fn set_tls(&mut self, tls: &ClientTls) -> Result<(), ControlError> {
        if let Some(address) = &self.bare {
            self.base = parse_url(&tls.url_of(address), address)?;
        }
        self.client = HttpClient::new(&self.base, tls)?;
        Ok(())
    }

    /// The URL of the server.
    pub(super) fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Host and port of the server.
    pub(super) fn host(&self) -> (String, u16) {
        let host = self.base.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (
            host.to_owned(),
            self.base.port_or_known_default().unwrap_or(80),
        )
    }

    /// Registers once, within `timeout`.
    pub(super) async fn register(
        &self,
        registration: &Registration,
        incarnation: &str,
        timeout: Duration,
    ) -> Result<Registered, ControlError> {
        let mut body = registration_body(registration);
        body["incarnation"] = incarnation.into();
        let timeout = timeout.min(self.timeout);
        match self.post(&["start_peer_agent"], body, timeout).await {
            Err(ControlError::Refused { status: 409, .. }) => Err(ControlError::AliasTaken {
                alias: registration.alias.clone().unwrap_or_default(),
                scope: self.scope.clone(),
                holder: String::new(),
            }),
            answer => answer,
        }
    }

    /// Renews a registration; returns whether the server still had it.
    pub(super) async fn heartbeat(&self, alias: &str) -> Result<bool, ControlError> {
        let body = json!({"entity_type": "agent", "entity_id": alias});
        let answer: Status = self.ask(&["heartbeat"], body).await?;
        match answer.status.as_str() {
            "ok" => Ok(true),
            "not_found" => Ok(false),
            other => Err(malformed(
                "heartbeat",
                &format!("status `{}`", excerpt(other)),
            )),
        }
    }

    /// The present address of Redis, with a scheme.
    pub(super) async fn redis_address(&self) -> Result<String, ControlError> {
        let answer: RedisAddress = self.ask(&["get_redis_address"], json!({})).await?;
        Ok(answer.redis_address)
    }

    /// The registered agent `alias`, if there is one.
    pub(super) async fn holder(&self, alias: &str) -> Result<Option<Holder>, ControlError> {
        let agents = self.listed(json!({"name": alias})).await?;
        // A server of DLSlime lists all.
        let agent = agents.into_iter().find(|agent| agent.name == alias);
        Ok(agent.map(|agent| Holder {
            resource: agent.resource,
            incarnation: agent.incarnation,
        }))
    }

    /// The registered agents.
    pub(super) async fn agents(&self) -> Result<Vec<PeerRecord>, ControlError> {
        let agents = self.listed(json!({})).await?;
        Ok(agents.into_iter().map(PeerRecord::from).collect())
    }

    /// The registered agents that a query asks for; malformed descriptions are skipped.
    async fn listed(&self, query: Value) -> Result<Vec<Listed>, ControlError> {
        let listed: Vec<Value> = self.ask(&["query"], query).await?;
        let read = |agent| match Listed::deserialize(&agent) {
            Ok(agent) => Some(agent),
            Err(error) => {
                tracing::warn!(%error, "skipped a malformed agent");
                None
            }
        };
        Ok(listed.into_iter().filter_map(read).collect())
    }

    /// Registers an entity, or registers it again, with the mark of its owner.
    pub(super) async fn register_entity(
        &self,
        entity: &Entity,
        owner: Value,
    ) -> Result<(), ControlError> {
        let body = json!({
            "entity_type": Entity::TYPE,
            "entity_id": entity.id,
            "kind": entity.kind,
            "endpoint": owner,
            "metadata": entity.metadata,
        });
        self.ask::<Status>(&["register"], body).await.map(drop)
    }

    /// Removes an entity, if it belongs to this incarnation of an agent.
    pub(super) async fn unregister_entity(
        &self,
        id: &str,
        incarnation: &str,
    ) -> Result<(), ControlError> {
        let body = json!({
            "entity_type": Entity::TYPE,
            "entity_id": id,
            "incarnation": incarnation,
        });
        self.ask::<Status>(&["unregister"], body).await.map(drop)
    }

    /// The entities of a kind. Malformed ones are skipped.
    pub(super) async fn entities(&self, kind: &str) -> Result<Vec<Entity>, ControlError> {
        let body = json!({"entity_type": Entity::TYPE, "kind": kind});
        let listed: Entities = self.ask(&["list_entities"], body).await?;
        let read = |info| match Entity::read(info) {
            // The server may ignore `kind`.
            Ok(entity) => (entity.kind == kind).then_some(entity),
            Err(reason) => {
                tracing::warn!(reason, "skipped a malformed entity");
                None
            }
        };
        Ok(listed.entities.into_iter().filter_map(read).collect())
    }

    /// The scopes in which something is registered.
    pub(super) async fn scopes(&self) -> Result<Vec<String>, ControlError> {
        let answer: Scopes = self.ask(&["list_scopes"], json!({})).await?;
        Ok(answer.scopes)
    }

    /// Declares the peers that `alias` wants.
    pub(super) async fn set_topology(
        &self,
        alias: &str,
        peers: &[String],
    ) -> Result<(), ControlError> {
        let body = json!({"target_peers": peers});
        let path = ["v1", "desired_topology", alias];
        self.ask::<Status>(&path, body).await.map(drop)
    }

    /// Makes the server remove `alias` and tell its peers. Returns false, and changes nothing, if
    /// `incarnation` is given and another one has the name; a server of DLSlime ignores that.
    pub(super) async fn clean_up(
        &self,
        alias: &str,
        incarnation: Option<&str>,
    ) -> Result<bool, ControlError> {
        let mut body = json!({"agent_name": alias});
        if let Some(incarnation) = incarnation {
            body["incarnation"] = incarnation.into();
        }
        match self.ask::<Status>(&["cleanup"], body).await {
            Err(ControlError::Refused { status: 409, .. }) => Ok(false),
            answer => answer.map(|_| true),
        }
    }

    /// POSTs what may be done twice, until the server is not too busy for it or the time is over.
    async fn ask<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: Value,
    ) -> Result<T, ControlError> {
        let (started, mut pauses, mut busy) = (Instant::now(), BUSY.pauses(), None);
        loop {
            let left = self.timeout.saturating_sub(started.elapsed());
            let error = match self.post(path, body.clone(), left).await {
                Err(error) => error,
                answer => return answer,
            };
            let pause = pauses.take();
            let has_time = self.timeout.saturating_sub(started.elapsed()) > pause;
            match error {
                ControlError::Refused {
                    status: 408 | 503, ..
                } if has_time => busy = Some(error),
                // That the server is busy says more than that the rest of the time was not enough.
                ControlError::Timeout { .. } => return Err(busy.unwrap_or(error)),
                error => return Err(error),
            }
            sleep(pause).await;
        }
    }

    /// POSTs `body` with the scope added, and reads the answer as `T`.
    async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        mut body: Value,
        timeout: Duration,
    ) -> Result<T, ControlError> {
        if !self.scope.is_empty() {
            body["scope"] = self.scope.as_str().into();
        }
        let client = self.client.current();
        let mut request = client.post(self.route(path)).timeout(timeout).json(&body);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let failed = |error: reqwest::Error| self.failed(path, timeout, &error);
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if bytes.len() + chunk.len() > LONGEST_ANSWER {
                return Err(malformed(path[0], "it is longer than 16 MiB"));
            }
            bytes.extend_from_slice(&chunk);
        }
        self.read(path, status, &bytes)
    }

    fn read<T: DeserializeOwned>(
        &self,
        path: &[&str],
        status: StatusCode,
        bytes: &[u8],
    ) -> Result<T, ControlError> {
        if status == StatusCode::UNAUTHORIZED {
            return Err(ControlError::Unauthorized {
                url: self.url().to_owned(),
                is_given: self.token.is_some(),
            });
        }
        if !status.is_success() {
            return Err(ControlError::Refused {
                url: self.url().to_owned(),
                path: format!("/{}", path.join("/")),
                status: status.as_u16(),
                body: excerpt(&String::from_utf8_lossy(bytes)),
            });
        }
        serde_json::from_slice(bytes).map_err(|error| malformed(path[0], &error.to_string()))
    }

    /// The URL of a route; a name in it is percent-encoded.
    fn route(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("an http URL has a path")
            .pop_if_empty()
            .extend(path);
        url
    }

    fn failed(&self, path: &[&str], timeout: Duration, error: &reqwest::Error) -> ControlError {
        if error.is_timeout() && !error.is_connect() {
            return ControlError::Timeout {
                what: format!("{} of NanoCtrl at {}", path[0], self.url()),
                after: timeout,
            };
        }
        let (url, reason) = (self.url().to_owned(), reason(error));
        #[cfg(feature = "tls")]
        if let Some(error) = refusal(error) {
            return ControlError::Tls { url, error };
        }
        // It waited for a request that this busy process had yet to send, and said so.
        if reason.contains("unexpected message from connection") {
            return ControlError::Refused {
                url,
                path: format!("/{}", path.join("/")),
                status: StatusCode::REQUEST_TIMEOUT.as_u16(),
                body: reason,
            };
        }
        if reason.contains("invalid HTTP") {
            return ControlError::NotHttp { url, reason };
        }
        ControlError::NanoCtrlUnreachable { url, reason }
    }
}

/// The error of TLS among the causes of an HTTP error.
#[cfg(feature = "tls")]
fn refusal(error: &reqwest::Error) -> Option<crate::tls::TlsError> {
    let mut cause = error.source();
    while let Some(mut inner) = cause {
        cause = inner.source();
        // An error of the system may hold another one, which is not its source.
        while let Some(error) = inner.downcast_ref::<io::Error>()
            && let Some(held) = error.get_ref()
        {
            inner = held;
        }
        if let Some(error) = inner.downcast_ref::<rustls::Error>() {
            return Some(error.into());
        }
    }
    None
}

/// Parses what has a scheme. Errors show what was `given`.
fn parse_url(text: &str, given: &str) -> Result<Url, ControlError> {
    // It may have a password, which also an address that is wrong in other ways does not show.
    let given = if given.contains('@') {
        "<hidden>"
    } else {
        given
    };
    if has_zone(text) {
        return Err(bad_url(
            given,
            "an address with a zone cannot be used; name the server by another of its addresses, or by a host name",
        ));
    }
    let mut parsed = Url::parse(text).map_err(|error| bad_url(given, &error.to_string()))?;
    match parsed.scheme() {
        "http" => {}
        "https" if cfg!(feature = "tls") => {}
        "https" => return Err(bad_url(given, "https:// needs the cargo feature `tls`")),
        _ => {
            return Err(bad_url(
                given,
                "it begins neither with http:// nor with https://",
            ));
        }
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(bad_url("<hidden>", "it contains credentials"));
    }
    parsed.set_query(None);
    parsed.set_fragment(None);
    Ok(parsed)
}

/// Whether the host is an address with a zone, as in `http://[fe80::1%25eth0]`.
fn has_zone(url: &str) -> bool {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = after_scheme.split('/').next().unwrap_or_default();
    authority.starts_with('[') && authority.contains('%')
}

fn registration_body(registration: &Registration) -> Value {
    let mut body = Map::new();
    body.insert("address".to_owned(), registration.address.as_str().into());
    let optional = [
        ("alias", registration.alias.clone().map(Value::from)),
        ("device", registration.device.clone().map(Value::from)),
        ("ib_port", registration.ib_port.map(Value::from)),
        ("link_type", registration.link_type.clone().map(Value::from)),
        ("resource", registration.resource.clone()),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            body.insert(field.to_owned(), value);
        }
    }
    Value::Object(body)
}

fn bad_url(url: &str, reason: &str) -> ControlError {
    malformed_what(format!("the NanoCtrl URL `{}`", excerpt(url)), reason)
}

fn malformed(route: &str, reason: &str) -> ControlError {
    malformed_what(format!("NanoCtrl's answer to /{route}"), reason)
}

fn malformed_what(what: String, reason: &str) -> ControlError {
    ControlError::Malformed {
        what,
        reason: reason.to_owned(),
    }
}

/// The beginning of a foreign text, on one line.
fn excerpt(text: &str) -> String {
    let mut excerpt: String = text
        .chars()
        .take(LONGEST_EXCERPT)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(LONGEST_EXCERPT).is_some() {
        excerpt.push_str("...");
    }
    excerpt
}

/// The innermost causes of an HTTP error; the outer ones only say that there was one. A limit of
/// the system comes first.
fn reason(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let of_system = inner.downcast_ref::<io::Error>();
        if let Some(limit) = of_system.and_then(SystemLimit::met) {
            causes.insert(0, limit.to_string());
        }
        causes.push(inner.to_string());
        cause = inner.source();
    }
    if causes.is_empty() {
        return error.to_string();
    }
    causes.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(url: &str) -> Result<Http, ControlError> {
        Http::new(url, String::new(), Duration::from_secs(1))
    }

    #[test]
    fn a_url_without_a_scheme_gets_http() {
        for (given, meant) in [
            ("127.0.0.1:4479", "http://127.0.0.1:4479"),
            ("localhost:4479", "http://localhost:4479"),
            ("http://ctrl:80/", "http://ctrl"),
        ] {
            assert_eq!(http(given).expect("valid").url(), meant);
        }
        match http("https://ctrl:443/") {
            Ok(http) => {
                let understood = (cfg!(feature = "tls"), http.url(), http.host().1);
                assert_eq!(understood, (true, "https://ctrl", 443));
            }
            Err(error) => assert!(error.to_string().contains("feature `tls`"), "{error}"),
        }
    }

    #[test]
    fn an_address_without_a_scheme_is_not_asked_in_the_clear_where_there_are_files_for_tls() {
        let ca = ClientTls {
            ca: Some("/nowhere/ca.crt".into()),
            ..ClientTls::default()
        };
        for (given, meant) in [
            ("ctrl:80", "https://ctrl:80"),
            ("ctrl:443", "https://ctrl"),
            // Who says so means it.
            ("http://ctrl:80", "http://ctrl"),
        ] {
            let mut http = http(given).expect("valid");
            let set = http.set_tls(&ca);
            assert_eq!(set.is_err(), meant.starts_with("https"), "{given}");
            match cfg!(feature = "tls") {
                true => assert_eq!(http.url(), meant),
                false => assert!(set.is_ok() || format!("{set:?}").contains("feature `tls`")),
            }
        }
    }

    #[test]
    fn urls_that_cannot_work_are_refused_at_once() {
        for url in [
            "",
            "ftp://ctrl:1",
            "redis://h:6379",
            "http://",
            "http://a:b@h",
            "h:99999",
        ] {
            let error = http(url).expect_err(url);
            assert!(matches!(error, ControlError::Malformed { .. }), "{url}");
        }
    }

    #[test]
    fn an_address_with_a_zone_is_refused_with_what_to_use_instead() {
        for url in ["http://[fe80::1%25eth0]:3000", "[fe80::1%eth0]:3000"] {
            let error = http(url).expect_err(url).to_string();
            assert!(
                error.contains("zone") && error.contains("host name"),
                "{error}"
            );
        }
        assert!(http("http://[::1]:3000/50%25").is_ok());
    }

    #[test]
    fn an_alias_is_percent_encoded_in_the_topology_route() {
        let http = http("h:1").expect("valid");
        let route = http.route(&["v1", "desired_topology", "w:0 ü"]);
        assert_eq!(route.path(), "/v1/desired_topology/w:0%20%C3%BC");
    }

    #[test]
    fn absent_fields_of_a_registration_are_not_sent() {
        let body = registration_body(&Registration::default());
        assert_eq!(body, json!({"address": ""}));
    }

    #[test]
    fn input_1_only_the_beginning_of_an_error_body_is_kept() {
        assert_eq!(excerpt("a\nb"), "a b");
        assert!(excerpt(&"x".repeat(1 << 20)).len() < 400);
    }
}

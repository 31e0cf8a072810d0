//! Decides which Redis address each agent is told.
//!
//! Agents get `host:port` and nothing else: Python peers split it at the colon, parse the second
//! half as a number, and know neither credentials nor databases. Only native agents can therefore
//! be told an IPv6 address, in brackets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::web::{Data, Json};
use redis::{Client, ConnectionAddr};
use serde::{Deserialize, Serialize};

use super::body::JsonBody;
use super::config::Config;
use super::server::{App, reached};
use super::{StartError, host};

/// Port of a Redis whose address names none.
const REDIS_PORT: u16 = 6379;

/// Longest wait for the resolution of an agent's host name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);

/// A remote address, to find the route to the internet; nothing is sent there.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));

/// The Redis of the server, as others are told.
pub(super) struct RedisAddress {
    host: String,
    port: u16,
    is_tls: bool,
    /// Whether only this machine reaches it, under whatever address.
    private: bool,
    advertise: Option<Advertised>,
    public: Option<HostPort>,
}

/// The client that asks for the Redis address.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asker<'a> {
    /// The host that it says to run on, possibly with a port.
    pub(super) at: &'a str,
    /// The server's address that it connected to.
    pub(super) reached: Option<IpAddr>,
    /// Whether it understands brackets.
    pub(super) is_native: bool,
}

/// The agent cannot be told the address of Redis.
#[derive(Debug, thiserror::Error)]
#[error(
    "Redis is at {0}, an IPv6 address, which DLSlime agents do not understand; set NANOCTRL_REDIS_ADVERTISE to a host \
     name or IPv4 address and a port"
)]
pub(super) struct Unspeakable(HostPort);

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    host: String,
    port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", host::bracketed(&self.host), self.port)
    }
}

impl HostPort {
    fn told(self, is_native: bool) -> Result<String, Unspeakable> {
        match is_native || !self.host.contains(':') {
            true => Ok(self.to_string()),
            false => Err(Unspeakable(self)),
        }
    }
}

/// An address that is told instead of the server's own.
struct Advertised {
    for_agents: HostPort,
    /// The configured address without credentials and path.
    for_others: String,
}

impl RedisAddress {
    /// # Errors
    /// Redis has no address that agents can be told.
    pub(super) fn new(client: &Client, config: &Config, private: bool) -> Result<Self, StartError> {
        let info = client.get_connection_info();
        let advertise = config.advertise.as_deref().map(advertised).transpose()?;
        let public = config.public_address.as_deref().map(plain).transpose()?;
        let (host, port) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host.clone(), *port),
            ConnectionAddr::TcpTls { host, port, .. } => (host.clone(), *port),
            other => (other.to_string(), 0),
        };
        let redis = info.redis_settings();
        let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        if redis.db() != 0 || redis.password().is_some() || is_tls {
            tracing::warn!(
                "agents are told neither credentials nor database of Redis, nor that it speaks TLS; ours are to have \
                 SLIME_RPC_REDIS_URL set"
            );
        }
        let address = Self {
            host,
            port,
            is_tls,
            private,
            advertise,
            public,
        };
        if address.advertise.is_none() && address.port == 0 {
            return Err(unspeakable(&address.host, "it is not `host:port`"));
        }
        let told = address.advertise.as_ref().map(|it| &it.for_agents.host);
        if told.unwrap_or(&address.host).contains(':') && !host::is_loopback(&address.host) {
            tracing::warn!(
                "Redis is at an IPv6 address, which DLSlime agents do not understand: they are refused. Set \
                 NANOCTRL_REDIS_ADVERTISE to a host name or IPv4 address and a port to have some"
            );
        }
        Ok(address)
    }

    /// The address for an agent.
    pub(super) async fn for_agent(&self, asker: Asker<'_>) -> Result<String, Unspeakable> {
        self.seen_by(asker).await.told(asker.is_native)
    }

    async fn seen_by(&self, asker: Asker<'_>) -> HostPort {
        if let Some(advertised) = &self.advertise {
            return advertised.for_agents.clone();
        }
        let is_here = host::is_loopback(host::without_port(asker.at));
        if self.private || is_here || !host::is_loopback(&self.host) {
            return self.plain();
        }
        match &self.public {
            Some(address) => address.clone(),
            None => HostPort {
                host: own_address(asker).await.to_string(),
                port: self.port,
            },
        }
    }

    /// The address with its scheme.
    pub(super) async fn url(&self, reached: Option<IpAddr>) -> String {
        if let Some(advertised) = &self.advertise {
            return advertised.for_others.clone();
        }
        let asker = Asker {
            reached,
            ..Asker::default()
        };
        let own = match host::is_loopback(&self.host) && !self.private {
            true => Some(own_address(asker).await).filter(|ip| !ip.is_loopback()),
            false => None,
        };
        let told = own.map_or_else(
            || self.plain(),
            |ip| HostPort {
                host: ip.to_string(),
                port: self.port,
            },
        );
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        format!("{scheme}://{told}")
    }

    /// The address as it was configured. An IPv6 loopback address is replaced by a name that
    /// everybody understands.
    fn plain(&self) -> HostPort {
        let is_ours = self.host.contains(':') && host::is_loopback(&self.host);
        HostPort {
            host: if is_ours { "localhost" } else { &self.host }.to_owned(),
            port: self.port,
        }
    }
}

/// Refuses an address that agents cannot be told.
pub(super) fn check_advertised(address: &str) -> Result<(), StartError> {
    advertised(address).map(drop)
}

fn advertised(address: &str) -> Result<Advertised, StartError> {
    let (scheme, rest) = bare(address);
    Ok(Advertised {
        for_agents: plain(address)?,
        for_others: format!("{scheme}{rest}"),
    })
}

/// The scheme of an address, `://` included, and the rest without credentials and path.
fn bare(address: &str) -> (&str, &str) {
    // A password may have slashes and colons, too.
    let scheme_end = address
        .find("://")
        .filter(|&end| !address[..end].contains(':'));
    let (scheme, rest) = address.split_at(scheme_end.map_or(0, |end| end + "://".len()));
    let rest = rest.rsplit('@').next().unwrap_or_default();
    (scheme, rest.split(['/', '?']).next().unwrap_or_default())
}

/// Host and port of an address that may have a scheme, credentials or a path, and need not have a
/// port.
fn plain(address: &str) -> Result<HostPort, StartError> {
    let (_, rest) = bare(address);
    let host = host::without_port(rest);
    let after_host = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').map_or("?", |(_, after)| after),
        None => &rest[host.len()..],
    };
    let port = match after_host {
        "" => Some(REDIS_PORT),
        after => after.strip_prefix(':').and_then(|port| port.parse().ok()),
    };
    match port {
        Some(port) if !host.is_empty() => Ok(HostPort {
            host: host.to_owned(),
            port,
        }),
        _ => Err(unspeakable(rest, "it is not `host:port`")),
    }
}

fn unspeakable(address: &str, problem: &str) -> StartError {
    StartError::RedisAddress {
        address: address.to_owned(),
        reason: format!(
            "{problem}; set NANOCTRL_REDIS_ADVERTISE to a host name or address and a port"
        ),
    }
}

/// The server's address: the one that the client connected to, or the local address towards the
/// client's host; otherwise the one towards the internet; otherwise 127.0.0.1.
async fn own_address(asker: Asker<'_>) -> IpAddr {
    let can_be_told = |ip: &IpAddr| ip.is_ipv4() || asker.is_native;
    let reached = asker.reached.map(|ip| ip.to_canonical());
    if let Some(reached) = reached.filter(is_public).filter(can_be_told) {
        return reached;
    }
    for peer in resolve(host::without_port(asker.at)).await {
        if let Some(own) = address_towards(peer).filter(can_be_told) {
            return own;
        }
    }
    address_towards(ELSEWHERE).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The addresses of a host.
async fn resolve(host: &str) -> Vec<IpAddr> {
    if let Some(ip) = host::address(host) {
        return vec![ip];
    }
    if host.is_empty() {
        return Vec::new();
    }
    let found = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, 9)));
    match found.await {
        Ok(Ok(found)) => found.map(|found| found.ip().to_canonical()).collect(),
        _ => Vec::new(),
    }
}

/// The local address that the system would use towards `peer`. Connecting a UDP socket sends
/// nothing.
fn address_towards(peer: IpAddr) -> Option<IpAddr> {
    let any = match peer {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((peer, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(is_public)
}

/// Returns whether others can reach this address, as far as that can be seen.
fn is_public(ip: &IpAddr) -> bool {
    !ip.is_loopback() && !ip.is_unspecified()
}

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

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;

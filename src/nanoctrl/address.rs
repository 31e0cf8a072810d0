//! Which Redis address is told to whom.
//!
//! Agents get `host:port` and nothing else: Python peers split it at the colon, take the second half for a
//! number, and know neither credentials nor databases.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use redis::{Client, ConnectionAddr};

use super::StartError;
use super::config::Config;

/// Port of a Redis whose address names none.
const REDIS_PORT: u16 = 6379;

/// Longest wait for the name of an agent's host to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Somewhere far away; nothing is sent there.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));

/// The Redis of the server, as it is told to others.
pub(super) struct RedisAddress {
    host: String,
    port: u16,
    is_tls: bool,
    /// Reachable from this machine only, whatever address of it is used.
    private: bool,
    advertise: Option<Advertised>,
    public: Option<String>,
}

/// An address that is told instead of the server's own.
struct Advertised {
    /// `host:port`.
    for_agents: String,
    /// As configured, but for credentials and path.
    for_others: String,
}

impl RedisAddress {
    /// # Errors
    /// The Redis has no address that agents can be told.
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
        if address.advertise.is_none() && !address.can_be_told() {
            return Err(unspeakable(&address.host, "it is not `host:port`"));
        }
        Ok(address)
    }

    fn can_be_told(&self) -> bool {
        self.port != 0 && (self.is_loopback() || !self.host.contains(':'))
    }

    fn is_loopback(&self) -> bool {
        self.host.starts_with("localhost")
            || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// The address for an agent that says to be at `agent`, `host:port`.
    pub(super) async fn for_agent(&self, agent: &str) -> String {
        if let Some(advertised) = &self.advertise {
            return advertised.for_agents.clone();
        }
        let local = agent.starts_with("127.0.0.1") || agent.starts_with("localhost");
        if self.private || local || !self.is_loopback() {
            return format!("{}:{}", self.plain_host(), self.port);
        }
        match &self.public {
            Some(address) => address.clone(),
            None => format!("{}:{}", own_address(Some(agent)).await, self.port),
        }
    }

    /// The address with its scheme.
    pub(super) async fn url(&self) -> String {
        if let Some(advertised) = &self.advertise {
            return advertised.for_others.clone();
        }
        let own = match self.is_loopback() && !self.private {
            true => Some(own_address(None).await).filter(|ip| !ip.is_loopback()),
            false => None,
        };
        let host = own.map_or_else(|| self.plain_host().to_owned(), |ip| ip.to_string());
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        format!("{scheme}://{host}:{}", self.port)
    }

    /// The host without colons. Only `::1` can have some here.
    fn plain_host(&self) -> &str {
        if self.host.contains(':') {
            "localhost"
        } else {
            &self.host
        }
    }
}

fn advertised(address: &str) -> Result<Advertised, StartError> {
    let (scheme, rest) = bare(address);
    Ok(Advertised {
        for_agents: plain(address)?,
        for_others: format!("{scheme}{rest}"),
    })
}

/// The scheme of an address, `://` included, and what is left of the rest without credentials and path.
fn bare(address: &str) -> (&str, &str) {
    // A password may have slashes and colons, too.
    let scheme_end = address
        .find("://")
        .filter(|&end| !address[..end].contains(':'));
    let (scheme, rest) = address.split_at(scheme_end.map_or(0, |end| end + "://".len()));
    let rest = rest.rsplit('@').next().unwrap_or_default();
    (scheme, rest.split(['/', '?']).next().unwrap_or_default())
}

/// `host:port` of an address that may have a scheme, credentials or a path, and need not have a port.
fn plain(address: &str) -> Result<String, StartError> {
    let (_, rest) = bare(address);
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (rest, Some(REDIS_PORT)),
    };
    match port {
        Some(port) if !host.is_empty() => Ok(format!("{host}:{port}")),
        _ => Err(unspeakable(rest, "it is not `host:port`")),
    }
}

fn unspeakable(address: &str, problem: &str) -> StartError {
    StartError::RedisAddress {
        address: address.to_owned(),
        reason: format!(
            "{problem}, and Python peers understand nothing else; \
             set NANOCTRL_REDIS_ADVERTISE to a host name or IPv4 address and a port"
        ),
    }
}

/// Our address as `peer` would see it, else as the internet would, else 127.0.0.1.
async fn own_address(peer: Option<&str>) -> IpAddr {
    let peer = match peer {
        Some(peer) => resolve(peer).await,
        None => None,
    };
    peer.and_then(address_towards)
        .or_else(|| address_towards(ELSEWHERE))
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The IPv4 address of a host; of the others agents cannot be told.
async fn resolve(host: &str) -> Option<IpAddr> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(ip).filter(IpAddr::is_ipv4);
    }
    if host.is_empty() {
        return None;
    }
    let found = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, 9)));
    let mut found = found.await.ok()?.ok()?;
    found.find(SocketAddr::is_ipv4).map(|found| found.ip())
}

/// The local address that the system would use towards `peer`. Connecting a UDP socket sends nothing.
fn address_towards(peer: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((peer, 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    Some(ip).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;

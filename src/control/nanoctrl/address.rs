//! The address of Redis.

use redis::ConnectionAddr;

use crate::control::ControlError;

/// Port of Redis when NanoCtrl names none.
const DEFAULT_PORT: u16 = 6379;

/// Longest host name, in bytes (RFC 1035).
const LONGEST_HOST: usize = 255;

/// Host and port of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    host: String,
    port: u16,
}

impl Address {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
        }
    }

    /// Reads `host:port`. DLSlime's server passes on the address it was started with, so a leading
    /// `redis://` and a missing port are accepted; parts that cannot be honoured are refused.
    pub(super) fn parse(text: &str) -> Result<Self, ControlError> {
        split(text)
            .filter(|(host, port)| is_host(host) && *port != 0)
            .map(|(host, port)| Self::new(host, port))
            .ok_or_else(|| refused(text))
    }

    /// The address in the client's form, with TLS or without.
    pub(super) fn within(&self, is_tls: bool) -> ConnectionAddr {
        let (host, port) = (self.host.clone(), self.port);
        match is_tls {
            false => ConnectionAddr::Tcp(host, port),
            true => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
        }
    }
}

/// Host and port of `[redis://]host[:port][/]`; an IPv6 address stands in brackets.
fn split(text: &str) -> Option<(&str, u16)> {
    let text = text.strip_prefix("redis://").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']')?;
            match rest {
                "" => (host, None),
                _ => (host, Some(rest.strip_prefix(':')?)),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    match port {
        Some(port) => Some((host, port.parse().ok()?)),
        None => Some((host, DEFAULT_PORT)),
    }
}

fn is_host(host: &str) -> bool {
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || "/@?#[]".contains(c);
    !host.is_empty() && host.len() <= LONGEST_HOST && !host.contains(is_odd)
}

fn refused(text: &str) -> ControlError {
    let start: String = text.chars().take(80).collect();
    ControlError::Malformed {
        what: format!("the Redis address `{}`", start.escape_debug()),
        reason: "`host:port` is expected, without credentials, database or path".to_owned(),
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_servers_give_them_are_understood() {
        for (text, meant) in [
            ("127.0.0.1:6379", "127.0.0.1:6379"),
            ("redis://h:7000", "h:7000"),
            ("redis://h:7000/", "h:7000"),
            ("h", "h:6379"),
            ("[::1]:6380", "[::1]:6380"),
            ("[::1]", "[::1]:6379"),
        ] {
            assert_eq!(Address::parse(text).expect(text).to_string(), meant);
        }
    }

    #[test]
    fn input_1_addresses_that_we_could_not_honour_are_refused() {
        for text in [
            "",
            ":6379",
            "h:",
            "h:0",
            "h:65536",
            "h:6379/2",
            "user:pw@h:6379",
            "rediss://h:6379",
            "unix:///run/redis",
            "::1",
            "a b:1",
            "h\n:1",
        ] {
            assert!(
                matches!(Address::parse(text), Err(ControlError::Malformed { .. })),
                "{text:?}"
            );
        }
    }
}

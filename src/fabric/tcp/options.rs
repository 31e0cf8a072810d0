//! Where a device listens and what it tells peers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::tls::TlsFiles;

/// Settings of a [`TcpDevice`](super::TcpDevice).
///
/// ```
/// use slimerpc::fabric::tcp::TcpOptions;
/// let options = TcpOptions {
///     bind: "0.0.0.0".parse()?,
///     advertise: Some("192.0.2.1".parse()?),
///     ports: 7000..=7099,
///     tls: None,
/// };
/// assert_eq!(TcpOptions::default().ports, 0..=0);
/// # drop(options);
/// # Ok::<_, std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpOptions {
    /// The address to listen on, IPv4 or IPv6; an unspecified one (`0.0.0.0`, `::`) is all of this
    /// host.
    pub bind: IpAddr,
    /// The address that peers dial, if it is another one: behind NAT, in a container, or where
    /// `bind` is unspecified.
    pub advertise: Option<IpAddr>,
    /// The ports to try, in order; `0..=0` is any that is free.
    pub ports: RangeInclusive<u16>,
    /// Certificates, for mutual TLS: then no peer is met without. Needs the cargo feature `tls`.
    pub tls: Option<TlsFiles>,
}

/// The text is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an IP address to listen on is expected, and maybe a port or a range of them, such as `192.0.2.1`, \
     `0.0.0.0:7000-7099` or `[::1]:7000`, not `{0}`"
)]
pub struct MalformedBind(String);

impl FromStr for TcpOptions {
    type Err = MalformedBind;

    /// Parses an address, which may be followed by a port or a range of ports.
    fn from_str(text: &str) -> Result<Self, MalformedBind> {
        let malformed = || MalformedBind(text.to_owned());
        let options = |bind, ports| Self {
            bind,
            ports,
            ..Self::default()
        };
        let text = text.trim();
        if let Ok(bind) = text.parse() {
            return Ok(options(bind, 0..=0));
        }
        let (host, ports) = text.rsplit_once(':').ok_or_else(malformed)?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        // As the port of a socket's address, IPv6 in brackets.
        let at = |port: &str| format!("{host}:{port}").parse::<SocketAddr>().ok();
        let (first, last) = at(first).zip(at(last)).ok_or_else(malformed)?;
        if first.port() > last.port() {
            return Err(malformed());
        }
        Ok(options(first.ip(), first.port()..=last.port()))
    }
}

impl Default for TcpOptions {
    /// Any port of the loopback address.
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            advertise: None,
            ports: 0..=0,
            tls: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_to_listen_on_may_have_ports_and_nonsense_is_refused() {
        let cases = [
            ("127.0.0.1", "127.0.0.1", 0..=0),
            (" ::1 ", "::1", 0..=0),
            ("192.0.2.1:7000", "192.0.2.1", 7000..=7000),
            ("[::]:7000-7099", "::", 7000..=7099),
        ];
        for (text, bind, ports) in cases {
            let options: TcpOptions = text.parse().unwrap();
            assert_eq!(
                (options.bind, options.ports),
                (bind.parse().unwrap(), ports)
            );
        }
        for bad in [
            "",
            "host",
            "1.2.3",
            "1.2.3.4:",
            "1.2.3.4:70000",
            "1.2.3.4:9-8",
            "1.2.3.4:1-2-3",
            "::1:70000",
            "[::1]",
            "eth0:7000",
        ] {
            let refused = bad.parse::<TcpOptions>().unwrap_err().to_string();
            assert!(refused.contains(bad) && refused.contains("0.0.0.0:7000-7099"));
        }
    }
}

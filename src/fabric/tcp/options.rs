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
    "an IP address or a host name to listen on is expected, and maybe a port or a range of them, such as `192.0.2.1`, \
     `0.0.0.0:7000-7099` or `[::1]:7000`, not `{0}`"
)]
pub struct MalformedBind(String);

impl TcpOptions {
    /// The host name in a text to listen on, and what follows it, if it begins with a name and no
    /// address: `name`, `name:7000` or `name:7000-7099`.
    ///
    /// ```
    /// use slimerpc::fabric::tcp::TcpOptions;
    /// assert_eq!(TcpOptions::name_in("worker-3:7000-7099"), Some(("worker-3", ":7000-7099")));
    /// assert_eq!(TcpOptions::name_in("192.0.2.1:7000"), None);
    /// ```
    pub fn name_in(text: &str) -> Option<(&str, &str)> {
        let text = text.trim();
        let (name, ports) = text.split_at(text.find(':').unwrap_or(text.len()));
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        // What ends in a number is an address, or nonsense that resolvers take for one.
        let last = name.trim_end_matches('.').rsplit('.').next()?;
        let is_name = name.chars().all(is_part) && last.contains(|c: char| c.is_ascii_alphabetic());
        (is_name && !ports[ports.len().min(1)..].contains(':')).then_some((name, ports))
    }

    /// Listens on the address of a name, and on the ports that follow it as
    /// [`name_in`](Self::name_in) has them.
    ///
    /// # Errors
    /// The text is no such thing.
    pub fn at(address: IpAddr, ports: &str) -> Result<Self, MalformedBind> {
        match address {
            IpAddr::V6(address) if !ports.is_empty() => format!("[{address}]{ports}"),
            address => format!("{address}{ports}"),
        }
        .parse()
    }
}

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

    #[test]
    fn names_are_told_from_addresses_and_nonsense() {
        for (text, name, ports) in [
            (" host ", "host", ""),
            ("a-1.example.:7000", "a-1.example.", ":7000"),
            ("h:7000-7099", "h", ":7000-7099"),
            // Refused with its ports.
            ("h:1-2-3", "h", ":1-2-3"),
        ] {
            assert_eq!(TcpOptions::name_in(text), Some((name, ports)), "{text}");
        }
        for other in [
            "",
            "1.2.3",
            "1.2.3.4:",
            "::1",
            "[::1]:7",
            "::1:70000",
            "a b",
            "h:1:2",
            "127.1",
            "host.1",
        ] {
            assert_eq!(TcpOptions::name_in(other), None, "{other}");
        }
        let six = "::1".parse().unwrap();
        let options = TcpOptions::at(six, ":7000-7099").unwrap();
        assert_eq!((options.bind, options.ports), (six, 7000..=7099));
        assert_eq!(TcpOptions::at(six, "").unwrap().bind, six);
        assert!(TcpOptions::at(six, ":1-2-3").is_err());
    }
}

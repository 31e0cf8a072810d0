//! Where a device listens and what it tells peers.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

/// Settings of a [`TcpDevice`](super::TcpDevice).
///
/// ```
/// use slimerpc::fabric::tcp::TcpOptions;
/// let options = TcpOptions {
///     bind: "0.0.0.0".parse()?,
///     advertise: Some("192.0.2.1".parse()?),
///     ports: 7000..=7099,
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
}

impl Default for TcpOptions {
    /// Any port of the loopback address.
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            advertise: None,
            ports: 0..=0,
        }
    }
}

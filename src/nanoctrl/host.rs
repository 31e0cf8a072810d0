//! Hosts as people and programs write them: names and addresses, with or without brackets, a zone
//! or a port.

use std::net::IpAddr;

/// The host in `host`, `host:port`, `[address]` or `[address]:port`.
pub(super) fn without_port(text: &str) -> &str {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    match text.split_once(':') {
        // With more colons it is an IPv6 address.
        Some((host, port)) if !port.contains(':') => host,
        _ => text,
    }
}

/// The IP address that the host text is; `None` if it is a name. A zone is dropped, and an IPv4
/// address in IPv6 notation becomes IPv4.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    let plain = host.split('%').next().unwrap_or_default();
    plain.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

/// Returns whether the host is this machine, from any client's point of view.
pub(super) fn is_loopback(host: &str) -> bool {
    match address(host) {
        Some(ip) => ip.is_loopback(),
        None => {
            let name = host.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// The host in the form that stands before a port.
pub(super) fn bracketed(host: &str) -> String {
    match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_in_every_form() {
        for (text, host) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("h:80", "h"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[fe80::1%eth0]:80", "fe80::1%eth0"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
            ("", ""),
            ("[", ""),
        ] {
            assert_eq!(without_port(text), host);
        }
    }

    #[test]
    fn loopback_is_an_address_or_a_name_and_not_how_either_begins() {
        for host in [
            "127.0.0.1",
            "127.0.0.2",
            "::1",
            "::ffff:127.0.0.1",
            "0:0:0:0:0:0:0:1",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "10.0.0.1",
            "127.0.0.1.example.org",
            "localhost.example.org",
            "localhosts",
            "::2",
            "::ffff:10.0.0.1",
            "fe80::1%lo",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}

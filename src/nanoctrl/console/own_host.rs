//! The names that a server goes by.
//!
//! A page of a stranger may have its own name resolved to an address in here (DNS rebinding). The
//! browser then takes this server for the stranger's and lets the page read what it answers. The
//! `Host` header tells: it has the stranger's name. Where a token is wanted that does not matter,
//! since the browser brings the session to no other name than that which has it.

use std::fs;

use crate::nanoctrl::host;

/// The names of this server that need no token to be trusted.
pub(super) struct OwnHost {
    configured: String,
    of_machine: String,
}

impl OwnHost {
    /// `configured` is the host that the server listens on.
    pub(super) fn new(configured: &str) -> Self {
        let of_machine = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            configured: host::without_port(configured).to_ascii_lowercase(),
            of_machine: of_machine.trim().to_ascii_lowercase(),
        }
    }

    /// Returns whether a `Host` header cannot be that of a stranger's page: an address, a name of
    /// this machine, or one without a dot, which no stranger can register. With a dot at its end it
    /// is the name of a domain at the top, where there are web servers too.
    pub(super) fn is(&self, header: &str) -> bool {
        let written = host::without_port(header);
        let name = written.trim_end_matches('.').to_ascii_lowercase();
        let is_address = host::address(&name).is_some();
        let is_known = name == self.configured || name == self.of_machine;
        is_address || is_known || host::is_loopback(&name) || !written.contains('.')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_stranger_may_have_registered_is_not_ours() {
        let own = OwnHost {
            configured: "ctrl.cluster.example".to_owned(),
            of_machine: "node7.cluster.example".to_owned(),
        };
        for header in [
            "127.0.0.1:3000",
            "10.0.0.5",
            "[::1]:3000",
            "localhost:3000",
            "a.localhost",
            "ctrl",
            "CTRL.cluster.example:3000",
            "node7.cluster.example.",
        ] {
            assert!(own.is(header), "{header}");
        }
        for header in [
            "rebind.example:3000",
            "127.0.0.1.rebind.example",
            "ctrl.cluster.example.rebind.example",
            "localhost.rebind.example",
            "ai.",
            "ai.:3000",
        ] {
            assert!(!own.is(header), "{header}");
        }
    }
}

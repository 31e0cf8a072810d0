//! The setting that selects devices.

use super::Nic;

/// Devices by name, as NCCL (`NCCL_IB_HCA`) and UCX (`UCX_NET_DEVICES`) spell them:
///
/// | spelling | means |
/// | --- | --- |
/// | `mlx5_0,mlx5_1` or `mlx5_0 mlx5_1` | these |
/// | `mlx5_0:1` | this port of it |
/// | `mlx5`, `mlx5_*` | all whose names begin so; a number counts whole: `mlx5_1` is not `mlx5_10` |
/// | `=mlx5` | the one of exactly this name |
/// | `^mlx5_0`, `^=mlx5_0` | all but these |
/// | `all` | all |
///
/// Case is ignored where no device has exactly the given name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    excludes: bool,
    names: Vec<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    /// The setting as it was given.
    text: String,
    name: String,
    port: Option<u32>,
    is_exact: bool,
}

impl Selection {
    /// Reads a setting. `None` if it is empty, which counts as unset.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (excludes, text) = strip(text, '^');
        let (is_exact, text) = strip(text, '=');
        let names = text.split(|c: char| c == ',' || c.is_whitespace());
        let names = names.filter(|name| !name.is_empty());
        let names: Vec<_> = names.map(|name| Name::parse(name, is_exact)).collect();
        (!names.is_empty()).then_some(Self { excludes, names })
    }

    /// Keeps the devices that the setting names, and returns names that match nothing.
    pub(super) fn apply(&self, nics: &mut Vec<Nic>) -> Vec<String> {
        let unmatched = self.names.iter().filter(|name| !name.is_any_of(nics));
        let unmatched = unmatched.map(|name| name.text.clone()).collect();
        let kept = nics.iter().map(|nic| {
            let ports = nic.ports.iter();
            let ports = ports.filter(|port| self.keeps(nics, nic, Some(port.number)));
            Nic {
                ports: ports.cloned().collect(),
                ..nic.clone()
            }
        });
        let kept: Vec<_> = kept
            .filter(|nic| !nic.ports.is_empty() || self.keeps(nics, nic, None))
            .collect();
        *nics = kept;
        unmatched
    }

    /// Returns whether a device, or a port of it, is kept.
    fn keeps(&self, all: &[Nic], nic: &Nic, port: Option<u32>) -> bool {
        let names = |name: &Name| {
            let is_port = name.port.is_none() || name.port == port;
            is_port && name.is_name_of(all, &nic.name)
        };
        self.names.iter().any(names) != self.excludes
    }
}

impl Name {
    fn parse(text: &str, is_exact: bool) -> Self {
        let (name, port) = split_port(text.trim_start_matches(['^', '=']));
        Self {
            text: text.to_owned(),
            name: name.to_owned(),
            port,
            is_exact,
        }
    }

    /// Returns whether the name means this device among `all`.
    fn is_name_of(&self, all: &[Nic], device: &str) -> bool {
        let name = &*self.name;
        if all.iter().any(|nic| nic.name == name) {
            return device == name;
        }
        if all.iter().any(|nic| nic.name.eq_ignore_ascii_case(name)) {
            return device.eq_ignore_ascii_case(name);
        }
        !self.is_exact && (name.eq_ignore_ascii_case("all") || begins(device, name))
    }

    fn is_any_of(&self, nics: &[Nic]) -> bool {
        let has_port = |nic: &Nic| {
            let is_it = |port| nic.ports.iter().any(|p| p.number == port);
            self.port.is_none_or(is_it)
        };
        let mut named = nics.iter().filter(|nic| self.is_name_of(nics, &nic.name));
        named.any(has_port)
    }
}

/// Returns whether the name of a device begins with `prefix`. A number counts as a whole.
fn begins(device: &str, prefix: &str) -> bool {
    let (is_open, prefix) = match prefix.strip_suffix('*') {
        Some(prefix) => (true, prefix),
        None => (false, prefix),
    };
    let Some((head, rest)) = device.split_at_checked(prefix.len()) else {
        return false;
    };
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let splits_number = is_digit(head.chars().last()) && is_digit(rest.chars().next());
    head.eq_ignore_ascii_case(prefix) && (is_open || !splits_number)
}

/// Splits a device from its port, if that is named: `mlx5_0:1`. A colon that no number follows is
/// part of the name.
pub(super) fn split_port(text: &str) -> (&str, Option<u32>) {
    let split = text.rsplit_once(':');
    let port = split.and_then(|(name, port)| Some((name, port.parse().ok()?)));
    port.map_or((text, None), |(name, port)| (name, Some(port)))
}

fn strip(text: &str, mark: char) -> (bool, &str) {
    match text.strip_prefix(mark) {
        Some(rest) => (true, rest),
        None => (false, text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Port;
    use super::*;

    /// `mlx5_0` with two ports, `mlx5_1`, `mlx5_10` and `rxe0` with one.
    fn host() -> Vec<Nic> {
        let nic = |name: &str, ports| Nic {
            name: name.to_owned(),
            numa_node: -1,
            pci_bus_id: String::new(),
            ports: (1..=ports)
                .map(|number| Port {
                    number,
                    state: "ACTIVE".to_owned(),
                    link_type: "RoCE".to_owned(),
                })
                .collect(),
        };
        vec![
            nic("mlx5_0", 2),
            nic("mlx5_1", 1),
            nic("mlx5_10", 1),
            nic("rxe0", 1),
        ]
    }

    /// What is left of it, with the ports, and which names name nothing.
    fn select(text: &str) -> (String, Vec<String>) {
        let mut nics = host();
        let unmatched = Selection::parse(text).expect(text).apply(&mut nics);
        let left = nics.iter().map(|nic| {
            let ports = nic.ports.iter().map(|port| port.number.to_string());
            format!("{}:{}", nic.name, ports.collect::<Vec<_>>().join("+"))
        });
        (left.collect::<Vec<_>>().join(" "), unmatched)
    }

    #[test]
    fn what_is_empty_is_not_set() {
        for text in ["", " ", "\n", ",", " , ", "^", "=", "^="] {
            assert_eq!(Selection::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn devices_are_named_as_nccl_and_ucx_name_them() {
        let all = "mlx5_0:1+2 mlx5_1:1 mlx5_10:1 rxe0:1";
        for (text, left) in [
            ("rxe0", "rxe0:1"),
            ("RXE0", "rxe0:1"),
            (" rxe0 , mlx5_1 ", "mlx5_1:1 rxe0:1"),
            ("rxe0 mlx5_1", "mlx5_1:1 rxe0:1"),
            ("mlx5_0:1", "mlx5_0:1"),
            ("mlx5_0:2,mlx5_0:1", "mlx5_0:1+2"),
            ("mlx5_0:2,mlx5_0", "mlx5_0:1+2"),
            ("MLX5_0:2", "mlx5_0:2"),
            ("mlx5_1", "mlx5_1:1"),
            ("mlx5_1:1", "mlx5_1:1"),
            ("mlx5", "mlx5_0:1+2 mlx5_1:1 mlx5_10:1"),
            ("mlx5_", "mlx5_0:1+2 mlx5_1:1 mlx5_10:1"),
            ("mlx5:2", "mlx5_0:2"),
            ("mlx5_1*", "mlx5_1:1 mlx5_10:1"),
            ("rxe", "rxe0:1"),
            ("=mlx5_1,rxe0", "mlx5_1:1 rxe0:1"),
            ("=mlx5_1:1", "mlx5_1:1"),
            ("^mlx5", "rxe0:1"),
            ("^mlx5_0:1", "mlx5_0:2 mlx5_1:1 mlx5_10:1 rxe0:1"),
            ("^=mlx5_10,rxe0", "mlx5_0:1+2 mlx5_1:1"),
            ("^mlx5_10,^rxe0", "mlx5_0:1+2 mlx5_1:1"),
            ("all", all),
            ("*", all),
        ] {
            assert_eq!(select(text), (left.to_owned(), Vec::new()), "{text}");
        }
    }

    #[test]
    fn what_names_nothing_is_said() {
        for (text, left, unmatched) in [
            ("mlx4_0", "", &["mlx4_0"][..]),
            ("rxe0,rxe1", "rxe0:1", &["rxe1"]),
            ("rxe0;rxe1", "", &["rxe0;rxe1"]),
            ("mlx5_1:2", "", &["mlx5_1:2"]),
            ("rxe0:one", "", &["rxe0:one"]),
            ("=mlx5", "", &["mlx5"]),
            ("=all", "", &["all"]),
            ("m5lx:1:1 rxe0", "rxe0:1", &["m5lx:1:1"]),
            ("rxe0:4294967296", "", &["rxe0:4294967296"]),
            ("µ", "", &["µ"]),
        ] {
            let expected: Vec<_> = unmatched.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(select(text), (left.to_owned(), expected), "{text}");
        }
        let (left, unmatched) = select("^mlx4_0");
        assert_eq!(left, "mlx5_0:1+2 mlx5_1:1 mlx5_10:1 rxe0:1");
        assert_eq!(unmatched, ["mlx4_0"]);
    }
}

//! The fabrics that an agent may use, in order of preference.

use std::fmt;
use std::str::FromStr;

use super::LinkType;

/// A way for bytes to travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FabricKind {
    /// Shared memory of one host.
    Shm,
    /// RDMA devices.
    Rdma,
    /// Any two hosts.
    Tcp,
}

/// A list of fabrics, each at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fabrics(Vec<FabricKind>);

/// The text is no list of fabrics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a list of `shm`, `rdma` and `tcp` is expected, each at most once, the preferred one first"
)]
pub struct MalformedFabrics;

impl FabricKind {
    /// The fabric of a link.
    pub fn of(link: LinkType) -> Self {
        match link {
            LinkType::Shm => Self::Shm,
            LinkType::Roce | LinkType::InfiniBand => Self::Rdma,
            LinkType::Tcp => Self::Tcp,
        }
    }
}

impl Fabrics {
    /// All there are for agents that find peers in other processes, and those that open no port for
    /// agents that find peers in this process only.
    pub fn default(finds_other_processes: bool) -> Self {
        let mut fabrics = vec![FabricKind::Shm, FabricKind::Rdma];
        fabrics.extend(finds_other_processes.then_some(FabricKind::Tcp));
        Self(fabrics)
    }

    /// Whether this fabric may be used.
    pub fn contain(&self, fabric: FabricKind) -> bool {
        self.0.contains(&fabric)
    }

    /// Each, the preferred one first.
    pub fn iter(&self) -> impl Iterator<Item = FabricKind> {
        self.0.iter().copied()
    }

    /// Returns whether this is the only fabric.
    pub fn are_only(&self, fabric: FabricKind) -> bool {
        self.0 == [fabric]
    }
}

impl FromStr for Fabrics {
    type Err = MalformedFabrics;

    fn from_str(text: &str) -> Result<Self, MalformedFabrics> {
        let mut fabrics = Vec::new();
        for name in text.split(',') {
            let fabric = match name.trim().to_ascii_lowercase().as_str() {
                "shm" => FabricKind::Shm,
                "rdma" => FabricKind::Rdma,
                "tcp" => FabricKind::Tcp,
                _ => return Err(MalformedFabrics),
            };
            if fabrics.contains(&fabric) {
                return Err(MalformedFabrics);
            }
            fabrics.push(fabric);
        }
        Ok(Self(fabrics))
    }
}

impl fmt::Display for FabricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shm => "shm",
            Self::Rdma => "rdma",
            Self::Tcp => "tcp",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_fabrics_keeps_its_order_and_nonsense_is_refused() {
        let list = |fabrics: &[FabricKind]| Ok(Fabrics(fabrics.to_vec()));
        let all = [FabricKind::Tcp, FabricKind::Shm, FabricKind::Rdma];
        assert_eq!("tcp, SHM ,rdma".parse(), list(&all));
        assert_eq!("shm".parse(), list(&[FabricKind::Shm]));
        for bad in ["", "shm,", "shm,shm", "shm tcp", "udp", "shm0"] {
            assert_eq!(bad.parse::<Fabrics>(), Err(MalformedFabrics), "{bad}");
        }
    }
}

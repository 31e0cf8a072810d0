//! The RDMA devices of this host, in DLSlime's schema.

use std::{
    ffi::OsStr,
    path::Path,
    sync::{LazyLock, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::select_ok;
use serde_json::{Value, json};
use tokio::{
    net::{TcpStream, UdpSocket, lookup_host},
    time::timeout,
};

mod nic;
mod selection;

pub use self::nic::{Nic, Port, link_type};
use self::nic::{attribute, entries};
use self::selection::{Selection, split_port};
use super::{Registration, process};
use crate::unique::unique;

/// Where the kernel lists RDMA devices.
const SYSFS: &str = "/sys/class/infiniband";

/// How long a server may take to accept the connection from which the local address is read.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);

/// Environment variable that limits the devices used. DLSlime honours it too, and understands names
/// separated by commas.
const VISIBLE_DEVICES: &str = "SLIME_VISIBLE_DEVICES";

/// The topology of this host.
///
/// ```
/// use slimerpc::control::topology::Topology;
///
/// let registration = Topology::of_host().registration(Some("worker:0"), "192.0.2.7");
/// assert_eq!(registration.alias.as_deref(), Some("worker:0"));
/// assert!(registration.resource.is_some());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    /// The RDMA devices, sorted by name.
    pub nics: Vec<Nic>,
}

impl Topology {
    /// Reads the topology of this host, limited by `SLIME_VISIBLE_DEVICES` if that is set and not
    /// empty. A host without RDMA has no devices; that is no error.
    ///
    /// The variable takes names as NCCL and UCX do: `mlx5_0,mlx5_1`, also with blanks between;
    /// `mlx5_0:1` is a port; `mlx5` and `mlx5_*` are all that begin so, `=mlx5_1` is exactly that
    /// one, `^mlx5_0` all but that one. A name that matches nothing is logged as a warning.
    pub fn of_host() -> Self {
        // Read the boot id while there are descriptors: an agent without it would be taken for one
        // on another host.
        boot_id();
        let visible = std::env::var_os(VISIBLE_DEVICES);
        let visible = visible.as_deref().map(OsStr::to_string_lossy);
        Self::read(Path::new(SYSFS), visible.as_deref())
    }

    /// Reads the devices in the directory `sysfs`, limited to those that `visible` names, if any,
    /// as [`of_host`](Self::of_host) describes.
    pub fn read(sysfs: &Path, visible: Option<&str>) -> Self {
        let nics = entries(sysfs).into_iter();
        let mut nics: Vec<Nic> = nics
            .map(|name| Nic::read(&sysfs.join(&name), name))
            .collect();
        nics.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(selection) = visible.and_then(Selection::parse) {
            let there_are: Vec<_> = nics.iter().map(|nic| nic.name.clone()).collect();
            let unmatched = selection.apply(&mut nics);
            if !unmatched.is_empty() {
                tracing::warn!(
                    ?unmatched,
                    ?there_are,
                    visible = nics.len(),
                    "{VISIBLE_DEVICES} names RDMA devices or ports that this host does not have"
                );
            }
        }
        Self { nics }
    }

    /// Puts the device `name` first, if it exists: DLSlime peers connect with the first.
    #[must_use]
    pub fn preferring(mut self, name: &str) -> Self {
        let preferred = self.named(name).map(|(nic, _)| nic.name.clone());
        self.nics
            .sort_by_key(|nic| Some(&nic.name) != preferred.as_ref());
        self
    }

    /// Finds the device `name`, with its port if the name has one: `mlx5_0:1`. Case is ignored if
    /// no device has exactly this name.
    pub fn named(&self, name: &str) -> Option<(&Nic, Option<u32>)> {
        let (name, port) = split_port(name.trim());
        let exactly = |nic: &&Nic| nic.name == name;
        let nearly = |nic: &&Nic| nic.name.eq_ignore_ascii_case(name);
        let found = self.nics.iter().find(exactly);
        let nic = found.or_else(|| self.nics.iter().find(nearly))?;
        Some((nic, port))
    }

    /// The first usable device and port.
    pub fn first_usable(&self) -> Option<(&Nic, &Port)> {
        self.nics
            .iter()
            .find_map(|nic| Some((nic, nic.first_usable()?)))
    }

    /// Makes a registration from the first usable device and the topology as JSON. `address` is
    /// where peers may know this agent; if empty, it is the address that this host uses towards
    /// NanoCtrl.
    pub fn registration(&self, alias: Option<&str>, address: &str) -> Registration {
        let usable = self.first_usable();
        Registration {
            alias: alias.map(str::to_owned),
            address: address.to_owned(),
            device: usable.map(|(nic, _)| nic.name.clone()),
            ib_port: usable.map(|(_, port)| port.number),
            link_type: usable.map(|(_, port)| port.link_type.clone()),
            resource: Some(self.to_json(address)),
        }
    }

    /// The topology in DLSlime's form. Under `slime`, which DLSlime ignores, it holds what shows
    /// peers whether they share the host and whether this process runs: boot id, user and process.
    /// The devices that are not RDMA devices are listed there too, because DLSlime would take them
    /// for such elsewhere: shared memory, until an agent names its own. An empty `address` becomes
    /// the host name.
    pub fn to_json(&self, address: &str) -> Value {
        let hostname = hostname();
        let address = if address.is_empty() {
            &hostname
        } else {
            address
        };
        let mut slime = process::this();
        slime["fabrics"] = json!(["shm0"]);
        let epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        json!({
            "schema_version": 1,
            "host": {"hostname": hostname, "address": address},
            "nics": self.nics.iter().map(Nic::to_json).collect::<Vec<_>>(),
            "accelerators": [],
            "memory_keys": [],
            "topology_epoch": epoch.as_secs(),
            "topology_backends": {"sysfs": "AVAILABLE", "cuda": "NOT_BUILT", "nvml": "NOT_BUILT"},
            "slime": slime,
        })
    }
}

/// The name of this host; empty if it cannot be read.
pub fn hostname() -> String {
    attribute(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default()
}

/// Finds the address that this host uses towards a server; `None` if that takes longer than a
/// second. It is the local address of a connection, to whichever of the server's addresses answers
/// first; while none does, the address from which this host would try the first one that it has a
/// route to. A peer on the server's own host gets a loopback address if it used one itself.
pub async fn address_towards(host: &str, port: u16) -> Option<String> {
    let find = async {
        let all: Vec<_> = lookup_host((host, port)).await.ok()?.collect();
        let connecting = all.iter().map(|to| Box::pin(TcpStream::connect(*to)));
        let connected = async {
            match all.is_empty() {
                true => None,
                false => Some(select_ok(connecting).await.ok()?.0),
            }
        };
        let connected = timeout(CONNECT_TIMEOUT, connected).await.ok().flatten();
        if let Some(own) = connected.and_then(|stream| stream.local_addr().ok()) {
            return Some(own);
        }
        for to in all {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            // Connecting a UDP socket sends nothing.
            if let Ok(socket) = UdpSocket::bind(any).await
                && socket.connect(to).await.is_ok()
            {
                return socket.local_addr().ok();
            }
        }
        None
    };
    let found = timeout(Duration::from_secs(1), find).await.ok().flatten();
    found.map(|own| own.ip().to_canonical().to_string())
}

/// Identifies this boot of this kernel: two processes with the same id share the host. If it cannot
/// be read, this process gets an id that no other has, so no peer is taken to be on this host.
pub fn boot_id() -> String {
    static READ: OnceLock<String> = OnceLock::new();
    if let Some(read) = READ.get() {
        return read.clone();
    }
    match attribute(Path::new("/proc/sys/kernel/random/boot_id")) {
        Some(read) if !read.is_empty() => READ.get_or_init(|| read).clone(),
        // Do not cache the failure: a process may have no descriptor left for the moment.
        _ => unknown(),
    }
}

/// Identifies the network namespace: abstract sockets, which hand over shared memory, do not cross
/// it. If it cannot be read, this process gets an id that no other has.
pub fn network() -> String {
    namespace("net")
}

/// The network namespace of this thread, in which its sockets are.
pub(super) fn network_of_thread() -> String {
    namespace_at("/proc/thread-self/ns", "net")
}

/// Identifies a namespace of this process by its kind, as `/proc/self/ns` names it.
pub(super) fn namespace(kind: &str) -> String {
    namespace_at("/proc/self/ns", kind)
}

fn namespace_at(folder: &str, kind: &str) -> String {
    match std::fs::read_link(Path::new(folder).join(kind)) {
        Ok(link) => link.to_string_lossy().into_owned(),
        Err(_) => unknown(),
    }
}

/// Stands for what cannot be known: equal to itself in this process, and to no other process'
/// value.
fn unknown() -> String {
    static PROCESS: LazyLock<u64> = LazyLock::new(unique);
    format!("unknown:{:016x}", *PROCESS)
}

/// The effective user id of this process.
pub fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    /// A sysfs with one device; `ports` are pairs of state and link layer.
    fn device(root: &Path, name: &str, ports: &[(&str, &str)]) {
        for (number, (state, link_layer)) in (1..).zip(ports) {
            let dir = root.join(format!("{name}/ports/{number}"));
            fs::create_dir_all(&dir).expect("temporary directory");
            fs::write(dir.join("state"), state).expect("temporary directory");
            fs::write(dir.join("link_layer"), link_layer).expect("temporary directory");
        }
    }

    #[test]
    fn the_first_active_port_of_the_first_device_is_usable() {
        let root = tempfile::tempdir().expect("temporary directory");
        device(root.path(), "mlx5_1", &[("4: ACTIVE\n", "InfiniBand\n")]);
        device(
            root.path(),
            "mlx5_0",
            &[("1: DOWN\n", "Ethernet\n"), ("4: ACTIVE\n", "Ethernet\n")],
        );
        let registration = Topology::read(root.path(), None).registration(None, "");
        assert_eq!(registration.device.as_deref(), Some("mlx5_0"));
        assert_eq!(registration.ib_port, Some(2));
        assert_eq!(registration.link_type.as_deref(), Some("RoCE"));

        let hidden = Topology::read(root.path(), Some("mlx5_0:1"));
        assert_eq!(hidden.first_usable(), None, "that port is down");
        let named = registration.device.as_deref();
        for unset in ["", " "] {
            let all = Topology::read(root.path(), Some(unset)).registration(None, "");
            assert_eq!(all.device.as_deref(), named);
        }
        let host = Topology::read(root.path(), None);
        for (name, found) in [("mlx5_1", None), ("MLX5_1", None), (" mlx5_1:1", Some(1))] {
            let (nic, port) = host.named(name).expect(name);
            assert_eq!((&*nic.name, port), ("mlx5_1", found));
            assert_eq!(host.clone().preferring(name).nics[0].name, "mlx5_1");
        }
        assert_eq!(host.named("mlx5"), None);
        let visible = Topology::read(root.path(), Some("mlx5_7, mlx5_1"));
        let (nic, port) = visible.first_usable().expect("mlx5_1 is active");
        assert_eq!(
            (nic.name.as_str(), port.link_type.as_str()),
            ("mlx5_1", "IB")
        );
    }

    #[test]
    fn a_device_is_described_in_dlslimes_schema() {
        let root = tempfile::tempdir().expect("temporary directory");
        let pci = root.path().join("pci/0000:3b:00.0");
        fs::create_dir_all(&pci).expect("temporary directory");
        fs::write(pci.join("numa_node"), "1\n").expect("temporary directory");
        let sysfs = root.path().join("infiniband");
        device(&sysfs, "mlx5_0", &[("4: ACTIVE", "Ethernet")]);
        symlink(&pci, sysfs.join("mlx5_0/device")).expect("temporary directory");

        let json = Topology::read(&sysfs, None).to_json("192.0.2.7");
        assert_eq!(json["host"]["address"], "192.0.2.7");
        assert_eq!(
            json["nics"],
            json!([{
                "name": "mlx5_0", "health": "AVAILABLE", "numa_node": 1, "pci_bus_id": "0000:3b:00.0",
                "ports": [{"port": 1, "state": "ACTIVE", "link_type": "RoCE"}],
            }])
        );
    }

    #[test]
    fn a_host_without_rdma_lists_shared_memory_where_dlslime_does_not_look() {
        let topology = Topology::read(Path::new("/nonexistent"), None);
        assert_eq!(topology.first_usable(), None);
        let json = topology.to_json("");
        assert_eq!(json["nics"], json!([]));
        assert_eq!(json["slime"]["fabrics"], json!(["shm0"]));
        assert_eq!(json["slime"]["pid"], std::process::id());
        assert!(json["host"]["address"].is_string());
    }

    #[test]
    fn input_1_a_device_whose_files_make_no_sense_is_unavailable() {
        let root = tempfile::tempdir().expect("temporary directory");
        device(root.path(), "odd", &[("", "\u{0}")]);
        fs::create_dir_all(root.path().join("odd/ports/x")).expect("temporary directory");
        let topology = Topology::read(root.path(), None);
        assert_eq!(topology.first_usable(), None);
        assert_eq!(topology.to_json("")["nics"][0]["health"], "UNAVAILABLE");
    }

    #[tokio::test]
    async fn towards_this_host_our_address_is_loopback() {
        assert_eq!(
            address_towards("127.0.0.1", 1).await.as_deref(),
            Some("127.0.0.1")
        );
        assert_eq!(address_towards("", 1).await, None);
        let mapped = address_towards("::ffff:127.0.0.1", 1).await;
        assert_eq!(mapped.as_deref(), Some("127.0.0.1"));
    }

    #[tokio::test]
    async fn our_address_is_that_of_the_connection_that_can_be_made() {
        for local in ["127.0.0.1:0", "[::1]:0", "127.0.0.9:0"] {
            let Ok(listener) = tokio::net::TcpListener::bind(local).await else {
                continue; // This host has no IPv6.
            };
            let at = listener.local_addr().expect("it is bound");
            let ip = at.ip().to_string();
            let own = address_towards(&ip, at.port()).await.expect("it listens");
            let own: std::net::IpAddr = own.parse().expect("an address");
            assert!(own.is_loopback() && own.is_ipv4() == at.is_ipv4(), "{own}");
        }
    }
}

//! Checks of RDMA devices, as the kernel describes them.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::{Finding, read};

/// A RoCE packet of 1024 bytes fits this MTU of the network, with its headers.
const GOOD_MTU: u32 = 1500;

/// An RDMA device.
#[derive(Debug)]
pub(super) struct Device {
    name: String,
    folder: PathBuf,
}

/// The devices of the machine, by name.
pub(super) fn devices(root: &Path) -> Vec<Device> {
    let entries = fs::read_dir(root.join("sys/class/infiniband"));
    let mut devices: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| Device {
            name: entry.file_name().to_string_lossy().into_owned(),
            folder: entry.path(),
        })
        .collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    devices
}

/// Examines the devices, and whether this user may use them.
pub(super) fn examine(root: &Path, devices: &[Device]) -> Vec<Finding> {
    if devices.is_empty() {
        return vec![none(root)];
    }
    let mut findings = vec![device_files(root)];
    for device in devices {
        let mut ports = ports(device);
        if ports.is_empty() {
            ports.push(Finding::problem(
                "RDMA port",
                format!("{} has no port", device.name),
                "look at `rdma link`; the driver may not have come up",
            ));
        }
        findings.append(&mut ports);
    }
    findings
}

/// There is no device.
fn none(root: &Path) -> Finding {
    const CHECK: &str = "RDMA devices";
    let found = "none: hosts are connected over TCP";
    if root.join("sys/module/rdma_rxe").exists() || has_soft_roce(root) {
        return Finding::note(
            CHECK,
            found,
            "for soft-RoCE: `modprobe rdma_rxe && rdma link add rxe0 type rxe netdev eth0`, with the name of your network device",
        );
    }
    Finding::ok(
        CHECK,
        format!("{found}; this kernel has no soft-RoCE (rdma_rxe)"),
    )
}

/// Whether the kernel comes with the module for soft-RoCE.
fn has_soft_roce(root: &Path) -> bool {
    let release = read(&root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
    let modules = root.join("lib/modules").join(release.trim());
    ["modules.dep", "modules.builtin"].iter().any(|list| {
        let list = read(&modules.join(list));
        list.is_ok_and(|list| list.contains("/rdma_rxe.ko"))
    })
}

/// Whether this user may open the devices.
fn device_files(root: &Path) -> Finding {
    const CHECK: &str = "RDMA device files";
    let folder = root.join("dev/infiniband");
    let entries = fs::read_dir(&folder);
    let files: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("uverbs"))
        .map(|entry| entry.path())
        .collect();
    let shown = folder.display();
    if files.is_empty() {
        return Finding::problem(
            CHECK,
            format!("the kernel has devices, but {shown} has no uverbs files"),
            "load the module ib_uverbs; in a container, add `--device /dev/infiniband`",
        );
    }
    let is_denied = |file: &&PathBuf| access(*file, Access::READ_OK | Access::WRITE_OK).is_err();
    match files.iter().find(is_denied) {
        Some(file) => Finding::problem(
            CHECK,
            format!("this user may not read and write {}", file.display()),
            "join its group (commonly `rdma`), or change its rights with a udev rule",
        ),
        None => Finding::ok(
            CHECK,
            format!("{} in {shown}, readable and writable", files.len()),
        ),
    }
}

fn ports(device: &Device) -> Vec<Finding> {
    let entries = fs::read_dir(device.folder.join("ports"));
    let mut ports: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    ports.sort();
    ports
        .iter()
        .map(|folder| port(&device.name, folder))
        .collect()
}

fn port(device: &str, folder: &Path) -> Finding {
    const CHECK: &str = "RDMA port";
    let number = folder.file_name().unwrap_or_default().to_string_lossy();
    let at = format!("{device} port {number}");
    let read = |path: &str| super::read(&folder.join(path)).unwrap_or_default();
    let state = read("state");
    if !state.contains("ACTIVE") {
        let state = match state.trim() {
            "" => "of unknown state",
            state => state,
        };
        return Finding::problem(
            CHECK,
            format!("{at} is {state}"),
            "plug in the cable, or bring the network device up: `ip link set DEVICE up`",
        );
    }
    if read("link_layer").trim() != "Ethernet" {
        return Finding::ok(CHECK, format!("{at} is active, InfiniBand"));
    }
    let gids = gids(folder);
    let Some(best) = gids.iter().find(|gid| !gid.is_link_local).or(gids.first()) else {
        return Finding::problem(
            CHECK,
            format!("{at} has no GID of RoCE v2"),
            "give its network device an IP address: `ip addr add ADDRESS/PREFIX dev DEVICE`",
        );
    };
    let found = format!(
        "{at} is active, RoCE v2 by GID {} ({})",
        best.index, best.gid
    );
    if best.is_link_local {
        return Finding::note(
            CHECK,
            found + ", which is link-local: only hosts of the same network can reach it",
            "give its network device an IP address: `ip addr add ADDRESS/PREFIX dev DEVICE`",
        );
    }
    match best.mtu {
        Some(mtu) if mtu < GOOD_MTU => Finding::note(
            CHECK,
            format!(
                "{found}, whose network has an MTU of {mtu}: packets carry less than 1024 bytes"
            ),
            "raise it at both ends and between them: `ip link set DEVICE mtu 1500`, or 4200 and more",
        ),
        _ => Finding::ok(CHECK, found),
    }
}

/// A GID of RoCE v2.
struct RoceGid {
    index: u32,
    gid: String,
    is_link_local: bool,
    /// MTU of its network device, if known.
    mtu: Option<u32>,
}

fn gids(port: &Path) -> Vec<RoceGid> {
    let entries = fs::read_dir(port.join("gid_attrs/types"));
    let mut indices: Vec<u32> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    indices.sort_unstable();
    let read = |path: String| super::read(&port.join(path)).map(|text| text.trim().to_owned());
    let gid = |index: u32| {
        // The kernel refuses to read the type of an unused entry.
        let kind = read(format!("gid_attrs/types/{index}")).ok()?;
        let gid = read(format!("gids/{index}")).ok()?;
        let is_unset = gid.chars().all(|c| matches!(c, '0' | ':'));
        let device = read(format!("gid_attrs/ndevs/{index}")).ok();
        let mtu = device.and_then(|device| {
            // The network devices of the machine, beside its RDMA devices.
            let class = port.ancestors().nth(4)?;
            let mtu = super::read(&class.join("net").join(device).join("mtu"));
            mtu.ok()?.trim().parse().ok()
        });
        (kind == "RoCE v2" && !is_unset).then(|| RoceGid {
            index,
            is_link_local: gid.starts_with("fe80"),
            gid,
            mtu,
        })
    };
    indices.into_iter().filter_map(gid).collect()
}

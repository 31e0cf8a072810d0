//! DLSlime's own SlimeRPC: two Python processes over an RDMA device, raw bytes.

use std::path::Path;

use serde_json::json;
use slimerpc::fabric;

use super::Peer;
use super::python::{self, Script};
use crate::measure::{Job, Missing};
use crate::support::{NanoCtrl, Result};
use crate::table::Report;

pub(super) const PEER: Peer = Peer {
    name: "dlslime",
    bytes: "no codec; copied into registered memory, by the device each way, by the service where its reply is sent from, and out by the caller; Python, both poll",
    serve: None,
    measure,
};

/// Where the kernel lists RDMA devices.
const DEVICES: &str = "/sys/class/infiniband";
/// Of a slot, for its header.
const ROOM: usize = 4096;

fn measure(job: &Job, report: &mut Report) -> Result<()> {
    let device = device(job)?;
    python::check(job, "dlslime")?;
    python::check_memory(job)?;
    let nanoctrl = NanoCtrl::start()
        .map_err(|error| Missing(format!("a NanoCtrl server does not start: {error}")))?;
    let called = call(job, report, &nanoctrl.url, &device);
    nanoctrl.stop();
    called
}

fn device(job: &Job) -> Result<String> {
    if job.device != fabric::SHM {
        return Ok(job.device.clone());
    }
    let mut devices = std::fs::read_dir(DEVICES).into_iter().flatten().flatten();
    let device = devices.next().ok_or_else(|| {
        Missing(format!(
            "no RDMA device: {DEVICES} is empty; --device names one"
        ))
    })?;
    Ok(device.file_name().to_string_lossy().into_owned())
}

fn call(job: &Job, report: &mut Report, url: &str, device: &str) -> Result<()> {
    // All that DLSlime wants of torch is pinned memory.
    let torch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/soft_roce/peers/stand_in");
    let script = |role| Script {
        text: include_str!("dlslime_pair.py"),
        told: json!({
            "role": role,
            "url": url,
            "device": device,
            "slot_size": job.largest() + ROOM,
            "slots": job.inflight.iter().max().unwrap_or(&1),
            "torch": torch,
        }),
        job,
    };
    let _worker = script("worker").start(2 * job.limit())?;
    let mut driver = script("driver").start(2 * job.limit())?;
    python::rows(&mut driver, report)
}

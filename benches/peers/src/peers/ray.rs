//! Ray, an actor of which echoes; its driver, in Python too, measures. Ray starts processes of its
//! own beside the two.

use serde_json::Value;

use super::Peer;
use super::python::{self, Script};
use crate::measure::Job;
use crate::support::Result;
use crate::table::Report;

pub(super) const PEER: Peer = Peer {
    name: "ray",
    bytes: "pickle; small ones in gRPC messages over TCP, large ones through its shared object store; Python, both sleep",
    serve: None,
    measure,
};

fn measure(job: &Job, report: &mut Report) -> Result<()> {
    python::check(job, "ray")?;
    python::check_memory(job)?;
    let script = Script {
        text: include_str!("ray_driver.py"),
        told: Value::Null,
        job,
    };
    // It takes its time to start.
    let mut child = script.start(2 * job.limit())?;
    python::rows(&mut child, report)
}

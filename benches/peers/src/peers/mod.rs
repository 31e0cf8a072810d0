//! Who echoes: a file each.

mod actix;
mod blocking_unix;
mod cache_line;
mod dlslime;
mod kameo;
mod python;
mod ractor;
mod ray;
mod slimerpc;
mod tarpc;
mod tokio_unix;
mod tonic;

use std::sync::OnceLock;

use tokio::runtime::Builder;

use crate::measure::Job;
use crate::support::Result;
use crate::table::Report;

/// Name of the one with which all are compared.
pub(crate) const OURS: &str = "slimerpc-raw";

pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// What is done with the bytes on their way there and back, and who waits how.
    pub(crate) bytes: &'static str,
    /// What the other process of this program does; it is given an address.
    pub(crate) serve: Option<fn(&str) -> Result<()>>,
    pub(crate) measure: fn(&Job, &mut Report) -> Result<()>,
}

/// In the order in which they are measured.
pub(crate) const PEERS: [Peer; 12] = [
    slimerpc::RAW,
    slimerpc::TYPED,
    cache_line::PEER,
    blocking_unix::PEER,
    tokio_unix::PEER,
    actix::PEER,
    tarpc::PEER,
    tonic::PEER,
    kameo::PEER,
    ractor::PEER,
    ray::PEER,
    dlslime::PEER,
];

/// Threads of each runtime.
static THREADS: OnceLock<usize> = OnceLock::new();

/// Before any runtime is made.
pub(crate) fn set_threads(threads: usize) {
    let _ = THREADS.set(threads);
}

pub(crate) fn threads() -> usize {
    THREADS.get().copied().unwrap_or(1)
}

/// What most of them run on, at both ends.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match threads() {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(threads()).enable_all().build()
}

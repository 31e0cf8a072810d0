//! Checks what agents of this machine would stumble over, and says what to do.
//!
//! [`examine`] changes nothing: it reads `/proc`, `/sys` and `/dev`, judges settings, and asks
//! NanoCtrl, Redis and a peer as an agent would. `nanoctrl doctor` prints what it finds.

mod machine;
mod network;
mod rdma;
mod settings;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::control::{ClientTls, Secret};

/// What to examine.
#[derive(Debug, Clone)]
pub struct Patient {
    /// How agents find each other.
    pub control: ControlPlane,
    /// Bearer token for NanoCtrl.
    pub token: Option<Secret>,
    /// Files for a NanoCtrl at `https://`.
    pub tls: ClientTls,
    /// How to log in to Redis; see [`NanoCtrl::redis`](crate::control::NanoCtrl::redis).
    pub redis: Option<Secret>,
    /// `host:port` at which a peer listens over TCP.
    pub peer: Option<String>,
    /// The variables of the environment that agents will have.
    pub environment: Vec<(String, String)>,
    /// How long a server may take to answer.
    pub patience: Duration,
    /// Folder that holds `proc`, `sys`, `dev` and `lib` of the machine: `/`, or elsewhere if the
    /// machine's are mounted there.
    pub root: PathBuf,
}

/// How agents find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlPlane {
    /// Through the NanoCtrl at this URL.
    NanoCtrl(String),
    /// Nobody said. A NanoCtrl at this URL is examined if there is one, and so is this host.
    Unsaid(String),
    /// Through files, on one host.
    Host,
    /// Within a process.
    Local,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check.
    pub check: &'static str,
    /// How grave it is.
    pub severity: Severity,
    /// What is so.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing has to be done.
    Ok,
    /// It works, and may be better.
    Note,
    /// Something will fail.
    Problem,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            severity: Severity::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn note(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            remedy: Some(remedy.into()),
            ..Self::ok(check, found)
        }
    }

    fn problem(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Problem,
            ..Self::note(check, found, remedy)
        }
    }
}

/// Makes all checks. Needs a tokio runtime with I/O and timers.
///
/// ```no_run
/// use std::{path::PathBuf, time::Duration};
/// use slimerpc::control::ClientTls;
/// use slimerpc::nanoctrl::doctor::{ControlPlane, Patient, Severity, examine};
///
/// # async fn example() {
/// let patient = Patient {
///     control: ControlPlane::NanoCtrl("http://127.0.0.1:3000".to_owned()),
///     token: None,
///     tls: ClientTls::default(),
///     redis: None,
///     peer: None,
///     environment: std::env::vars().collect(),
///     patience: Duration::from_secs(3),
///     root: PathBuf::from("/"),
/// };
/// for finding in examine(&patient).await {
///     if finding.severity == Severity::Problem {
///         println!("{}: {}", finding.check, finding.found);
///     }
/// }
/// # }
/// ```
pub async fn examine(patient: &Patient) -> Vec<Finding> {
    let devices = rdma::devices(&patient.root);
    let mut findings = vec![
        machine::cores(),
        machine::open_files(&patient.root),
        machine::locked_memory(&patient.root, !devices.is_empty()),
        machine::shared_memory(),
    ];
    findings.extend(settings::examine(&patient.environment, patient.patience).await);
    findings.extend(rdma::examine(&patient.root, &devices));
    findings.extend(network::control_plane(patient).await);
    if let Some(peer) = &patient.peer {
        findings.push(network::peer(peer, patient.patience).await);
    }
    findings
}

/// Reads a file of the machine, which is a few lines. Anything else in its place is refused, not
/// waited for.
fn read(path: &Path) -> io::Result<String> {
    const LONGEST: u64 = 1 << 20;
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

//! Checks what agents of this machine would stumble over, and says what to do.
//!
//! [`examine`] changes nothing: it reads `/proc`, `/sys` and `/dev`, and asks NanoCtrl, Redis and a
//! peer as an agent would. `nanoctrl doctor` prints what it finds.

mod machine;
mod network;
mod rdma;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::control::Secret;

/// What to examine.
#[derive(Debug, Clone)]
pub struct Patient {
    /// URL of NanoCtrl; `None` if peers are not found through one.
    pub nanoctrl: Option<String>,
    /// Bearer token for NanoCtrl.
    pub token: Option<Secret>,
    /// How to log in to Redis; see [`NanoCtrl::redis`](crate::control::NanoCtrl::redis).
    pub redis: Option<Secret>,
    /// `host:port` at which a peer listens over TCP.
    pub peer: Option<String>,
    /// How long a server may take to answer.
    pub patience: Duration,
    /// Folder that holds `proc`, `sys`, `dev` and `lib` of the machine: `/`, or elsewhere if the
    /// machine's are mounted there.
    pub root: PathBuf,
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
/// use slimerpc::nanoctrl::doctor::{Patient, Severity, examine};
///
/// # async fn example() {
/// let patient = Patient {
///     nanoctrl: Some("http://127.0.0.1:3000".to_owned()),
///     token: None,
///     redis: None,
///     peer: None,
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
    findings.extend(rdma::examine(&patient.root, &devices));
    findings.extend(network::control_plane(patient).await);
    if let Some(peer) = &patient.peer {
        findings.push(network::peer(peer, patient.patience).await);
    }
    findings
}

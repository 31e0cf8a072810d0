//! Checks of NanoCtrl, Redis, and a peer.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ControlPlane, Finding, Patient};
use crate::control::{ControlError, Host, NanoCtrl, RedisDiagnosis};
use crate::unique::unique;

const NANOCTRL: &str = "NanoCtrl";

/// Clocks that differ by more make logs of two hosts hard to compare.
const MUCH_SKEW: Duration = Duration::from_secs(5);

/// Examines how agents find each other.
pub(super) async fn control_plane(patient: &Patient) -> Vec<Finding> {
    match &patient.control {
        ControlPlane::Local => Vec::new(),
        ControlPlane::Host => vec![host().await],
        ControlPlane::NanoCtrl(url) => nanoctrl(url, patient, of_nanoctrl).await,
        ControlPlane::Unsaid(url) => {
            let absent = |error: &_| match error {
                ControlError::NanoCtrlUnreachable { .. } => Finding::note(
                    NANOCTRL,
                    format!("none answers at {url}; processes of this host do without"),
                    "to find agents of other hosts, start one with `nanoctrl start`, or name it with --address",
                ),
                error => of_nanoctrl(error),
            };
            let mut findings = vec![host().await];
            findings.extend(nanoctrl(url, patient, absent).await);
            findings
        }
    }
}

/// Examines the directory in which agents of this host meet.
async fn host() -> Finding {
    const CHECK: &str = "host";
    match Host::new(own_scope()).list_agents().await {
        Ok(_) => Finding::ok(
            CHECK,
            "agents of this host can meet without a server (`.host()`)",
        ),
        Err(error) => Finding::problem(
            CHECK,
            error.to_string(),
            "set XDG_RUNTIME_DIR to a directory of this user alone, or unset it",
        ),
    }
}

/// A scope that no agent uses, so that none takes notice.
fn own_scope() -> String {
    format!("nanoctrl-doctor-{:016x}", unique())
}

/// Examines NanoCtrl, and the Redis that it names. `unusable` says what to do if it cannot be used.
async fn nanoctrl(
    url: &str,
    patient: &Patient,
    unusable: impl Fn(&ControlError) -> Finding,
) -> Vec<Finding> {
    let control = || {
        let mut control = NanoCtrl::new(url, own_scope())?
            .tls(&patient.tls)?
            .request_timeout(patient.patience)
            .register_timeout(patient.patience);
        if let Some(token) = &patient.token {
            control = control.token(token.clone())?;
        }
        if let Some(redis) = &patient.redis {
            control = control.redis(redis.clone())?;
        }
        Ok(control)
    };
    let control = match control() {
        Ok(control) => control,
        Err(error) => return vec![unusable(&error)],
    };
    match control.list_scopes().await {
        // DLSlime's server lists none.
        Ok(_) | Err(ControlError::Refused { status: 404, .. }) => {}
        Err(error) => return vec![unusable(&error)],
    }
    let mut findings = vec![Finding::ok(NANOCTRL, format!("answers at {url}"))];
    match control.diagnose().await {
        Ok(found) => findings.extend(redis(&found)),
        Err(error) => findings.push(of_redis(&error)),
    }
    findings
}

/// Says what to do about a NanoCtrl that cannot be used.
fn of_nanoctrl(error: &ControlError) -> Finding {
    if let Some(finding) = of_answer(error) {
        return finding;
    }
    let remedy = match error {
        ControlError::NanoCtrlUnreachable { .. } => {
            "start one with `nanoctrl start`, or say where it is with --address"
        }
        ControlError::Unauthorized { .. } => "set NANOCTRL_TOKEN to the server's token",
        ControlError::Tls { .. } | ControlError::NotHttp { .. } | ControlError::TlsFile(_) => {
            "correct the URL (--address, SLIME_RPC_CONTROL), NANOCTRL_CA, NANOCTRL_CERT or NANOCTRL_KEY, or renew the \
             certificate that the error names"
        }
        ControlError::Malformed { .. } | ControlError::BadSetting { .. } => {
            "correct the URL (--address, SLIME_RPC_CONTROL), NANOCTRL_TOKEN or SLIME_RPC_REDIS_URL; if they are right, it is \
             another server that answers there"
        }
        _ => "look at its log, and whether it is a NanoCtrl that answers there",
    };
    Finding::problem(NANOCTRL, error.to_string(), remedy)
}

/// What NanoCtrl itself says of why it did not do as it was asked: its answers are JSON with a
/// `message`.
fn of_answer(error: &ControlError) -> Option<Finding> {
    let ControlError::Refused {
        url,
        path,
        status,
        body,
    } = error
    else {
        return None;
    };
    let answer: serde_json::Value = serde_json::from_str(body).ok()?;
    let message = answer.get("message")?.as_str()?;
    let remedy = match status {
        500.. => "it answers, so mend what it says, which mostly is its Redis; its log has more",
        _ => "look whether server and agents are of versions that fit",
    };
    Some(Finding::problem(
        NANOCTRL,
        format!("the one at {url} answers {path} with {status}: {message}"),
        remedy,
    ))
}

/// Says what to do about a Redis that cannot be used. NanoCtrl has answered before.
fn of_redis(error: &ControlError) -> Finding {
    if let Some(finding) = of_answer(error) {
        return finding;
    }
    let remedy = match error {
        ControlError::RedisUnreachable { .. } => {
            "have the server name an address that is reached from here: start it with NANOCTRL_REDIS_ADVERTISE=HOST:PORT; or \
             give agents SLIME_RPC_REDIS_URL"
        }
        ControlError::RedisLogin { .. } => {
            "give agents the login: SLIME_RPC_REDIS_URL=redis://USER:PASSWORD@"
        }
        ControlError::RedisUnfit { .. } | ControlError::RedisRefused { .. } => {
            "name one Redis that is the master and no part of a cluster, and a user with the rights that \"Redis\" in \
             docs/operations.md lists"
        }
        _ => {
            "look whether the Redis that the server names (its log says which, NANOCTRL_REDIS_ADVERTISE sets it) is one, and \
             answers from here"
        }
    };
    Finding::problem("Redis", error.to_string(), remedy)
}

fn redis(found: &RedisDiagnosis) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(
        "Redis",
        format!("answers at {}", found.address),
    )];
    if let Some(policy) = &found.eviction {
        findings.push(Finding::problem(
            "Redis eviction",
            format!("{policy}: when its memory is full, agents and services vanish until their next heartbeat"),
            "set its maxmemory-policy to noeviction",
        ));
    }
    findings.extend(found.clock_skew.map(clock));
    findings
}

fn clock(skew: Duration) -> Finding {
    const CHECK: &str = "clock";
    if skew <= MUCH_SKEW {
        return Finding::ok(CHECK, "that of Redis, give or take 5 s");
    }
    Finding::note(
        CHECK,
        format!(
            "{} s from that of Redis; calls and leases work, but logs are hard to compare, and certificates may seem expired",
            skew.as_secs()
        ),
        "run an NTP client on both hosts",
    )
}

/// Tries to connect to a peer over TCP.
pub(super) async fn peer(peer: &str, patience: Duration) -> Finding {
    const CHECK: &str = "peer";
    const REMEDY: &str = "look at the peer's `.tcp_bind(..)` (SLIME_RPC_TCP_BIND), at the address that it advertises \
                          (SLIME_RPC_TCP_ADVERTISE), and at firewalls between the hosts; it listens once somebody wants to \
                          connect over TCP, or from the start if it was given an address";
    match timeout(patience, TcpStream::connect(peer)).await {
        Ok(Ok(connected)) => {
            let from = connected.local_addr().map(|it| it.ip().to_string());
            let from = from.unwrap_or_else(|_| "?".to_owned());
            Finding::ok(
                CHECK,
                format!("something listens at {peer}; it is reached from {from}"),
            )
        }
        Ok(Err(error)) => {
            Finding::problem(CHECK, format!("cannot connect to {peer}: {error}"), REMEDY)
        }
        Err(_) => Finding::problem(
            CHECK,
            format!("no answer from {peer} within {patience:?}; packets seem to be dropped"),
            REMEDY,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nanoctrl::doctor::Severity;

    #[test]
    fn clocks_that_are_hours_apart_are_told() {
        assert_eq!(clock(Duration::from_secs(1)).severity, Severity::Ok);
        let apart = clock(Duration::from_secs(7200));
        assert_eq!(apart.severity, Severity::Note);
        assert!(apart.found.starts_with("7200 s"), "{}", apart.found);
    }
}

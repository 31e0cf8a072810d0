//! Checks of NanoCtrl, Redis, and a peer.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Finding, Patient};
use crate::control::{ControlError, NanoCtrl, RedisDiagnosis};
use crate::unique::unique;

/// Clocks that differ by more make logs of two hosts hard to compare.
const MUCH_SKEW: Duration = Duration::from_secs(5);

/// Examines NanoCtrl, and the Redis that it names.
pub(super) async fn control_plane(patient: &Patient) -> Vec<Finding> {
    let Some(url) = &patient.nanoctrl else {
        return Vec::new();
    };
    let diagnosed = async {
        // Of its own, so that no agent takes notice.
        let scope = format!("nanoctrl-doctor-{:016x}", unique());
        let control = NanoCtrl::new(url, scope)?;
        let mut control = control
            .request_timeout(patient.patience)
            .register_timeout(patient.patience);
        if let Some(token) = &patient.token {
            control = control.token(token.clone())?;
        }
        if let Some(redis) = &patient.redis {
            control = control.redis(redis.clone())?;
        }
        control.diagnose().await
    };
    match diagnosed.await {
        Ok(found) => {
            let mut findings = vec![Finding::ok("NanoCtrl", format!("answers at {url}"))];
            findings.extend(redis(&found));
            findings
        }
        Err(error) => vec![unreachable(url, &error)],
    }
}

fn unreachable(url: &str, error: &ControlError) -> Finding {
    let found = error.to_string();
    match error {
        ControlError::RedisUnreachable { .. } => Finding::problem(
            "Redis",
            found,
            "have the server name an address that is reached from here: start it with NANOCTRL_REDIS_ADVERTISE=HOST:PORT; or \
             give agents SLIME_RPC_REDIS_URL",
        ),
        ControlError::RedisLogin { .. } => Finding::problem(
            "Redis",
            found,
            "give agents the login: SLIME_RPC_REDIS_URL=redis://USER:PASSWORD@",
        ),
        ControlError::RedisUnfit { .. } | ControlError::RedisRefused { .. } => Finding::problem(
            "Redis",
            found,
            "name one Redis that is the master and no part of a cluster, and a user with the rights that \"Redis\" in \
             docs/operations.md lists",
        ),
        ControlError::Unauthorized { .. } => Finding::problem(
            "NanoCtrl",
            found,
            "set NANOCTRL_TOKEN to the server's token",
        ),
        _ => Finding::problem(
            "NanoCtrl",
            found,
            format!(
                "start one with `nanoctrl start`, or say where it is with --address (asked: {url})"
            ),
        ),
    }
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

//! Checks of the variables of the environment that agents and servers take settings from.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use redis::Client;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing_subscriber::EnvFilter;

use super::Finding;
use crate::control::Secret;
use crate::nanoctrl::address::check_advertised;
use crate::nanoctrl::environment;
use crate::settings::{PREFIX, VARIABLES, contradictions, nearest};

const CHECK: &str = "settings";

/// What the names of further variables begin with: for servers and commands, and DLSlime's.
const PREFIXES: [&str; 3] = [PREFIX, "NANOCTRL_", DLSLIME];
const DLSLIME: &str = "DLSLIME_";

/// Most letters in which a slip of the pen differs from what was meant: at most every third one.
const SLIP: usize = 3;

/// How names end that Kubernetes and Docker make of services, whatever those are called.
const FOREIGN: [&str; 4] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_TCP"];

/// Examines the variables that are set. Values of those that are secret are not repeated. A name
/// among them may take so long to resolve.
pub(super) async fn examine(set: &[(String, String)], patience: Duration) -> Vec<Finding> {
    let ours = |(name, value): &&(String, String)| {
        PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !value.trim().is_empty()
    };
    let set: BTreeMap<&str, &str> = set
        .iter()
        .filter(ours)
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let (mut findings, mut fine) = (Vec::new(), BTreeMap::new());
    for (&name, &value) in &set {
        let checked = match VARIABLES.iter().find(|known| known.name == name) {
            Some(variable) => {
                let text = value.to_owned();
                let checked = within(patience, move || variable.check(&text)).await;
                checked.unwrap_or_else(|| Err(unresolved(patience)))
            }
            None => match environment::meaning(name) {
                Some("RUST_LOG") => {
                    fine.insert(name, value);
                    findings.extend(no_filter(name, value));
                    continue;
                }
                Some(meaning) => check_for_server(meaning, value),
                None => {
                    findings.extend(unknown(name));
                    continue;
                }
            },
        };
        match checked {
            Ok(()) => _ = fine.insert(name, value),
            Err(allowed) => findings.push(refused(name, value, &allowed)),
        }
    }
    for refused in contradictions(|name| fine.get(name).map(|&value| value.to_owned())) {
        findings.push(Finding::problem(
            CHECK,
            format!("{refused} (together with the other variables and defaults)"),
            "agents refuse to start with these variables: correct or unset one of them",
        ));
    }
    if findings.is_empty() {
        let found = match fine.len() {
            0 => "no variable is set".to_owned(),
            1 => "1 variable is set, to what agents and servers accept".to_owned(),
            count => format!("{count} variables are set, to what agents and servers accept"),
        };
        findings.push(Finding::ok(CHECK, found));
    }
    findings
}

/// Does `work` on a thread of its own. Returns `None` if that takes longer: a resolver cannot be
/// interrupted, so it is left behind.
async fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = oneshot::channel();
    let begun = thread::Builder::new().spawn(move || tell.send(work()));
    begun.ok()?;
    timeout(patience, told).await.ok()?.ok()
}

fn unresolved(patience: Duration) -> String {
    format!("it does not resolve within {patience:?}; give an address, or mend the resolver")
}

/// Refuses what a server would refuse, or make another value of.
fn check_for_server(meaning: &str, value: &str) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    match meaning {
        "REDIS_URL" => Client::open(value).map(drop).map_err(|it| told(&it)),
        "REDIS_ADVERTISE" => check_advertised(value).map_err(|it| told(&it)),
        "TOKEN" => Secret::from(value).check_token().map_err(str::to_owned),
        _ => Ok(()),
    }
}

/// What to say of a log filter that servers do not understand: they begin nevertheless.
fn no_filter(name: &str, value: &str) -> Option<Finding> {
    let error = EnvFilter::try_new(value).err()?;
    Some(Finding::note(
        CHECK,
        format!("{name} is {value}, which is no log filter, so servers take `info`: {error}"),
        "correct it, or unset it",
    ))
}

fn refused(name: &str, value: &str, allowed: &str) -> Finding {
    // Passwords may be in them.
    let is_secret = ["_URL", "_TOKEN", "_CONTROL", "_ADVERTISE"]
        .iter()
        .any(|end| name.ends_with(end));
    let value = match is_secret {
        true => "not usable",
        false => value,
    };
    Finding::problem(
        CHECK,
        format!("{name} is {value}; {allowed}"),
        "whoever reads it does not start with it: correct or unset it",
    )
}

/// What to say of a variable that supplies no setting of an agent. DLSlime has others of its own.
fn unknown(name: &str) -> Option<Finding> {
    let is_foreign = |end: &&str| name.ends_with(*end) || name.contains(&format!("{end}_"));
    if FOREIGN.iter().any(is_foreign) {
        return None;
    }
    let bare = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
    let slip = SLIP.min(bare.unwrap_or(name).len() / 3);
    let others = environment::names();
    let known = VARIABLES.iter().map(|it| it.name);
    let known = known.chain(others.iter().map(String::as_str));
    let found = format!("{name} is no setting of agents or servers, so it has no effect");
    match nearest(name, known) {
        Some((nearest, letters)) if letters <= slip => Some(Finding::problem(
            CHECK,
            found,
            format!("{nearest} may be meant: correct the name, or unset it"),
        )),
        _ if name.starts_with(DLSLIME) => None,
        _ => Some(Finding::note(
            CHECK,
            found,
            "look for the name in the tables of the book, or unset it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_resolver_that_does_not_answer_is_not_waited_for() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let resolve = move || ended.recv();
        assert_eq!(within(Duration::from_millis(10), resolve).await, None);
        drop(end);
        assert_eq!(within(Duration::from_secs(60), || 7).await, Some(7));
    }
}

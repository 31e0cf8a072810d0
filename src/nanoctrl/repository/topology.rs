//! Topology specs, and the messages to agents that follow from them.

use std::collections::BTreeMap;

use redis::AsyncCommands;
use serde::{Deserialize, Serialize};

use super::{CHUNK, Repository, RepositoryError, now, script};
use crate::control::keys::Keys;

/// Attempts to change specs that others change at the same time.
const ATTEMPTS: usize = 16;

/// The peers that an agent wants to be connected with, as stored.
#[derive(Debug, Clone, Serialize)]
pub(in crate::nanoctrl) struct Spec {
    pub(in crate::nanoctrl) target_peers: Vec<String>,
    pub(in crate::nanoctrl) min_bw: Option<String>,
    pub(in crate::nanoctrl) symmetric: bool,
    pub(in crate::nanoctrl) scope: Option<String>,
}

/// The target peers of a stored spec; none if it is malformed.
pub(super) fn target_peers(stored: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Stored {
        target_peers: Vec<String>,
    }
    serde_json::from_slice(stored)
        .map(|stored: Stored| stored.target_peers)
        .unwrap_or_default()
}

/// The effect of a declaration: the specs to write and the messages to send.
struct Change {
    specs: BTreeMap<String, Spec>,
    /// Pairs of the stream and the peer to connect to.
    messages: Vec<(String, String)>,
}

impl Change {
    /// `stored` are the present specs of the targets, needed if `spec` is symmetric.
    fn new(alias: &str, spec: &Spec, stored: &BTreeMap<String, Option<Vec<u8>>>) -> Self {
        let mut change = Self {
            specs: BTreeMap::from([(alias.to_owned(), spec.clone())]),
            messages: Vec::new(),
        };
        for target in &spec.target_peers {
            change.messages.push((alias.to_owned(), target.clone()));
        }
        if spec.symmetric {
            for target in &spec.target_peers {
                change.add_reverse(target, alias, spec, stored);
            }
        }
        change
    }

    /// Adds `alias` to the targets of `target`.
    fn add_reverse(
        &mut self,
        target: &str,
        alias: &str,
        spec: &Spec,
        stored: &BTreeMap<String, Option<Vec<u8>>>,
    ) {
        let mut targets = match self.specs.get(target) {
            Some(spec) => spec.target_peers.clone(),
            None => match stored.get(target) {
                Some(Some(stored)) => target_peers(stored),
                _ => Vec::new(),
            },
        };
        if !targets.iter().any(|known| known == alias) {
            targets.push(alias.to_owned());
        }
        let reverse = Spec {
            target_peers: targets,
            min_bw: None,
            symmetric: false,
            scope: spec.scope.clone(),
        };
        self.specs.insert(target.to_owned(), reverse);
        self.messages.push((target.to_owned(), alias.to_owned()));
    }
}

impl Repository {
    /// Stores the spec of `alias` and asks it to connect to each target; if symmetric, also the
    /// targets to it.
    pub(in crate::nanoctrl) async fn declare_topology(
        &self,
        keys: &Keys,
        alias: &str,
        spec: &Spec,
    ) -> Result<(), RepositoryError> {
        for _ in 0..ATTEMPTS {
            if self.try_declare(keys, alias, spec).await? {
                return Ok(());
            }
        }
        Err(RepositoryError::Contention)
    }

    /// Reads, computes, and writes if what was read is unchanged; returns whether it was.
    async fn try_declare(
        &self,
        keys: &Keys,
        alias: &str,
        spec: &Spec,
    ) -> Result<bool, RepositoryError> {
        self.run(async |mut redis| {
            let mut stored = BTreeMap::new();
            if spec.symmetric {
                for chunk in spec.target_peers.chunks(CHUNK) {
                    let wanted: Vec<String> = chunk.iter().map(|t| keys.topology(t)).collect();
                    let values: Vec<Option<Vec<u8>>> = redis.mget(wanted).await?;
                    stored.extend(chunk.iter().cloned().zip(values));
                }
            }
            let change = Change::new(alias, spec, &stored);
            let script = script(include_str!("declare_topology.lua"));
            let mut call = script.prepare_invoke();
            call.key(keys.topologies());
            call.arg(change.specs.len()).arg(now().as_secs_f64());
            call.arg(keys.index_name()).arg(keys.agent(""));
            for (name, spec) in &change.specs {
                let text = serde_json::to_string(spec).expect("a spec is JSON");
                call.key(keys.topology(name)).arg(name).arg(text);
                match stored.get(name) {
                    Some(Some(seen)) => call.arg("seen").arg(seen),
                    Some(None) => call.arg("none").arg(""),
                    None => call.arg("any").arg(""),
                };
            }
            for (owner, peer) in &change.messages {
                call.key(keys.stream(owner)).arg(owner).arg(peer);
            }
            Ok(call.invoke_async(&mut redis).await?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(targets: &[&str], symmetric: bool) -> Spec {
        Spec {
            target_peers: targets.iter().map(|t| t.to_string()).collect(),
            min_bw: None,
            symmetric,
            scope: None,
        }
    }

    #[test]
    fn an_asymmetric_declaration_touches_only_its_owner() {
        let change = Change::new("a", &spec(&["b", "c"], false), &BTreeMap::new());
        assert_eq!(change.specs.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(
            change.messages,
            [("a".into(), "b".into()), ("a".into(), "c".into())]
        );
    }

    #[test]
    fn a_symmetric_declaration_keeps_the_other_targets_of_a_target() {
        let stored = BTreeMap::from([(
            "b".to_owned(),
            Some(br#"{"target_peers":["x"],"min_bw":"1"}"#.to_vec()),
        )]);
        let change = Change::new("a", &spec(&["b"], true), &stored);
        assert_eq!(change.specs["b"].target_peers, ["x", "a"]);
    }

    #[test]
    fn a_garbled_spec_counts_as_empty() {
        let stored = BTreeMap::from([("b".to_owned(), Some(b"\xff{".to_vec()))]);
        let change = Change::new("a", &spec(&["b"], true), &stored);
        assert_eq!(change.specs["b"].target_peers, ["a"]);
    }

    #[test]
    fn an_agent_may_name_itself() {
        let change = Change::new("a", &spec(&["a"], true), &BTreeMap::new());
        assert_eq!(change.specs["a"].target_peers, ["a"]);
        assert_eq!(change.messages.len(), 2);
    }
}

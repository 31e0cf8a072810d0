//! The agents of one scope and what they know of each other.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use super::service_directory::ServiceDirectory;
use crate::control::{Mail, MailEvent, PeerRecord, Registration, mail_log::MailLog};

/// Agents, their mail (also of peers that are not up yet), and the entities that agents have
/// advertised.
#[derive(Debug, Default)]
pub(super) struct Registry {
    inner: Mutex<RegistryState>,
    pub(super) services: ServiceDirectory,
}

#[derive(Debug, Default)]
struct RegistryState {
    names_given: u64,
    agents: HashMap<String, RegisteredAgent>,
    mail: HashMap<String, Arc<MailLog>>,
}

/// A registered agent.
#[derive(Debug, Default)]
pub(super) struct RegisteredAgent {
    record: PeerRecord,
    topology: Vec<String>,
    records: BTreeMap<String, Value>,
}

impl RegisteredAgent {
    pub(super) fn new(registration: Registration) -> Self {
        Self {
            record: registration.into(),
            ..Self::default()
        }
    }
}

impl Registry {
    /// Registers an agent under the requested or a generated name; if the name is taken, it is the
    /// error.
    pub(super) fn register(
        &self,
        wanted: Option<String>,
        mut agent: RegisteredAgent,
    ) -> Result<(String, Arc<MailLog>), String> {
        let mut inner = self.lock();
        let alias = wanted.unwrap_or_else(|| inner.generate_name());
        if inner.agents.contains_key(&alias) {
            return Err(alias);
        }
        agent.record.alias.clone_from(&alias);
        inner.agents.insert(alias.clone(), agent);
        let mail = inner.mail(&alias);
        Ok((alias, mail))
    }

    /// Removes an agent and its entries, tells its peers, and returns their names.
    pub(super) fn unregister(&self, alias: &str) -> Vec<String> {
        self.services.take_down_all(alias);
        let mut inner = self.lock();
        let Some(gone) = inner.remove(alias) else {
            return Vec::new();
        };
        let peers: Vec<String> = inner
            .agents
            .iter()
            .filter(|(peer, it)| {
                gone.topology.contains(peer) || it.topology.iter().any(|name| name == alias)
            })
            .map(|(peer, _)| peer.clone())
            .collect();
        for peer in &peers {
            let peer_left = MailEvent::Left {
                peer: alias.to_owned(),
            };
            inner.mail(peer).push(peer_left);
        }
        peers
    }

    /// Removes an agent and its entries without telling its peers.
    pub(super) fn unregister_silently(&self, alias: &str) {
        self.services.take_down_all(alias);
        self.lock().remove(alias);
    }

    /// Declares the peers that `alias` wants, and sends it `connect_peer` mail for each, as the
    /// server does.
    pub(super) fn declare(&self, alias: &str, peers: &[String]) {
        let mut inner = self.lock();
        if let Some(agent) = inner.agents.get_mut(alias) {
            agent.topology = peers.to_vec();
            let mail = inner.mail(alias);
            for peer in peers {
                mail.push(MailEvent::Mail(Mail::connect_peer(peer)));
            }
        }
    }

    /// Looks up an agent.
    pub(super) fn agent(&self, alias: &str) -> Option<PeerRecord> {
        self.lock().agents.get(alias).map(|it| it.record.clone())
    }

    /// Adds an event to the mail of an agent or of a peer that is not up yet.
    pub(super) fn post(&self, alias: &str, event: MailEvent) {
        self.lock().mail(alias).push(event);
    }

    /// Publishes a record of an agent.
    pub(super) fn publish(&self, alias: &str, name: &str, record: Value) {
        if let Some(agent) = self.lock().agents.get_mut(alias) {
            agent.records.insert(name.to_owned(), record);
        }
    }

    /// Withdraws a record of an agent.
    pub(super) fn withdraw(&self, alias: &str, name: &str) {
        if let Some(agent) = self.lock().agents.get_mut(alias) {
            agent.records.remove(name);
        }
    }

    /// Looks up a record of an agent.
    pub(super) fn lookup(&self, alias: &str, name: &str) -> Option<Value> {
        self.lock().agents.get(alias)?.records.get(name).cloned()
    }

    /// Every change below is complete before anything can panic, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, RegistryState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RegistryState {
    /// Generates `agent-<n>` with a hexadecimal number, as the server does, and skips names in use.
    fn generate_name(&mut self) -> String {
        loop {
            self.names_given += 1;
            let name = format!("agent-{:x}", self.names_given);
            if !self.agents.contains_key(&name) {
                return name;
            }
        }
    }

    fn remove(&mut self, alias: &str) -> Option<RegisteredAgent> {
        self.mail.remove(alias);
        self.agents.remove(alias)
    }

    fn mail(&mut self, alias: &str) -> Arc<MailLog> {
        Arc::clone(self.mail.entry(alias.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_count_in_hexadecimal_and_pass_over_names_in_use() {
        let registry = Registry::default();
        let join = |wanted: Option<&str>| {
            registry
                .register(wanted.map(str::to_owned), RegisteredAgent::default())
                .map(|(alias, _)| alias)
        };
        assert_eq!(join(Some("agent-2")), Ok("agent-2".to_owned()));
        assert_eq!(join(None), Ok("agent-1".to_owned()));
        assert_eq!(join(None), Ok("agent-3".to_owned()));
        for _ in 4..=9 {
            join(None).expect("generated names are free");
        }
        assert_eq!(join(None), Ok("agent-a".to_owned()));
        assert_eq!(join(Some("agent-a")), Err("agent-a".to_owned()));
    }
}

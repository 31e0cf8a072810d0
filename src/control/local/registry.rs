//! What the agents of one scope know of each other.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::stream::{self, Stream};
use serde_json::Value;
use tokio::sync::watch;

use super::service_directory::ServiceDirectory;
use crate::control::{Mail, MailEvent, PeerRecord, Registration};

/// Most events kept in a mailbox; like the server's streams, older ones are dropped.
const MAILBOX_CAPACITY: usize = 1000;

/// Agents, mailboxes of agents and of peers not up yet, and what agents have advertised.
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
        let record = PeerRecord {
            alias: String::new(),
            address: registration.address,
            device: registration.device,
            ib_port: registration.ib_port,
            link_type: registration.link_type,
            resource: registration.resource,
        };
        Self {
            record,
            ..Self::default()
        }
    }
}

impl Registry {
    /// Takes in an agent under the wanted or a generated name; the name taken is the error.
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

    /// Removes an agent and what is theirs, and tells the peers, whose names are given back.
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

    /// Removes an agent and what is theirs, telling nobody.
    pub(super) fn unregister_silently(&self, alias: &str) {
        self.services.take_down_all(alias);
        self.lock().remove(alias);
    }

    /// Declares the peers that `alias` wants, and asks it by mail to connect to each, as the server does.
    pub(super) fn declare(&self, alias: &str, peers: &[String]) {
        let mut inner = self.lock();
        if let Some(agent) = inner.agents.get_mut(alias) {
            agent.topology = peers.to_vec();
            let mail = inner.mail(alias);
            for peer in peers {
                mail.push(MailEvent::Mail(connect_peer(peer)));
            }
        }
    }

    /// What is known of an agent.
    pub(super) fn agent(&self, alias: &str) -> Option<PeerRecord> {
        self.lock().agents.get(alias).map(|it| it.record.clone())
    }

    /// Puts an event into a mailbox, of an agent or of a peer not up yet.
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

    /// A record of an agent.
    pub(super) fn lookup(&self, alias: &str, name: &str) -> Option<Value> {
        self.lock().agents.get(alias)?.records.get(name).cloned()
    }

    /// Every change below is complete before anything can panic, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, RegistryState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RegistryState {
    /// `agent-<n>` in hexadecimal, as the server counts; names already in use are passed over.
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

fn connect_peer(peer: &str) -> Mail {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Mail::new("connect_peer")
        .with("peer", peer)
        .with("timestamp", now.as_secs_f64().to_string())
}

/// A mailbox: a log that every reader reads from its beginning.
#[derive(Debug)]
pub(super) struct MailLog {
    log: Mutex<Log>,
    /// Events ever pushed.
    pushed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    /// Number of the first event kept.
    first: u64,
    events: VecDeque<MailEvent>,
}

impl Default for MailLog {
    fn default() -> Self {
        Self {
            log: Mutex::default(),
            pushed: watch::Sender::new(0),
        }
    }
}

impl MailLog {
    fn push(&self, event: MailEvent) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.events.len() == MAILBOX_CAPACITY {
            log.events.pop_front();
            log.first += 1;
        }
        log.events.push_back(event);
        drop(log);
        self.pushed.send_modify(|count| *count += 1);
    }

    /// The event numbered `at`, or the first kept after it, with its number.
    fn get(&self, at: u64) -> Option<(u64, MailEvent)> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let at = at.max(log.first);
        let index = usize::try_from(at - log.first).ok()?;
        Some((at, log.events.get(index)?.clone()))
    }

    /// All events, kept and to come.
    pub(super) fn read(self: Arc<Self>) -> impl Stream<Item = MailEvent> + Send {
        let pushed = self.pushed.subscribe();
        stream::unfold((self, pushed, 0), |(log, mut pushed, at)| async move {
            loop {
                pushed.mark_unchanged();
                if let Some((at, event)) = log.get(at) {
                    return Some((event, (log, pushed, at + 1)));
                }
                pushed.changed().await.ok()?;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    #[tokio::test]
    async fn input_1_a_mailbox_nobody_reads_keeps_only_the_newest_events() {
        let log = Arc::new(MailLog::default());
        for number in 0..MAILBOX_CAPACITY + 5 {
            log.push(MailEvent::Left {
                peer: number.to_string(),
            });
        }
        let mut events = Box::pin(log.read());
        let oldest = MailEvent::Left {
            peer: "5".to_owned(),
        };
        assert_eq!(events.next().await, Some(oldest));
    }

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

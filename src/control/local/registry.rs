//! The agents of one scope and what they know of each other.

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

/// Most events that are kept for an agent; like the server's streams, it drops older ones.
const MAILBOX_CAPACITY: usize = 1000;

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
                mail.push(MailEvent::Mail(connect_peer(peer)));
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

fn connect_peer(peer: &str) -> Mail {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Mail::new("connect_peer")
        .with("peer", peer)
        .with("timestamp", now.as_secs_f64().to_string())
}

/// Mail: a log that every reader reads from the beginning.
#[derive(Debug)]
pub(super) struct MailLog {
    log: Mutex<Log>,
    /// Number of events ever added.
    pushed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    /// Number of the oldest event that is kept.
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

    /// The event numbered `at`, or the oldest one kept after it, with its number.
    fn get(&self, at: u64) -> Option<(u64, MailEvent)> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let at = at.max(log.first);
        let index = usize::try_from(at - log.first).ok()?;
        Some((at, log.events.get(index)?.clone()))
    }

    /// A stream of all events, those kept and those to come.
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
    async fn input_1_mail_that_nobody_reads_keeps_only_the_newest_events() {
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

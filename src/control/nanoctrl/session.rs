//! A registered agent: its hash in Redis and the records it has published.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{FromRedisValue, ToRedisArgs, pipe};
use serde_json::{Value, json};

use super::store::Store;
use crate::control::keys::Keys;
use crate::control::record::record_owner;
use crate::control::{ControlError, Entity, Registration, lease};
use crate::unique::unique;

/// Writes fields into the hash that the server has made for this agent. Without a hash it writes
/// nothing: the key would have no time to live and seem registered for ever.
const CLAIM: &str = "if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end \
                     redis.call('HSET', KEYS[1], unpack(ARGV, 4)) \
                     enlist(KEYS[2], ARGV[1], ARGV[2], NATIVE) sweep(KEYS[2], ARGV[3]) return 1";

/// Prefix of the scripts that act under this agent's name: finds the owner, as the number of a
/// [`NameOwner`]. The first key is the agent's hash, the first argument this incarnation.
const OWNER: &str = "local it = redis.call('HGET', KEYS[1], 'incarnation') \
                     local owner = it == ARGV[1] and 1 or it and 2 or redis.call('EXISTS', KEYS[1]) == 1 and 3 or 0 ";

/// Renews the hash, if it is this incarnation's.
const KEEP: &str = "if owner == 1 then redis.call('EXPIRE', KEYS[1], NATIVE) end return owner";

/// Writes fields into the hash, if it is this incarnation's.
const UPDATE: &str =
    "if owner == 1 then redis.call('HSET', KEYS[1], unpack(ARGV, 2)) end return owner";

/// Writes a record, if the name is this incarnation's and the key is not the record of another.
const PUBLISH: &str = "if owner == 1 then \
                       for i = 4, #KEYS do \
                       if redis.call('SISMEMBER', KEYS[i], KEYS[2]) + redis.call('EXISTS', KEYS[2]) == 2 then \
                       return 4 end end \
                       redis.call('SET', KEYS[2], ARGV[2], 'EX', NATIVE) \
                       redis.call('SADD', KEYS[3], KEYS[2]) lease(KEYS[3], NATIVE) end return owner";

/// Deletes a record, unless the name is another's.
const WITHDRAW: &str = "if owner ~= 2 then redis.call('DEL', KEYS[2]) redis.call('SREM', KEYS[3], KEYS[2]) end \
                        return owner";

/// Deletes keys, unless the name is another's.
const DELETE: &str =
    "if owner ~= 2 then for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end end return owner";

/// Adds mail to a peer's stream, unless the name is another's.
const SEND: &str = "if owner ~= 2 then \
                    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, 3)) \
                    lease(KEYS[2], lease_of(KEYS[3])) end return owner";

/// Writes what this agent says of itself, if the name is this incarnation's.
const REPORT: &str = "if owner == 1 then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end \
                      return owner";

/// Approximate number of entries that a stream keeps; the server uses the same.
const STREAM_LENGTH: &str = "1000";

/// The owner of the name, as far as Redis knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameOwner {
    /// This incarnation.
    Us,
    /// Another agent, or an earlier incarnation.
    Other,
    /// A registration without incarnation: this agent's, not yet claimed, or a DLSlime agent's.
    Unclaimed,
    /// The name is not registered.
    Nobody,
}

impl NameOwner {
    /// The owner of this number.
    pub(super) fn of(number: u8) -> Self {
        match number {
            1 => Self::Us,
            2 => Self::Other,
            3 => Self::Unclaimed,
            _ => Self::Nobody,
        }
    }
}

/// Answer of [`PUBLISH`] if the key is the record of another.
const TAKEN: u8 = 4;

/// One registered agent.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) alias: String,
    pub(super) keys: Keys,
    pub(super) store: Store,
    /// This incarnation, in the field `incarnation` of the agent's hash, which DLSlime ignores.
    pub(super) incarnation: String,
    registration: Registration,
    published: Mutex<Published>,
}

impl Session {
    pub(super) fn new(
        alias: String,
        incarnation: String,
        registration: Registration,
        keys: Keys,
        store: Store,
    ) -> Self {
        Self {
            alias,
            keys,
            store,
            incarnation,
            registration,
            published: Mutex::default(),
        }
    }

    /// What this agent's entities publish of their owner.
    pub(super) fn mark(&self) -> Value {
        json!({"agent": self.alias, "incarnation": self.incarnation})
    }

    /// The registration to repeat, under the name that this agent has.
    pub(super) fn registration(&self) -> Registration {
        Registration {
            alias: Some(self.alias.clone()),
            ..self.registration.clone()
        }
    }

    /// Claims the hash that the server has just made. Returns whether there was one.
    pub(super) async fn claim(&self) -> Result<bool, ControlError> {
        let keys = &self.keys;
        let mut fields = vec![
            ("addr", self.registration.address.clone()),
            ("incarnation", self.incarnation.clone()),
        ];
        fields.extend(self.described(&self.published().names()));
        let mut commands = pipe();
        let command = commands.cmd("EVAL").arg(lease::script(CLAIM)).arg(2);
        command.arg(keys.agent(&self.alias)).arg(keys.agents());
        command.arg(&self.alias).arg(keys.index_name());
        command.arg(keys.agent("")).arg(fields);
        let (claimed,): (bool,) = self.store.query(&commands).await?;
        Ok(claimed)
    }

    /// Asks Redis who owns the name, and renews the registration if this agent does.
    pub(super) async fn keep(&self) -> Result<NameOwner, ControlError> {
        self.act(KEEP, &[], &[]).await
    }

    /// Adds an entry of fields and values to a peer's stream, unless another agent has this name.
    pub(super) async fn send(&self, peer: &str, entry: &[&str]) -> Result<NameOwner, ControlError> {
        let arguments = [&[STREAM_LENGTH], entry].concat();
        let keys = [self.keys.stream(peer), self.keys.agent(peer)];
        self.act(SEND, &keys, &arguments).await
    }

    /// Writes what this agent says of itself, for `lease`, unless another agent has this name.
    pub(super) async fn report(
        &self,
        record: &str,
        lease: Duration,
    ) -> Result<NameOwner, ControlError> {
        let millis = lease.as_millis().to_string();
        let keys = [self.keys.obs(&self.alias)];
        self.act(REPORT, &keys, &[record, &millis]).await
    }

    /// Runs a script that acts under this agent's name, and returns the owner.
    async fn act(
        &self,
        script: &str,
        keys: &[String],
        arguments: &[&str],
    ) -> Result<NameOwner, ControlError> {
        self.run(script, keys, arguments).await.map(NameOwner::of)
    }

    /// Runs a script that acts under this agent's name, and returns its answer.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &str,
        keys: &[impl ToRedisArgs],
        arguments: &[&str],
    ) -> Result<T, ControlError> {
        let mut commands = pipe();
        let script = lease::script(&format!("{OWNER}{script}"));
        let command = commands.cmd("EVAL").arg(script).arg(1 + keys.len());
        command.arg(self.keys.agent(&self.alias)).arg(keys);
        command.arg(&self.incarnation).arg(arguments);
        let (answer,): (T,) = self.store.query(&commands).await?;
        Ok(answer)
    }

    /// Remembers a record and publishes it, unless the name belongs to another at the moment;
    /// returns the owner.
    pub(super) async fn publish(
        &self,
        name: &str,
        record: Value,
    ) -> Result<NameOwner, ControlError> {
        let text = record.to_string();
        self.published().insert(name, record);
        match self.write(name, &text).await {
            Ok(NameOwner::Us) => self.publish_names().await,
            Err(error @ ControlError::RecordTaken { .. }) => {
                self.published().remove(name);
                Err(error)
            }
            answer => answer,
        }
    }

    /// Writes a record, unless the name belongs to another at the moment; returns the owner.
    pub(super) async fn write(&self, name: &str, text: &str) -> Result<NameOwner, ControlError> {
        let key = self.keys.region(&self.alias, name);
        let mut keys = vec![key, self.keys.records(&self.alias)];
        keys.extend(self.keys.rival_records(&keys[0], &self.alias));
        match self.run(PUBLISH, &keys, &[text]).await? {
            TAKEN => Err(ControlError::RecordTaken {
                key: keys.swap_remove(0),
            }),
            number => Ok(NameOwner::of(number)),
        }
    }

    /// Forgets a record and withdraws it.
    pub(super) async fn withdraw(&self, name: &str) -> Result<(), ControlError> {
        self.published().remove(name);
        let key = self.keys.region(&self.alias, name);
        let keys = [key, self.keys.records(&self.alias)];
        self.act(WITHDRAW, &keys, &[]).await?;
        self.publish_names().await.map(drop)
    }

    /// Publishes all records again, while the name is this agent's; returns the owner.
    pub(super) async fn publish_all(&self) -> Result<NameOwner, ControlError> {
        let (records, version) = {
            let published = self.published();
            (published.records.clone(), published.version)
        };
        let mut taken = Vec::new();
        for (name, record) in &records {
            match self.write(name, &record.to_string()).await {
                Ok(NameOwner::Us) => {}
                Err(error @ ControlError::RecordTaken { .. }) => {
                    tracing::warn!(alias = self.alias, %error, "a record is not published again");
                    // A record of another agent is neither renewed nor removed.
                    self.published().remove(name);
                    taken.push(name);
                }
                answer => return answer,
            }
        }
        // Records that were withdrawn meanwhile have to be deleted again.
        let mut removed = self.published().removed_since(version, &records);
        removed.retain(|name| !taken.contains(&name));
        self.delete(self.record_keys(&removed)).await?;
        self.publish_names().await
    }

    /// Writes the names of the records into the hash. Concurrent calls may overtake each other on
    /// the way to Redis, so each repeats until what it wrote was still true afterwards.
    async fn publish_names(&self) -> Result<NameOwner, ControlError> {
        loop {
            let (names, version) = {
                let published = self.published();
                (published.names(), published.version)
            };
            let fields = self.described(&names);
            let fields = fields.iter().flat_map(|(name, value)| [*name, value]);
            let owner = self.act(UPDATE, &[], &fields.collect::<Vec<_>>()).await?;
            if owner != NameOwner::Us {
                tracing::debug!(alias = self.alias, "not registered at the moment");
            }
            if self.published().version == version {
                return Ok(owner);
            }
        }
    }

    pub(super) fn record_keys(&self, names: &[String]) -> Vec<String> {
        let key = |name: &String| self.keys.region(&self.alias, name);
        names.iter().map(key).collect()
    }

    /// Deletes this agent's mail, which was for an earlier owner. (`/cleanup` of NanoCtrl keeps it,
    /// that of `dlslime-ctrl` does not.)
    pub(super) async fn delete_mail(&self) -> Result<(), ControlError> {
        self.delete(vec![self.keys.stream(&self.alias)]).await
    }

    /// Deletes keys, unless the name is another's (FENCE-1).
    pub(super) async fn delete(&self, keys: Vec<impl ToRedisArgs>) -> Result<(), ControlError> {
        if keys.is_empty() {
            return Ok(());
        }
        self.run::<u8>(DELETE, &keys, &[]).await.map(drop)
    }

    /// The peers that were declared last.
    pub(super) fn topology(&self) -> Option<Vec<String>> {
        self.published().topology.clone()
    }

    /// Remembers the peers declared.
    pub(super) fn set_topology(&self, peers: &[String]) {
        self.published().topology = Some(peers.to_vec());
    }

    /// The fields that describe this agent to its peers.
    fn described(&self, names: &[String]) -> Vec<(&'static str, String)> {
        let names: Value = names.into();
        let mut fields = vec![("memory_keys", names.to_string())];
        if let Some(mut resource) = self.registration.resource.clone() {
            if let Some(slot) = resource.get_mut("memory_keys") {
                *slot = names;
            }
            fields.push(("resource", resource.to_string()));
            fields.push(("topology", resource.to_string()));
        }
        fields.push(("updated_at", unix_seconds().to_string()));
        fields
    }

    /// Never held across an await; a poisoned lock is still good, as no change can panic half-way.
    pub(super) fn published(&self) -> MutexGuard<'_, Published> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// A name for this incarnation that no other has: process, time and a random number.
pub(super) fn new_incarnation() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let pid = std::process::id();
    format!("{pid}-{:x}-{:016x}", now.as_nanos(), unique())
}

/// Longest beginning of a record that is read to learn its owner.
const LONGEST_OWNER: usize = 64 << 10;

/// Deletes the records and clean-up events that an earlier incarnation under this name left in
/// Redis, as DLSlime's agents do when they start. The stream stays: peers that came up first have
/// written to it already.
///
/// DLSlime deletes by pattern, and the patterns of alias `w` also match keys of alias `w:0`. This
/// function deletes what the index of the name lists, except records that name another owner. It
/// does not find what DLSlime's agents leave without the server's knowledge: the keys
/// `exchange:..`, which no agent reads, and records of agents that talked to another server alone.
pub(super) async fn purge(session: &Session) -> Result<(), ControlError> {
    let Session { alias, keys, .. } = session;
    let index = keys.records(alias);
    let mut list = pipe();
    list.cmd("SMEMBERS").arg(&index);
    let (listed,): (Vec<Vec<u8>>,) = session.store.query(&list).await?;
    let mut stale = vec![index.into_bytes()];
    for key in listed {
        if !is_others_record(session, &key).await? {
            stale.push(key);
        }
    }
    stale.extend(keys.inboxes(alias).into_iter().map(String::into_bytes));
    tracing::debug!(
        alias,
        keys = stale.len(),
        "deleting what an earlier incarnation left"
    );
    session.delete(stale).await
}

/// Returns whether the record names an owner other than this agent.
async fn is_others_record(session: &Session, key: &[u8]) -> Result<bool, ControlError> {
    let mut get = pipe();
    get.cmd("GETRANGE").arg(key).arg(0).arg(LONGEST_OWNER);
    let text = match session.store.query::<(Vec<u8>,)>(&get).await {
        Ok((text,)) => text,
        Err(ControlError::Malformed { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(record_owner(&text).is_some_and(|owner| owner != session.alias))
}

/// What has to be published again after the control plane has lost it.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) records: BTreeMap<String, Value>,
    pub(super) topology: Option<Vec<String>>,
    /// Entities by id.
    pub(super) entities: BTreeMap<String, Entity>,
    /// Counts changes of `records`.
    pub(super) version: u64,
}

impl Published {
    /// Names of the records, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        self.records.keys().cloned().collect()
    }

    /// Adds or replaces a record.
    pub(super) fn insert(&mut self, name: &str, record: Value) {
        self.records.insert(name.to_owned(), record);
        self.version += 1;
    }

    /// Removes a record.
    pub(super) fn remove(&mut self, name: &str) {
        self.records.remove(name);
        self.version += 1;
    }

    /// The records of `earlier`, published at `version`, that have been removed since.
    pub(super) fn removed_since(
        &self,
        version: u64,
        earlier: &BTreeMap<String, Value>,
    ) -> Vec<String> {
        if self.version == version {
            return Vec::new();
        }
        earlier
            .keys()
            .filter(|name| !self.records.contains_key(*name))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::access::Access;
    use super::*;

    fn session(resource: Option<Value>) -> Session {
        let store = Store::new("http://h", "h:1", Access::default(), Duration::from_secs(1))
            .expect("valid");
        let registration = Registration {
            resource,
            ..Registration::default()
        };
        let (alias, life) = ("w:0".to_owned(), new_incarnation());
        Session::new(alias, life, registration, Keys::new(""), store)
    }

    #[test]
    fn fence_1_no_two_lives_have_the_same_incarnation() {
        assert_ne!(new_incarnation(), new_incarnation());
    }

    #[test]
    fn the_names_of_records_are_published_sorted_also_within_the_topology() {
        let session = session(Some(json!({"memory_keys": [], "nics": []})));
        session.published().insert("b", json!(1));
        session.published().insert("a", json!(2));
        let fields: BTreeMap<_, _> = session
            .described(&session.published().names())
            .into_iter()
            .collect();
        assert_eq!(fields["memory_keys"], r#"["a","b"]"#);
        assert_eq!(fields["resource"], r#"{"memory_keys":["a","b"],"nics":[]}"#);
        assert_eq!(fields["resource"], fields["topology"]);
    }

    #[test]
    fn a_record_removed_while_all_are_published_is_noticed() {
        let mut published = Published::default();
        published.insert("b", json!(1));
        published.insert("a", json!(1));
        assert_eq!(published.names(), ["a", "b"]);
        let (version, records) = (published.version, published.records.clone());
        assert!(published.removed_since(version, &records).is_empty());
        published.insert("b", json!(2));
        published.remove("a");
        assert_eq!(published.removed_since(version, &records), ["a"]);
    }
}

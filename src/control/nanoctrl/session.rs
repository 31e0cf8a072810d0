//! A registered agent: its hash in Redis and the records it has published.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use redis::pipe;
use serde_json::Value;

use super::{published::Published, store::Store};
use crate::control::{ControlError, Registration, keys::Keys};

/// Writes our fields into the hash that the server has made for us. Without a hash nothing is written: the
/// key would have no time to live and seem registered for ever.
const CLAIM: &str = "if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end \
                     redis.call('HSET', KEYS[1], unpack(ARGV)) return 1";

/// Begins the scripts that act under our name: finds out whose it is, as the number of an [`Owner`]. The first key is the
/// agent's hash, the first argument our incarnation.
const OWNER: &str = "local it = redis.call('HGET', KEYS[1], 'incarnation') \
                     local owner = it == ARGV[1] and 1 or it and 2 or redis.call('EXISTS', KEYS[1]) == 1 and 3 or 0 ";

/// Gives the hash another time to live, if it is ours.
const KEEP: &str = "if owner == 1 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end return owner";

/// Writes fields into the hash, if it is ours.
const UPDATE: &str =
    "if owner == 1 then redis.call('HSET', KEYS[1], unpack(ARGV, 2)) end return owner";

/// Writes a record, if the name is ours.
const PUBLISH: &str = "if owner == 1 then redis.call('SET', KEYS[2], ARGV[2]) end return owner";

/// Deletes a record, unless it may be another's.
const WITHDRAW: &str = "if owner ~= 2 then redis.call('DEL', KEYS[2]) end return owner";

/// Adds mail to a peer's stream, unless it would come from an impostor.
const SEND: &str = "if owner ~= 2 then \
                    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, 3)) end return owner";

/// Entries that a stream keeps, approximately; the server says the same.
const STREAM_LENGTH: &str = "1000";

/// Time to live of a registration or entity in seconds, as the server gives it.
pub(super) const TTL_SECONDS: u32 = 60;

/// To whom the name belongs, as far as Redis knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// This life of ours.
    Us,
    /// Somebody else, or an earlier life.
    Other,
    /// A registration that has no incarnation: one of ours not yet claimed, or a DLSlime agent's.
    Unclaimed,
    /// There is no registration.
    Nobody,
}

/// One registered agent.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) alias: String,
    pub(super) keys: Keys,
    pub(super) store: Store,
    /// Names this life in the agent's hash, in the field `incarnation`, which DLSlime ignores.
    incarnation: String,
    registration: Registration,
    published: Mutex<Published>,
}

impl Session {
    pub(super) fn new(alias: String, registration: Registration, keys: Keys, store: Store) -> Self {
        Self {
            alias,
            keys,
            store,
            incarnation: new_incarnation(),
            registration,
            published: Mutex::default(),
        }
    }

    /// What to register with again: the same, under the name that we have.
    pub(super) fn registration(&self) -> Registration {
        Registration {
            alias: Some(self.alias.clone()),
            ..self.registration.clone()
        }
    }

    /// Makes the hash that the server has just made ours. Says whether there was one.
    pub(super) async fn claim(&self) -> Result<bool, ControlError> {
        let mut fields = vec![
            ("addr", self.registration.address.clone()),
            ("incarnation", self.incarnation.clone()),
        ];
        fields.extend(self.described(&self.published().names()));
        let mut commands = pipe();
        let command = commands.cmd("EVAL").arg(CLAIM).arg(1);
        command.arg(self.keys.agent(&self.alias)).arg(fields);
        let (claimed,): (bool,) = self.store.query(&commands).await?;
        Ok(claimed)
    }

    /// Asks Redis to whom the name belongs, and keeps our registration alive if it is ours.
    pub(super) async fn keep(&self) -> Result<Owner, ControlError> {
        self.act(KEEP, None, &[&TTL_SECONDS.to_string()]).await
    }

    /// Puts an entry, made of fields and values, into a stream. One from whose name another has is not sent.
    pub(super) async fn send(&self, stream: String, entry: &[&str]) -> Result<Owner, ControlError> {
        let arguments = [&[STREAM_LENGTH], entry].concat();
        self.act(SEND, Some(stream), &arguments).await
    }

    /// Runs a script that acts under our name, and says whose that is.
    async fn act(
        &self,
        script: &str,
        key: Option<String>,
        arguments: &[&str],
    ) -> Result<Owner, ControlError> {
        let mut commands = pipe();
        let command = commands.cmd("EVAL").arg(format!("{OWNER}{script}"));
        command.arg(1 + usize::from(key.is_some()));
        command.arg(self.keys.agent(&self.alias)).arg(key);
        command.arg(&self.incarnation).arg(arguments);
        let (owner,): (u8,) = self.store.query(&commands).await?;
        Ok(match owner {
            1 => Owner::Us,
            2 => Owner::Other,
            3 => Owner::Unclaimed,
            _ => Owner::Nobody,
        })
    }

    /// Remembers a record and publishes it, unless the name is not ours at the moment; says whose it is.
    pub(super) async fn publish(&self, name: &str, record: Value) -> Result<Owner, ControlError> {
        let text = record.to_string();
        self.published().insert(name, record);
        let key = self.keys.region(&self.alias, name);
        match self.act(PUBLISH, Some(key), &[&text]).await? {
            Owner::Us => self.publish_names().await,
            owner => Ok(owner),
        }
    }

    /// Forgets a record and withdraws it.
    pub(super) async fn withdraw(&self, name: &str) -> Result<(), ControlError> {
        self.published().remove(name);
        let key = self.keys.region(&self.alias, name);
        self.act(WITHDRAW, Some(key), &[]).await?;
        self.publish_names().await.map(drop)
    }

    /// Publishes all records again, for as long as the name is ours; says whose it is.
    pub(super) async fn publish_all(&self) -> Result<Owner, ControlError> {
        let (records, version) = {
            let published = self.published();
            (published.records.clone(), published.version)
        };
        for (name, record) in &records {
            let key = self.keys.region(&self.alias, name);
            let written = self.act(PUBLISH, Some(key), &[&record.to_string()]).await?;
            if written != Owner::Us {
                return Ok(written);
            }
        }
        // Those withdrawn while we published them have to go after all.
        let removed = self.published().removed_since(version, &records);
        self.delete(self.record_keys(&removed)).await?;
        self.publish_names().await
    }

    /// Writes the names of our records into our hash. Several calls may overtake each other on the way to
    /// Redis, so each goes on until what it wrote was still true afterwards.
    async fn publish_names(&self) -> Result<Owner, ControlError> {
        loop {
            let (names, version) = {
                let published = self.published();
                (published.names(), published.version)
            };
            let fields = self.described(&names);
            let fields = fields.iter().flat_map(|(name, value)| [*name, value]);
            let owner = self.act(UPDATE, None, &fields.collect::<Vec<_>>()).await?;
            if owner != Owner::Us {
                tracing::debug!(alias = self.alias, "not registered at the moment");
            }
            if self.published().version == version {
                return Ok(owner);
            }
        }
    }

    /// Keys that are ours besides the agent's hash and its topology.
    pub(super) fn own_keys(&self) -> Vec<String> {
        let names = self.published().names();
        let mut keys = self.record_keys(&names);
        keys.push(self.keys.stream(&self.alias));
        keys.extend(self.keys.inboxes(&self.alias));
        keys
    }

    fn record_keys(&self, names: &[String]) -> Vec<String> {
        let key = |name: &String| self.keys.region(&self.alias, name);
        names.iter().map(key).collect()
    }

    /// Deletes our mail, which was for another. (`/cleanup` of NanoCtrl leaves it, that of `dlslime-ctrl` does not.)
    pub(super) async fn delete_mail(&self) -> Result<(), ControlError> {
        self.delete(vec![self.keys.stream(&self.alias)]).await
    }

    /// Deletes keys.
    pub(super) async fn delete(&self, keys: Vec<String>) -> Result<(), ControlError> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut commands = pipe();
        commands.cmd("DEL").arg(keys);
        self.store.query::<(i64,)>(&commands).await.map(drop)
    }

    /// The peers declared last.
    pub(super) fn topology(&self) -> Option<Vec<String>> {
        self.published().topology.clone()
    }

    /// Remembers the peers declared.
    pub(super) fn set_topology(&self, peers: &[String]) {
        self.published().topology = Some(peers.to_vec());
    }

    /// The fields that tell peers what we have.
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

/// A name for this life that no other has: process, time and a keyed hash, whose keys are random.
fn new_incarnation() -> String {
    use std::hash::{BuildHasher, RandomState};
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let pid = std::process::id();
    let salt = RandomState::new().hash_one((pid, now));
    format!("{pid}-{:x}-{salt:016x}", now.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::super::access::Access;
    use super::*;
    use serde_json::json;
    use std::{collections::BTreeMap, time::Duration};

    fn session(resource: Option<Value>) -> Session {
        let store = Store::new("http://h", "h:1", Access::default(), Duration::from_secs(1))
            .expect("valid");
        let registration = Registration {
            resource,
            ..Registration::default()
        };
        Session::new("w:0".to_owned(), registration, Keys::new(""), store)
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
}

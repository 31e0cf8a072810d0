//! The leases on this agent's keys in Redis: renewing them, noticing losses, and ending them.

use redis::pipe;

use super::session::{NameOwner, Session};
use crate::control::{ControlError, Entity, lease};

/// Renews all leases, if the name belongs to this incarnation. Returns the owner, whether the
/// topology exists, and the records that are missing.
const RENEW: &str = "if owner ~= 1 then return {owner, 0, {}} end \
                     redis.call('EXPIRE', KEYS[1], NATIVE) \
                     enlist(KEYS[2], ARGV[2], ARGV[3], NATIVE) prolong(KEYS[5]) \
                     local topology = redis.call('EXPIRE', KEYS[6], NATIVE) \
                     if topology == 1 then enlist(KEYS[4], ARGV[2], ARGV[3], NATIVE) end \
                     for i = 7, #KEYS do redis.call('EXPIRE', KEYS[i], NATIVE) end \
                     for i = 4, #ARGV do redis.call('SADD', KEYS[3], ARGV[i]) end \
                     local lost = {} \
                     for _, key in ipairs(redis.call('SMEMBERS', KEYS[3])) do \
                     if redis.call('EXPIRE', key, NATIVE) == 0 then \
                     redis.call('SREM', KEYS[3], key) table.insert(lost, key) end end \
                     lease(KEYS[3], NATIVE) \
                     return {owner, topology, lost}";

/// Deletes keys and removes this agent from the indexes, if the name belongs to this incarnation or
/// to none.
const VACATE: &str = "if owner == 2 then return owner end \
                      for i = 4, #KEYS do redis.call('DEL', KEYS[i]) end \
                      redis.call('SREM', KEYS[2], ARGV[2]) redis.call('SREM', KEYS[3], ARGV[2]) \
                      close_if_empty(ARGV[3]) return owner";

/// Deletes entities, and removes them from the index.
const REMOVE: &str = "redis.call('DEL', unpack(KEYS, 2)) redis.call('SREM', KEYS[1], unpack(KEYS, 2)) \
                      close_if_empty(ARGV[1]) return 1";

/// Removes entities that are gone from the index.
const UNLIST: &str = "for i = 2, #KEYS do if redis.call('EXISTS', KEYS[i]) == 0 then \
                      redis.call('SREM', KEYS[1], KEYS[i]) end end \
                      close_if_empty(ARGV[1]) return 1";

/// What the control plane still has of this agent.
#[derive(Debug)]
pub(super) struct Renewed {
    pub(super) owner: NameOwner,
    /// Whether a declared topology is missing.
    pub(super) is_topology_lost: bool,
    /// Names of the records that are missing.
    pub(super) lost: Vec<String>,
}

impl Session {
    /// Renews the leases on all keys of this agent except entities, if the name is its own, and
    /// returns what is missing. Lost mail and clean-up events are not restored; their senders
    /// notice.
    pub(super) async fn renew(&self) -> Result<Renewed, ControlError> {
        let Session { keys, alias, .. } = self;
        let mut all = vec![
            keys.agents(),
            keys.records(alias),
            keys.topologies(),
            keys.agent_counter(),
            keys.topology(alias),
            keys.stream(alias),
        ];
        all.extend(keys.inboxes(alias));
        let records = self.record_keys(&self.published().names());
        let scope = keys.index_name();
        let mut arguments = vec![alias.as_str(), &scope];
        arguments.extend(records.iter().map(String::as_str));
        let (owner, has_topology, lost): (u8, bool, Vec<String>) =
            self.run(RENEW, &all, &arguments).await?;
        let prefix = keys.region(alias, "");
        let name = |key: String| Some(key.strip_prefix(&prefix)?.to_owned());
        Ok(Renewed {
            owner: NameOwner::of(owner),
            is_topology_lost: !has_topology && self.topology().is_some(),
            lost: lost.into_iter().filter_map(name).collect(),
        })
    }

    /// Publishes lost records again.
    pub(super) async fn publish_lost(&self, names: &[String]) -> Result<(), ControlError> {
        for name in names {
            let Some(record) = self.published().records.get(name).map(ToString::to_string) else {
                continue;
            };
            tracing::warn!(
                alias = self.alias,
                name,
                "Redis has lost a record; publishing it again"
            );
            self.write(name, &record).await?;
            if !self.published().records.contains_key(name) {
                self.withdraw(name).await?; // It was withdrawn meanwhile.
            }
        }
        Ok(())
    }

    /// Removes everything of this agent except its hash, its topology and its entities.
    pub(super) async fn vacate(&self) -> Result<(), ControlError> {
        let Session { keys, alias, .. } = self;
        let names = self.published().names();
        let mut all = vec![keys.agents(), keys.topologies()];
        all.extend([keys.records(alias), keys.stream(alias)]);
        all.extend(keys.inboxes(alias));
        all.extend(self.record_keys(&names));
        let scope = keys.index_name();
        self.run::<u8>(VACATE, &all, &[alias, &scope])
            .await
            .map(drop)
    }

    /// Removes entities without an event.
    pub(super) async fn remove_entities(&self, ids: &[&str]) -> Result<(), ControlError> {
        self.run_on_entities(REMOVE, ids).await
    }

    /// Removes entities from the index that were unregistered. A server of DLSlime knows of none,
    /// while this agent has listed them whenever it has renewed them.
    pub(super) async fn unlist_entities(&self, ids: &[&str]) {
        if let Err(error) = self.run_on_entities(UNLIST, ids).await {
            tracing::debug!(%error, "entities that are gone stay listed until that expires");
        }
    }

    async fn run_on_entities(&self, script: &str, ids: &[&str]) -> Result<(), ControlError> {
        let mut commands = pipe();
        let command = commands.cmd("EVAL").arg(lease::script(script));
        command.arg(1 + ids.len()).arg(self.keys.entities());
        for id in ids {
            command.arg(self.keys.entity(Entity::TYPE, id));
        }
        command.arg(self.keys.index_name());
        self.store.query::<(u8,)>(&commands).await.map(drop)
    }
}

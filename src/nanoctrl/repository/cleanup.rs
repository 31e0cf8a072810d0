//! Removes what an agent leaves behind, and tells its peers.

use std::collections::BTreeSet;

use redis::aio::ConnectionManager;
use redis::{AsyncCommands, RedisResult};

use super::agents::foreign_records;
use super::index::Index;
use super::topology::target_peers;
use super::{CHUNK, Repository, RepositoryError, script};
use crate::control::keys::Keys;
use crate::control::record::record_owner;

/// Most events that an inbox keeps, the newest ones. Nobody reads the inboxes of agents that are
/// gone, nor `inbox:<alias>` of Python peers.
const INBOX_EVENTS: usize = 1024;

/// Most bytes of a record that are read to learn its owner.
const LONGEST_RECORD: isize = 64 << 10;

impl Repository {
    /// Removes everything of `agent`, tells its peers, and returns their number. `None` if
    /// `incarnation` is given and another one has the name (FENCE-1): nothing is removed then.
    pub(in crate::nanoctrl) async fn clean_up(
        &self,
        keys: &Keys,
        agent: &str,
        incarnation: Option<&str>,
    ) -> Result<Option<usize>, RepositoryError> {
        self.run(async |mut redis| {
            let peers = peers_of(&mut redis, keys, agent).await?;
            let event = serde_json::json!({"peer": agent, "type": "cleanup"}).to_string();
            let script = script(include_str!("clean_up.lua"));
            let mut call = script.key(keys.agents());
            call.key(keys.topologies()).key(keys.records(agent));
            call.key(keys.agent(agent)).key(keys.topology(agent));
            call.key(keys.stream(agent)).key(keys.inboxes(agent));
            call.key(records_of(&mut redis, keys, agent).await?);
            call.arg(agent).arg(keys.index_name());
            call.arg(event).arg(INBOX_EVENTS);
            call.arg(incarnation.unwrap_or_default());
            for peer in &peers {
                // Agents of DLSlime leave such keys. Nobody reads those with an id behind the
                // names, and DLSlime removes them when it starts or ends.
                call.key(keys.exchange(agent, peer));
                call.key(keys.exchange(peer, agent));
                for inbox in keys.inboxes(peer) {
                    call.arg(keys.agent(peer)).arg(inbox);
                }
            }
            let is_done: bool = call.invoke_async(&mut redis).await?;
            Ok(is_done.then_some(peers.len()))
        })
        .await
    }
}

/// The peers that the agent wants, and those that want it.
async fn peers_of(
    redis: &mut ConnectionManager,
    keys: &Keys,
    agent: &str,
) -> RedisResult<BTreeSet<String>> {
    let index = Index::topologies(keys);
    let (mut peers, mut gone) = (BTreeSet::new(), Vec::new());
    // A server of DLSlime adds no topology to the index.
    let agents = Index::agents(keys).members(redis).await?;
    let mut owners: BTreeSet<Vec<u8>> = index.members(redis).await?.into_iter().collect();
    owners.extend(agents);
    owners.insert(agent.as_bytes().to_vec());
    let owners: Vec<Vec<u8>> = owners.into_iter().collect();
    for chunk in owners.chunks(CHUNK) {
        let specs: Vec<Vec<u8>> = chunk.iter().map(|owner| index.key_of(owner)).collect();
        let values: Vec<Option<Vec<u8>>> = redis.mget(specs).await?;
        for (owner, spec) in chunk.iter().zip(values) {
            let Some(spec) = spec else {
                gone.push(owner.clone());
                continue;
            };
            let Ok(owner) = std::str::from_utf8(owner) else {
                continue;
            };
            let targets = target_peers(&spec);
            if owner == agent {
                peers.extend(targets);
            } else if targets.iter().any(|target| target == agent) {
                peers.insert(owner.to_owned());
            }
        }
    }
    index.forget(redis, &gone).await?;
    peers.remove(agent);
    Ok(peers)
}

/// Keys of the records of the agent: those in its index, and those that its hash names if it is one
/// of DLSlime, except records that name another owner.
async fn records_of(
    redis: &mut ConnectionManager,
    keys: &Keys,
    agent: &str,
) -> RedisResult<Vec<Vec<u8>>> {
    let mut hash = redis::pipe();
    hash.cmd("HMGET").arg(keys.agent(agent));
    hash.arg(&["memory_keys", "resource"]);
    let hash: Vec<RedisResult<[Option<Vec<u8>>; 2]>> =
        hash.ignore_errors().query_async(redis).await?;
    let [names, resource] = hash.into_iter().find_map(Result::ok).unwrap_or_default();
    let named = foreign_records(keys, agent, names.as_deref(), resource.as_deref());
    let listed: BTreeSet<Vec<u8>> = redis.smembers(keys.records(agent)).await?;
    let named = named.into_iter().map(String::into_bytes);
    let mut listed: Vec<Vec<u8>> = listed.into_iter().chain(named).collect();
    listed.sort_unstable();
    listed.dedup();
    let mut records = Vec::with_capacity(listed.len());
    for chunk in listed.chunks_mut(CHUNK) {
        let mut pipe = redis::pipe();
        for key in &*chunk {
            pipe.getrange(key, 0, LONGEST_RECORD);
        }
        let texts: Vec<RedisResult<Vec<u8>>> = pipe.ignore_errors().query_async(redis).await?;
        for (key, text) in chunk.iter_mut().zip(texts) {
            let owner = record_owner(&text.unwrap_or_default());
            if owner.is_none_or(|owner| owner == agent) {
                records.push(std::mem::take(key));
            }
        }
    }
    Ok(records)
}

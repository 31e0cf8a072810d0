//! Removing what an agent leaves behind, and telling its peers.

use std::collections::BTreeSet;

use redis::aio::ConnectionManager;
use redis::{AsyncCommands, RedisResult};

use super::scan::{CHUNK, literal, patterns, scan, suffix};
use super::topology::target_peers;
use super::{Repository, RepositoryError};
use crate::control::keys::Keys;

/// Events that an inbox keeps, the newest ones. Nobody reads the inboxes of agents that are gone, nor
/// `inbox:<alias>` of Python peers.
const INBOX_EVENTS: isize = 1024;

impl Repository {
    /// Removes all that is known of `agent`, tells its peers, and gives back how many they are.
    pub(in crate::nanoctrl) async fn clean_up(
        &self,
        keys: &Keys,
        agent: &str,
    ) -> Result<usize, RepositoryError> {
        self.run(async |mut redis| {
            let peers = peers_of(&mut redis, keys, agent).await?;
            let remains = remains_of(&mut redis, keys, agent).await?;
            let remains: Vec<Vec<u8>> = remains.into_iter().collect();
            let event = serde_json::json!({"peer": agent, "type": "cleanup"}).to_string();

            let mut transaction = redis::pipe();
            transaction.atomic();
            for chunk in remains.chunks(CHUNK) {
                transaction.del(chunk).ignore();
            }
            for inbox in peers.iter().flat_map(|peer| keys.inboxes(peer)) {
                transaction.lpush(&inbox, &event).ignore();
                transaction.ltrim(&inbox, 0, INBOX_EVENTS - 1).ignore();
            }
            transaction.query_async::<()>(&mut redis).await?;
            Ok(peers.len())
        })
        .await
    }
}

/// Those whom the agent wants, and those who want it.
async fn peers_of(
    redis: &mut ConnectionManager,
    keys: &Keys,
    agent: &str,
) -> RedisResult<BTreeSet<String>> {
    let specs: Vec<Vec<u8>> = scan(redis, &patterns(keys).topology("*"))
        .await?
        .into_iter()
        .collect();
    let prefix = keys.topology("");
    let mut peers = BTreeSet::new();
    for chunk in specs.chunks(CHUNK) {
        let values: Vec<Option<Vec<u8>>> = redis.mget(chunk).await?;
        for (key, spec) in chunk.iter().zip(values) {
            let owner = suffix(key, &prefix).and_then(|owner| std::str::from_utf8(owner).ok());
            let (Some(owner), Some(spec)) = (owner, spec) else {
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
    peers.remove(agent);
    Ok(peers)
}

/// The keys that go with the agent. Not the keys `exchange:<peer>:<agent>:<id>`, which are the peers'.
async fn remains_of(
    redis: &mut ConnectionManager,
    keys: &Keys,
    agent: &str,
) -> RedisResult<BTreeSet<Vec<u8>>> {
    let mut remains = BTreeSet::from([keys.agent(agent), keys.topology(agent), keys.stream(agent)]);
    remains.extend(keys.inboxes(agent));
    let mut remains: BTreeSet<Vec<u8>> = remains.into_iter().map(String::into_bytes).collect();

    let (patterns, agent) = (patterns(keys), literal(agent));
    for pattern in [
        patterns.exchange(&agent, "*"),
        patterns.exchange("*", &agent),
        patterns.region(&agent, "*"),
    ] {
        remains.extend(scan(redis, &pattern).await?);
    }
    Ok(remains)
}

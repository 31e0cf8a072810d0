//! Indexes: sets that list what exists, so that nobody has to search unrelated keys.
//!
//! A member may outlive its key, which expires; the reader of an index notices and removes it.

use std::collections::BTreeSet;

use redis::aio::ConnectionManager;
use redis::{AsyncCommands, RedisResult};

use super::{CHUNK, script};
use crate::control::keys::Keys;

/// Set of the scopes in which something is registered, each as in [`Keys::index_name`].
const SCOPES: &str = "nanoctrl/scopes";

/// An index of a scope.
pub(super) struct Index {
    pub(super) key: String,
    /// Prefix of the keys that the members stand for.
    pub(super) prefix: String,
    /// The scope in indexes.
    pub(super) scope: String,
}

impl Index {
    /// The agents of a scope.
    pub(super) fn agents(keys: &Keys) -> Self {
        Self {
            key: keys.agents(),
            prefix: keys.agent(""),
            scope: keys.index_name(),
        }
    }

    /// The agents that have declared a topology in a scope.
    pub(super) fn topologies(keys: &Keys) -> Self {
        Self {
            key: keys.topologies(),
            prefix: keys.topology(""),
            scope: keys.index_name(),
        }
    }

    /// The members, sorted.
    pub(super) async fn members(&self, redis: &mut ConnectionManager) -> RedisResult<Vec<Vec<u8>>> {
        let mut members: Vec<Vec<u8>> = redis.smembers(&self.key).await?;
        members.sort_unstable();
        Ok(members)
    }

    /// At most `most` members, sorted, and how many more there are, however many those may be.
    pub(super) async fn some_members(
        &self,
        redis: &mut ConnectionManager,
        most: usize,
    ) -> RedisResult<(Vec<Vec<u8>>, u64)> {
        let total: u64 = redis.scard(&self.key).await?;
        let (mut members, mut cursor) = (BTreeSet::new(), 0u64);
        loop {
            let mut step = redis::cmd("SSCAN");
            step.arg(&self.key).arg(cursor).arg("COUNT").arg(CHUNK);
            // A member may be returned twice.
            let (next, page): (u64, Vec<Vec<u8>>) = step.query_async(redis).await?;
            members.extend(page);
            cursor = next;
            if cursor == 0 || members.len() >= most {
                break;
            }
        }
        let members: Vec<_> = members.into_iter().take(most).collect();
        let left_out = total.saturating_sub(members.len() as u64);
        Ok((members, left_out))
    }

    /// The key that a member stands for.
    pub(super) fn key_of(&self, member: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), member].concat()
    }

    /// Removes members whose keys are still missing.
    pub(super) async fn forget(
        &self,
        redis: &mut ConnectionManager,
        members: &[Vec<u8>],
    ) -> RedisResult<()> {
        for chunk in members.chunks(CHUNK) {
            let script = script(include_str!("forget.lua"));
            let mut call = script.prepare_invoke();
            call.key(&self.key).arg(&self.prefix).arg(&self.scope);
            call.arg(chunk).invoke_async::<()>(redis).await?;
        }
        Ok(())
    }
}

/// Keys of the scopes in which something is registered, sorted by scope.
pub(super) async fn scopes(redis: &mut ConnectionManager) -> RedisResult<Vec<Keys>> {
    let names: Vec<Vec<u8>> = redis.smembers(SCOPES).await?;
    let names = names
        .into_iter()
        .filter_map(|name| String::from_utf8(name).ok());
    let mut scopes: Vec<Keys> = names.map(|name| Keys::from_index_name(&name)).collect();
    scopes.sort_by(|a, b| a.scope().cmp(b.scope()));
    Ok(scopes)
}

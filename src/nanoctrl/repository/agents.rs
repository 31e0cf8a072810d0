//! Hashes of agents.

use redis::aio::ConnectionManager;
use redis::{AsyncCommands, RedisResult, Script};

use super::scan::{CHUNK, patterns, scan, suffix};
use super::{Repository, RepositoryError, TTL_SECONDS, now, text};
use crate::control::keys::Keys;

/// How an agent gets its name.
#[derive(Clone, Copy)]
pub(in crate::nanoctrl) enum AgentName<'a> {
    /// This one, if it is free.
    Wanted(&'a str),
    /// The next one that begins with `prefix`; whoever had it before has lost it.
    Generated { prefix: &'a str },
}

/// What is known of an agent, as it was found.
pub(in crate::nanoctrl) struct AgentRow {
    pub(in crate::nanoctrl) name: String,
    pub(in crate::nanoctrl) address: String,
    pub(in crate::nanoctrl) device: Option<String>,
    pub(in crate::nanoctrl) ib_port: Option<String>,
    pub(in crate::nanoctrl) link_type: Option<String>,
    pub(in crate::nanoctrl) resource: Option<String>,
    pub(in crate::nanoctrl) memory_keys: Option<String>,
}

const ROW: [&str; 6] = [
    "addr",
    "device",
    "ib_port",
    "link_type",
    "resource",
    "memory_keys",
];

impl Repository {
    /// Registers an agent and gives back its name; `None` if the wanted one is taken.
    pub(in crate::nanoctrl) async fn register_agent(
        &self,
        keys: &Keys,
        name: AgentName<'_>,
        fields: &[(&str, String)],
    ) -> Result<Option<String>, RepositoryError> {
        self.run(async |mut redis| {
            let (name, exclusive) = match name {
                AgentName::Wanted(alias) => (alias.to_owned(), true),
                AgentName::Generated { prefix } => {
                    let number: i64 = redis.incr(keys.agent_counter(), 1).await?;
                    (format!("{prefix}-{number:x}"), false)
                }
            };
            let registered: bool = Script::new(include_str!("register_agent.lua"))
                .key(keys.agent(&name))
                .arg(TTL_SECONDS)
                .arg(exclusive)
                .arg(("updated_at", now().as_secs()))
                .arg(("memory_keys", "[]"))
                .arg(fields)
                .invoke_async(&mut redis)
                .await?;
            Ok(registered.then_some(name))
        })
        .await
    }

    /// The agents of a scope.
    pub(in crate::nanoctrl) async fn agents(
        &self,
        keys: &Keys,
    ) -> Result<Vec<AgentRow>, RepositoryError> {
        self.run(async |mut redis| {
            let found = scan(&mut redis, &patterns(keys).agent("*")).await?;
            let found: Vec<Vec<u8>> = found.into_iter().collect();
            let mut rows = Vec::with_capacity(found.len());
            for chunk in found.chunks(CHUNK) {
                rows.extend(read_rows(&mut redis, chunk, &keys.agent("")).await?);
            }
            Ok(rows)
        })
        .await
    }
}

/// The agents of these keys, without those that have gone meanwhile.
async fn read_rows(
    redis: &mut ConnectionManager,
    keys: &[Vec<u8>],
    prefix: &str,
) -> RedisResult<Vec<AgentRow>> {
    let mut pipe = redis::pipe();
    for key in keys {
        pipe.cmd("HMGET").arg(key).arg(&ROW);
    }
    let answers: Vec<[Option<Vec<u8>>; ROW.len()]> = pipe.query_async(redis).await?;
    let named = keys.iter().map(|key| suffix(key, prefix)).zip(answers);
    Ok(named
        .filter_map(|(name, fields)| row(name?, fields))
        .collect())
}

fn row(name: &[u8], fields: [Option<Vec<u8>>; ROW.len()]) -> Option<AgentRow> {
    let [address, device, ib_port, link_type, resource, memory_keys] =
        fields.map(|field| field.map(text));
    Some(AgentRow {
        name: text(name.to_vec()),
        address: address?,
        device,
        ib_port,
        link_type,
        resource,
        memory_keys,
    })
}

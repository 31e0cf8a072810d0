//! Hashes of agents.

use redis::RedisResult;
use redis::aio::ConnectionManager;
use serde_json::Value;

use super::index::{Index, scopes};
use super::{CHUNK, Repository, RepositoryError, now, script, text};
use crate::control::keys::Keys;

/// Most records that are kept for an agent of DLSlime.
const MOST_RECORDS: usize = 10_000;

/// How an agent gets its name.
#[derive(Clone, Copy)]
pub(in crate::nanoctrl) enum AgentName<'a> {
    /// This name, if it is free.
    Wanted(&'a str),
    /// The next free name that begins with `prefix`.
    Generated { prefix: &'a str },
}

/// An agent's hash, as it was found.
pub(in crate::nanoctrl) struct AgentRow {
    pub(in crate::nanoctrl) name: String,
    pub(in crate::nanoctrl) address: String,
    pub(in crate::nanoctrl) device: Option<String>,
    pub(in crate::nanoctrl) ib_port: Option<String>,
    pub(in crate::nanoctrl) link_type: Option<String>,
    pub(in crate::nanoctrl) resource: Option<String>,
    pub(in crate::nanoctrl) memory_keys: Option<String>,
    pub(in crate::nanoctrl) incarnation: Option<String>,
    /// When it registered, in Unix seconds by the clock of the server that it did so at.
    pub(in crate::nanoctrl) registered_at: Option<u64>,
}

const ROW: [&str; 8] = [
    "addr",
    "device",
    "ib_port",
    "link_type",
    "resource",
    "memory_keys",
    "incarnation",
    "updated_at",
];

impl Repository {
    /// Registers an agent and returns its name; `None` if the requested one is taken.
    pub(in crate::nanoctrl) async fn register_agent(
        &self,
        keys: &Keys,
        name: AgentName<'_>,
        fields: &[(&str, String)],
    ) -> Result<Option<String>, RepositoryError> {
        let (name, is_wanted) = match name {
            AgentName::Wanted(alias) => (alias, true),
            AgentName::Generated { prefix } => (prefix, false),
        };
        self.run(async |mut redis| {
            let registered: Option<Vec<u8>> = script(include_str!("register_agent.lua"))
                .key(keys.agent_counter())
                .key(keys.agents())
                .arg(name)
                .arg(is_wanted)
                .arg(keys.index_name())
                .arg(keys.agent(""))
                .arg(("updated_at", now().as_secs()))
                .arg(("memory_keys", "[]"))
                .arg(fields)
                .invoke_async(&mut redis)
                .await?;
            Ok(registered.map(text))
        })
        .await
    }

    /// Renews the lease of an agent or entity; returns false if it does not exist. An agent of
    /// DLSlime renews nothing else itself, so its other keys are renewed with it.
    pub(in crate::nanoctrl) async fn heartbeat(
        &self,
        keys: &Keys,
        entity_type: &str,
        id: &str,
    ) -> Result<bool, RepositoryError> {
        self.run(async |mut redis| {
            let answer: Option<Vec<Option<Vec<u8>>>> = script(include_str!("heartbeat.lua"))
                .key(keys.entity(entity_type, id))
                .key(keys.agents())
                .key(keys.entities())
                .key(keys.agent_counter())
                .key(keys.entity_revision(entity_type))
                .arg(id)
                .arg(keys.index_name())
                .arg(entity_type == "agent")
                .invoke_async(&mut redis)
                .await?;
            let Some(fields) = answer else {
                return Ok(false);
            };
            if let [names, resource] = &fields[..] {
                let records = foreign_records(keys, id, names.as_deref(), resource.as_deref());
                let script = script(include_str!("renew_foreign.lua"));
                let mut call = script.key(keys.records(id));
                call.key(keys.topologies()).key(keys.topology(id));
                call.key(keys.stream(id)).key(keys.inboxes(id));
                call.arg(id).arg(keys.index_name()).arg(records);
                call.invoke_async::<()>(&mut redis).await?;
            }
            Ok(true)
        })
        .await
    }

    /// The agent of that name in a scope, if there is one.
    pub(in crate::nanoctrl) async fn agent(
        &self,
        keys: &Keys,
        name: &str,
    ) -> Result<Vec<AgentRow>, RepositoryError> {
        let (index, names) = (Index::agents(keys), [name.as_bytes().to_vec()]);
        self.run(async |mut redis| {
            let found = read_fields(&mut redis, &index, &names).await?;
            let rows = found.into_iter().zip(&names);
            Ok(rows
                .filter_map(|(fields, name)| row(name, fields))
                .collect())
        })
        .await
    }

    /// The agents of a scope.
    pub(in crate::nanoctrl) async fn agents(
        &self,
        keys: &Keys,
    ) -> Result<Vec<AgentRow>, RepositoryError> {
        let index = Index::agents(keys);
        self.run(async |mut redis| {
            let names = index.members(&mut redis).await?;
            let (mut rows, mut gone) = (Vec::with_capacity(names.len()), Vec::new());
            for chunk in names.chunks(CHUNK) {
                for (name, fields) in chunk
                    .iter()
                    .zip(read_fields(&mut redis, &index, chunk).await?)
                {
                    match row(name, fields) {
                        Some(row) => rows.push(row),
                        None => gone.push(name.clone()),
                    }
                }
            }
            index.forget(&mut redis, &gone).await?;
            Ok(rows)
        })
        .await
    }

    /// At most `most` agents of a scope, and how many more may be there. It writes nothing, as
    /// [`agents`](Self::agents) does.
    pub(in crate::nanoctrl) async fn some_agents(
        &self,
        keys: &Keys,
        most: usize,
    ) -> Result<(Vec<AgentRow>, u64), RepositoryError> {
        let index = Index::agents(keys);
        self.run(async |mut redis| {
            let (names, left_out) = index.some_members(&mut redis, most).await?;
            let mut rows = Vec::with_capacity(names.len());
            for chunk in names.chunks(CHUNK) {
                let fields = read_fields(&mut redis, &index, chunk).await?;
                let named = chunk.iter().zip(fields);
                rows.extend(named.filter_map(|(name, fields)| row(name, fields)));
            }
            Ok((rows, left_out))
        })
        .await
    }

    /// The scopes in which something is registered.
    pub(in crate::nanoctrl) async fn scopes(&self) -> Result<Vec<String>, RepositoryError> {
        self.run(async |mut redis| {
            let scopes = scopes(&mut redis).await?;
            Ok(scopes.iter().map(|keys| keys.scope().to_owned()).collect())
        })
        .await
    }
}

/// Keys of the records that an agent of DLSlime says it has: one for each name, and one for each
/// name and port.
pub(super) fn foreign_records(
    keys: &Keys,
    alias: &str,
    names: Option<&[u8]>,
    resource: Option<&[u8]>,
) -> Vec<String> {
    let json = |text: Option<&[u8]>| -> Value {
        text.and_then(|text| serde_json::from_slice(text).ok())
            .unwrap_or_default()
    };
    let (names, resource) = (json(names), json(resource));
    let list = |of: &Value| of.as_array().cloned().unwrap_or_default();
    let mut suffixes = vec![String::new()];
    for nic in list(&resource["nics"]) {
        for port in list(&nic["ports"]) {
            let link = port["link_type"].as_str().unwrap_or("UNKNOWN");
            if let (Some(device), Some(port)) = (nic["name"].as_str(), port["port"].as_u64()) {
                suffixes.push(format!(":{device}:{port}:{link}"));
            }
        }
    }
    let names = list(&names);
    let names = names.iter().filter_map(Value::as_str);
    let of_name = |name| suffixes.iter().map(move |suffix| format!("{name}{suffix}"));
    let records = names.flat_map(of_name).take(MOST_RECORDS);
    records.map(|name| keys.region(alias, &name)).collect()
}

/// Reads the fields of these agents; a key that is not a hash has none.
async fn read_fields(
    redis: &mut ConnectionManager,
    index: &Index,
    names: &[Vec<u8>],
) -> RedisResult<Vec<[Option<Vec<u8>>; ROW.len()]>> {
    let mut pipe = redis::pipe();
    for name in names {
        pipe.cmd("HMGET").arg(index.key_of(name)).arg(&ROW);
    }
    let answers: Vec<RedisResult<_>> = pipe.ignore_errors().query_async(redis).await?;
    Ok(answers.into_iter().map(Result::unwrap_or_default).collect())
}

fn row(name: &[u8], fields: [Option<Vec<u8>>; ROW.len()]) -> Option<AgentRow> {
    let [
        address,
        device,
        ib_port,
        link_type,
        resource,
        memory_keys,
        incarnation,
        registered_at,
    ] = fields.map(|field| field.map(text));
    Some(AgentRow {
        name: text(name.to_vec()),
        address: address?,
        device,
        ib_port,
        link_type,
        resource,
        memory_keys,
        incarnation,
        registered_at: registered_at.and_then(|at| at.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_of_dlslime_has_a_record_for_each_name_and_each_port() {
        let resource =
            br#"{"nics":[{"name":"rxe0","ports":[{"port":1,"link_type":"RoCE"}]},{"name":7}]}"#;
        let keys = Keys::new("job");
        let records = foreign_records(&keys, "w", Some(br#"["kv",7]"#), Some(resource));
        assert_eq!(records, ["job:mr:w:kv", "job:mr:w:kv:rxe0:1:RoCE"]);
        assert!(foreign_records(&keys, "w", Some(b"\xff{"), None).is_empty());
        assert!(foreign_records(&keys, "w", None, Some(resource)).is_empty());
    }
}

//! Deletes what an earlier life of our name left in Redis, as DLSlime's agents do when they start.
//!
//! DLSlime deletes by pattern, and the patterns of alias `w` also match keys of alias `w:0`. We delete only
//! what is not visibly somebody else's: a record that names another owner, or a key that a registered agent
//! with a longer name may own, stays. Our names contain no pattern characters, so none is escaped.

use redis::pipe;
use serde_json::Value;

use super::session::Session;
use crate::control::ControlError;

/// Keys looked at per step of SCAN.
const STEP: usize = 1000;

/// Most keys of one kind that are considered.
const MOST_KEYS: usize = 10_000;

/// Longest key that is considered; longer ones are nobody's.
const LONGEST_KEY: usize = 4 << 10;

/// Longest record read to learn its owner.
const LONGEST_RECORD: usize = 64 << 10;

/// Deletes stale records, exchanges and clean-up events. The stream stays: peers that came up before us have
/// written to it already.
pub(super) async fn purge(session: &Session) -> Result<(), ControlError> {
    let Session { alias, keys, .. } = session;
    session.delete(keys.inboxes(alias)).await?;

    let records = keys.region(alias, "");
    let exchanges = keys.scoped("exchange:");
    let mut stale = Vec::new();
    for key in scan(session, &format!("{records}*")).await? {
        let rest = key.strip_prefix(&records).unwrap_or_default();
        if !is_others_record(session, &key, rest).await? {
            stale.push(key);
        }
    }
    for key in scan(session, &format!("{exchanges}*")).await? {
        let parts = key.strip_prefix(&exchanges).unwrap_or_default();
        if let Some(rivals) = exchange_rivals(alias, parts)
            && !is_any_registered(session, &rivals).await?
        {
            stale.push(key);
        }
    }
    if !stale.is_empty() {
        tracing::debug!(
            alias,
            keys = stale.len(),
            "deleting what an earlier life left"
        );
    }
    session.delete(stale).await
}

/// The keys that match `pattern`.
async fn scan(session: &Session, pattern: &str) -> Result<Vec<String>, ControlError> {
    let mut found = Vec::new();
    let mut cursor = 0_u64;
    loop {
        let mut step = pipe();
        let scan = step.cmd("SCAN").arg(cursor);
        scan.arg("MATCH").arg(pattern).arg("COUNT").arg(STEP);
        let ((next, keys),): ((u64, Vec<Vec<u8>>),) = session.store.query(&step).await?;
        let ordinary = keys.into_iter().filter(|key| key.len() <= LONGEST_KEY);
        found.extend(ordinary.filter_map(|key| String::from_utf8(key).ok()));
        if next == 0 || found.len() >= MOST_KEYS {
            found.truncate(MOST_KEYS);
            return Ok(found);
        }
        cursor = next;
    }
}

/// Whether the record at `key`, which is `mr:<alias>:<rest>`, belongs to somebody else.
async fn is_others_record(session: &Session, key: &str, rest: &str) -> Result<bool, ControlError> {
    let mut get = pipe();
    get.cmd("GETRANGE").arg(key).arg(0).arg(LONGEST_RECORD);
    let text = match session.store.query::<(Vec<u8>,)>(&get).await {
        Ok((text,)) => text,
        Err(ControlError::Malformed { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let record: Value = serde_json::from_slice(&text).unwrap_or_default();
    match record["agent_name"].as_str() {
        Some(owner) => Ok(owner != session.alias),
        None => is_any_registered(session, &longer_names(&session.alias, rest)).await,
    }
}

async fn is_any_registered(session: &Session, aliases: &[String]) -> Result<bool, ControlError> {
    if aliases.is_empty() {
        return Ok(false);
    }
    let keys: Vec<String> = aliases
        .iter()
        .map(|alias| session.keys.agent(alias))
        .collect();
    let mut exists = pipe();
    exists.cmd("EXISTS").arg(keys);
    let (count,): (u64,) = session.store.query(&exists).await?;
    Ok(count > 0)
}

/// The aliases longer than `alias` that may own `<alias>:<rest>`: each colon in `rest` may end one.
fn longer_names(alias: &str, rest: &str) -> Vec<String> {
    rest.match_indices(':')
        .map(|(at, _)| format!("{alias}:{}", &rest[..at]))
        .collect()
}

/// For an exchange key that is about `alias`, the aliases that it may be about instead; `None` if it is not
/// about `alias`. There are three kinds: `<me>:<peer>[:<connection>]`, `<peer>:<me>` and
/// `<peer>:<me>:<peer>:<device>...-><me>:<device>...`.
fn exchange_rivals(alias: &str, parts: &str) -> Option<Vec<String>> {
    if let Some(rest) = parts
        .strip_prefix(alias)
        .and_then(|rest| rest.strip_prefix(':'))
    {
        return Some(longer_names(alias, rest));
    }
    if let Some(peer) = parts
        .strip_suffix(alias)
        .and_then(|peer| peer.strip_suffix(':'))
    {
        let longer = |(at, _)| format!("{}:{alias}", &peer[at + 1..]);
        return Some(peer.match_indices(':').map(longer).collect());
    }
    let is_connection =
        parts.contains(&format!(":{alias}:")) && parts.contains(&format!("->{alias}:"));
    is_connection.then(Vec::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_longer_name_that_a_key_may_belong_to_is_considered() {
        assert!(longer_names("w", "ring").is_empty());
        assert_eq!(longer_names("w", "0:rpc:x"), ["w:0", "w:0:rpc"]);
    }

    #[test]
    fn exchanges_of_ours_are_told_from_those_of_others() {
        let none: Vec<String> = Vec::new();
        assert_eq!(exchange_rivals("w", "w:p"), Some(none.clone()));
        assert_eq!(exchange_rivals("w", "w:0:p"), Some(vec!["w:0".to_owned()]));
        assert_eq!(exchange_rivals("w", "p:w"), Some(none.clone()));
        assert_eq!(exchange_rivals("0", "p:w:0"), Some(vec!["w:0".to_owned()]));
        let connection = "p:w:p:rxe0:port1->w:rxe0:port1#qp1";
        assert_eq!(exchange_rivals("w", connection), Some(none));
        assert_eq!(exchange_rivals("rxe0", connection), None);
        assert_eq!(exchange_rivals("w", "p:q"), None);
        assert_eq!(exchange_rivals("w", "ww:q"), None);
    }
}

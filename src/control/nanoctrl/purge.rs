//! Deletes what an earlier incarnation under this name left in Redis, as DLSlime's agents do when
//! they start.
//!
//! DLSlime deletes by pattern, and the patterns of alias `w` also match keys of alias `w:0`. This
//! module deletes what the index of the name lists, except records that name another owner. It does
//! not find what DLSlime's agents leave without the server's knowledge: the keys `exchange:..`,
//! which no agent reads, and records of agents that talked to another server alone.

use redis::pipe;

use super::session::Session;
use crate::control::{ControlError, record_owner::record_owner};

/// Longest beginning of a record that is read to learn its owner.
const LONGEST_RECORD: usize = 64 << 10;

/// Deletes stale records and clean-up events. The stream stays: peers that came up first have
/// written to it already.
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
    get.cmd("GETRANGE").arg(key).arg(0).arg(LONGEST_RECORD);
    let text = match session.store.query::<(Vec<u8>,)>(&get).await {
        Ok((text,)) => text,
        Err(ControlError::Malformed { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(record_owner(&text).is_some_and(|owner| owner != session.alias))
}

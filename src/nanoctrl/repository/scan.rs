//! Finding keys by pattern without blocking Redis.

use std::collections::BTreeSet;

use redis::RedisResult;
use redis::aio::ConnectionManager;

use crate::control::keys::Keys;

/// Keys that Redis looks at in one step.
const STEP: usize = 2000;

/// Keys or values that are asked for in one command.
pub(super) const CHUNK: usize = 512;

/// `text` as a pattern that matches only itself.
pub(super) fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// Patterns for keys in the scope of `keys`: names put into them are taken as patterns, the scope is not.
pub(super) fn patterns(keys: &Keys) -> Keys {
    Keys::new(literal(keys.scope()))
}

/// The keys that match `pattern`, each once.
pub(super) async fn scan(
    redis: &mut ConnectionManager,
    pattern: &str,
) -> RedisResult<BTreeSet<Vec<u8>>> {
    let mut found = BTreeSet::new();
    let mut cursor = 0_u64;
    loop {
        let (next, keys): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(STEP)
            .query_async(redis)
            .await?;
        found.extend(keys);
        if next == 0 {
            return Ok(found);
        }
        cursor = next;
    }
}

/// What follows `prefix` in `key`.
pub(super) fn suffix<'a>(key: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    key.strip_prefix(prefix.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_pattern_keeps_ordinary_names() {
        assert_eq!(literal("worker:0"), "worker:0");
        assert_eq!(literal("größe"), "größe");
    }

    #[test]
    fn a_literal_pattern_disarms_glob_characters() {
        assert_eq!(literal(r"a*?[b]\c"), r"a\*\?\[b\]\\c");
    }

    #[test]
    fn a_pattern_takes_the_scope_literally_and_the_name_as_a_pattern() {
        assert_eq!(patterns(&Keys::new("j*")).agent("*"), r"j\*:agent:*");
    }
}

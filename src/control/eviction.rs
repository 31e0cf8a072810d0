//! Detects a Redis that evicts keys when its memory is full.

use redis::Value;

/// The commands that return the policy, in the order of trying: a managed Redis refuses some of
/// them.
pub(crate) const QUESTIONS: [&[&str]; 2] =
    [&["INFO", "memory"], &["CONFIG", "GET", "maxmemory-policy"]];

/// Converts an answer to text; the answer to `CONFIG GET` is a list.
pub(crate) fn text(answer: Value) -> String {
    match answer {
        Value::Array(items) => {
            let items: Vec<_> = items.into_iter().map(text).collect();
            items.join("\n")
        }
        Value::Map(pairs) => {
            let pairs = pairs
                .into_iter()
                .map(|(name, value)| text(name) + "\n" + &text(value));
            pairs.collect::<Vec<_>>().join("\n")
        }
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text,
        _ => String::new(),
    }
}

/// The eviction policy in the answer to one of the [`QUESTIONS`], if it evicts keys that are in
/// use.
pub(crate) fn policy(answer: &str) -> Option<&str> {
    let mut words = answer.split([':', '\r', '\n']);
    words.find(|word| matches!(*word, "maxmemory_policy" | "maxmemory-policy"))?;
    let policy = words.find(|word| !word.is_empty())?;
    (policy != "noeviction").then_some(policy)
}

/// Warns what a policy means for agents.
pub(crate) fn warn(redis: &str, policy: &str) {
    tracing::warn!(
        redis,
        policy,
        "Redis removes keys when its memory is full: agents and services then vanish until their next heartbeat; set its \
         maxmemory-policy to noeviction"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_removes_keys_is_found_in_either_answer() {
        let info = |policy: &str| format!("# Memory\r\nused:1\r\nmaxmemory_policy:{policy}\r\nx:y");
        assert_eq!(policy(&info("allkeys-lru")), Some("allkeys-lru"));
        assert_eq!(policy(&info("noeviction")), None);
        assert_eq!(
            policy("maxmemory-policy\nvolatile-ttl"),
            Some("volatile-ttl")
        );
        for other in [
            "",
            "maxmemory_policy:",
            "NOPERM",
            "maxmemory-policy\nnoeviction",
        ] {
            assert_eq!(policy(other), None, "{other}");
        }
    }
}

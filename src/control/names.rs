//! Checks aliases and scopes.

use super::{ControlError, keys::KINDS};

/// Longest alias or scope, in bytes.
const LONGEST: usize = 256;

/// Checks the alias that an agent wants to register under.
pub(crate) fn check_alias(name: &str) -> Result<(), ControlError> {
    if name.is_empty() {
        return Err(bad(name, "alias", "it is empty"));
    }
    check(name, "alias")
}

/// Checks a scope; the empty one means "none" and is allowed. An agent `x` of the scope `agent`
/// would have the key of an agent `agent:x` without scope.
pub(crate) fn check_scope(name: &str) -> Result<(), ControlError> {
    check(name, "scope")?;
    if name.split(':').any(|part| KINDS.contains(&part)) {
        return Err(bad(
            name,
            "scope",
            "it contains a word that tells what a key in Redis is (`agent`, `exchange`, `inbox`, `mr`, `nano_events`, \
             `nano_meta`, `obs`, `service`, `spec` or `stream`), so its keys would be those of another scope",
        ));
    }
    Ok(())
}

/// Refuses characters that break names: `/` breaks the topology URL, and the server puts names
/// unescaped into the patterns that it deletes keys by.
fn check(name: &str, what: &'static str) -> Result<(), ControlError> {
    if name.len() > LONGEST {
        let start: String = name.chars().take(32).collect();
        return Err(bad(
            &format!("{start}..."),
            what,
            "it is longer than 256 bytes",
        ));
    }
    if name.contains('/') {
        return Err(bad(name, what, "it contains `/`"));
    }
    if name.contains(['*', '?', '[', ']', '\\']) {
        return Err(bad(
            name,
            what,
            "it contains a pattern character (`*`, `?`, `[`, `]` or `\\`)",
        ));
    }
    if name.chars().any(char::is_control) {
        return Err(bad(name, what, "it contains a control character"));
    }
    Ok(())
}

fn bad(name: &str, what: &'static str, reason: &'static str) -> ControlError {
    ControlError::BadName {
        name: name.escape_debug().to_string(),
        what,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_accepted() {
        for name in ["a", "worker:0", "agent-1f", "größe", "a b"] {
            assert!(check_alias(name).is_ok(), "{name}");
        }
        assert!(check_scope("").is_ok());
    }

    #[test]
    fn a_scope_that_spells_a_kind_of_key_is_refused() {
        for scope in ["agent", "job:stream", "mr:w", "spec", "service:x"] {
            let error = check_scope(scope).expect_err("its keys are another scope's");
            assert!(error.to_string().contains("tells what a key"), "{error}");
        }
        for scope in ["agents", "my-agent", "job:streams"] {
            assert!(check_scope(scope).is_ok(), "{scope}");
        }
        assert!(check_alias("agent:0").is_ok());
    }

    #[test]
    fn input_1_names_that_would_be_patterns_or_paths_are_refused() {
        for name in ["", "a/b", "a*", "a?", "[a", "a]", "a\\", "a\nb", "a\0"] {
            assert!(
                matches!(check_alias(name), Err(ControlError::BadName { .. })),
                "{name:?}"
            );
        }
    }

    #[test]
    fn input_1_a_name_has_at_most_256_bytes_and_its_error_is_short() {
        assert!(check_scope(&"s".repeat(256)).is_ok());
        let error = check_scope(&"s".repeat(1 << 20)).expect_err("too long");
        assert!(error.to_string().len() < 200);
    }
}

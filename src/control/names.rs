//! Aliases and scopes: which are allowed, and in which order lists show them.

use std::cmp::Ordering;

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

/// Compares two names; runs of digits count as numbers. Different names are never equal.
///
/// ```
/// use slimerpc::control::natural_order;
/// let mut names = ["worker:10", "worker:2"];
/// names.sort_by(|a, b| natural_order(a, b));
/// assert_eq!(names, ["worker:2", "worker:10"]);
/// ```
pub fn natural_order(a: &str, b: &str) -> Ordering {
    runs(a).cmp(runs(b)).then_with(|| a.cmp(b))
}

/// A part of a name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Run<'a> {
    /// Number of digits and digits, without leading zeros.
    Number(usize, &'a str),
    Text(&'a str),
}

fn runs(name: &str) -> impl Iterator<Item = Run<'_>> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let is_number = rest.chars().next()?.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != is_number);
        let (run, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(if is_number {
            let digits = run.trim_start_matches('0');
            Run::Number(digits.len(), digits)
        } else {
            Run::Text(run)
        })
    })
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

#[cfg(test)]
mod order_tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_counted() {
        let mut names = [
            "worker:10",
            "worker:2",
            "b",
            "worker:1",
            "worker",
            "worker:1:10",
            "worker:1:9",
            "7",
            "worker:01",
            "wörker:0",
            "worker:184467440737095516160",
            "worker:184467440737095516159",
        ];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(
            names,
            [
                "7",
                "b",
                "worker",
                "worker:01",
                "worker:1",
                "worker:1:9",
                "worker:1:10",
                "worker:2",
                "worker:10",
                "worker:184467440737095516159",
                "worker:184467440737095516160",
                "wörker:0",
            ]
        );
    }

    #[test]
    fn different_names_are_never_equal() {
        assert_ne!(natural_order("a01", "a1"), Ordering::Equal);
        assert_eq!(natural_order("a0", "a0"), Ordering::Equal);
        assert_eq!(natural_order("", "a"), Ordering::Less);
    }
}

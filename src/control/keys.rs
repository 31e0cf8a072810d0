//! Names of the Redis keys that agents and the server share: those of DLSlime 0.1.23, and those of
//! this project's indexes.
//!
//! DLSlime joins scope, kind and names with `:`, and finds keys by pattern. The indexes list what
//! exists without a scan over unrelated keys. Their names contain no `:`, so no scope, alias or
//! entity can produce one.

/// Parts of keys that name their kind. A scope that contains one of them between colons would
/// produce keys of another scope.
pub(crate) const KINDS: [&str; 10] = [
    "agent",
    "exchange",
    "inbox",
    "mr",
    "nano_events",
    "nano_meta",
    "obs",
    "service",
    "spec",
    "stream",
];

/// Builds the keys of one scope: the prefix `<scope>:`, or no prefix for the empty scope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys {
    scope: String,
}

impl Keys {
    /// Makes the keys of `scope`; empty for none.
    ///
    /// ```
    /// use slimerpc::control::keys::Keys;
    /// assert_eq!(Keys::new("").agent("w:0"), "agent:w:0");
    /// assert_eq!(Keys::new("job").stream("w:0"), "job:stream:w:0");
    /// ```
    pub fn new(scope: impl Into<String>) -> Self {
        Self {
            scope: scope.into(),
        }
    }

    /// The scope of these keys.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The key `name` in this scope.
    pub fn scoped(&self, name: &str) -> String {
        if self.scope.is_empty() {
            name.to_owned()
        } else {
            format!("{}:{name}", self.scope)
        }
    }

    /// Hash of a registered agent.
    pub fn agent(&self, alias: &str) -> String {
        self.scoped(&format!("agent:{alias}"))
    }

    /// Stream of connection messages to an agent.
    pub fn stream(&self, alias: &str) -> String {
        self.scoped(&format!("stream:{alias}"))
    }

    /// Set of peers that an agent wants to be connected with.
    pub fn topology(&self, alias: &str) -> String {
        self.scoped(&format!("spec:topology:{alias}"))
    }

    /// A record that an agent has published.
    pub fn region(&self, alias: &str, name: &str) -> String {
        self.scoped(&format!("mr:{alias}:{name}"))
    }

    /// Lists of clean-up events for an agent. Without a scope there are two: DLSlime's agents
    /// listen on `:inbox:<alias>` while its server pushes to `inbox:<alias>`.
    pub fn inboxes(&self, alias: &str) -> Vec<String> {
        let mut keys = vec![self.scoped(&format!("inbox:{alias}"))];
        if self.scope.is_empty() {
            keys.push(format!(":inbox:{alias}"));
        }
        keys
    }

    /// What an agent says of itself.
    pub fn obs(&self, alias: &str) -> String {
        self.scoped(&format!("obs:peer:{alias}"))
    }

    /// Counter that generated aliases are made from.
    pub fn agent_counter(&self) -> String {
        self.scoped("agent_name_counter")
    }

    /// Old record of the connection between two agents, which only old peers still write.
    pub fn exchange(&self, from: &str, to: &str) -> String {
        self.scoped(&format!("exchange:{from}:{to}"))
    }

    /// Hash of a registered entity. The type `agent` gives the same key as [`agent`](Self::agent).
    pub fn entity(&self, entity_type: &str, id: &str) -> String {
        self.scoped(&format!("{entity_type}:{id}"))
    }

    /// Counter of the changes to the entities of a type.
    pub fn entity_revision(&self, entity_type: &str) -> String {
        self.scoped(&format!("nano_meta:{entity_type}_revision"))
    }

    /// Channel on which changes to the entities of a type are published.
    pub fn entity_events(&self, entity_type: &str) -> String {
        self.scoped(&format!("nano_events:{entity_type}_update"))
    }

    /// Set of the aliases that are registered in this scope. Some may have expired.
    pub fn agents(&self) -> String {
        format!("nanoctrl/agents/{}", self.index_name())
    }

    /// Set of the aliases that have declared a topology in this scope. Some may have expired.
    pub fn topologies(&self) -> String {
        format!("nanoctrl/topologies/{}", self.index_name())
    }

    /// Set of the keys of the entities of this scope. Some may have expired.
    pub fn entities(&self) -> String {
        format!("nanoctrl/entities/{}", self.index_name())
    }

    /// Set of the keys of the records that `alias` has published.
    pub fn records(&self, alias: &str) -> String {
        format!("nanoctrl/records/{}/{}", self.index_name(), escape(alias))
    }

    /// The scope as the names of indexes contain it.
    pub(crate) fn index_name(&self) -> String {
        escape(&self.scope)
    }

    /// The keys of the scope that has this [`index_name`](Self::index_name).
    #[cfg(any(test, feature = "server"))]
    pub(crate) fn from_index_name(name: &str) -> Self {
        Self::new(
            name.replace("%3A", ":")
                .replace("%2F", "/")
                .replace("%25", "%"),
        )
    }

    /// The indexes of all other aliases that may own the record at `key`: `mr:w:0:x` is the record
    /// `0:x` of `w`, or `x` of `w:0`.
    pub(crate) fn rival_records(&self, key: &str, alias: &str) -> Vec<String> {
        let rest = key.strip_prefix(&self.scoped("mr:")).unwrap_or_default();
        let owners = rest.match_indices(':').map(|(at, _)| &rest[..at]);
        owners
            .filter(|owner| *owner != alias)
            .map(|owner| self.records(owner))
            .collect()
    }
}

/// `name` with `:` and `/` escaped.
fn escape(name: &str) -> String {
    name.replace('%', "%25")
        .replace('/', "%2F")
        .replace(':', "%3A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_indexes_are_told_apart_whatever_they_contain() {
        let keys = |scope: &str| Keys::new(scope);
        assert_eq!(keys("").agents(), "nanoctrl/agents/");
        assert_eq!(keys("a:b").records("w:0"), "nanoctrl/records/a%3Ab/w%3A0");
        assert_ne!(keys("a").records("b/c"), keys("a/b").records("c"));
        assert_ne!(keys("a").records("%3A"), keys("a").records(":"));
        for scope in ["", "job", "a:b/c%", "%3A", "%253A"] {
            assert_eq!(
                Keys::from_index_name(&keys(scope).index_name()),
                keys(scope)
            );
        }
    }

    #[test]
    fn every_alias_that_a_record_may_belong_to_is_a_rival() {
        let keys = Keys::new("job");
        let key = keys.region("w", "0:rpc:x");
        let rivals = ["w:0", "w:0:rpc"].map(|alias| keys.records(alias));
        assert_eq!(keys.rival_records(&key, "w"), rivals);
        assert!(keys.rival_records("job:mr:w:ring", "w").is_empty());
        assert_eq!(
            keys.rival_records("job:mr:w:0:x", "w:0"),
            [keys.records("w")]
        );
    }
}

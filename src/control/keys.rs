//! Names of the Redis keys (DLSlime 0.1.23), shared by agents and server.

/// Builds keys for one scope: `<scope>:` in front of everything, nothing for the empty scope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys {
    scope: String,
}

impl Keys {
    /// Keys of `scope`; empty for none.
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

    /// The scope.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// `name` in this scope.
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

    /// Peers that an agent wants to be connected with.
    pub fn topology(&self, alias: &str) -> String {
        self.scoped(&format!("spec:topology:{alias}"))
    }

    /// A published record of an agent.
    pub fn region(&self, alias: &str, name: &str) -> String {
        self.scoped(&format!("mr:{alias}:{name}"))
    }

    /// Lists of clean-up events for an agent. Without a scope there are two: DLSlime's agents listen on
    /// `:inbox:<alias>` while its server pushes to `inbox:<alias>`.
    pub fn inboxes(&self, alias: &str) -> Vec<String> {
        let mut keys = vec![self.scoped(&format!("inbox:{alias}"))];
        if self.scope.is_empty() {
            keys.push(format!(":inbox:{alias}"));
        }
        keys
    }

    /// Counter from which names of agents are generated.
    pub fn agent_counter(&self) -> String {
        self.scoped("agent_name_counter")
    }

    /// Old record of the connection between two agents; nobody writes it any more but peers of long ago.
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
}

//! Messages that agents exchange through the control plane.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A message for another agent: flat text fields, like a Redis stream entry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mail {
    /// The field `type`: `connect_peer`, `qp_ready` or a type of this project. Readers skip unknown
    /// ones.
    pub kind: String,
    /// The other fields; `peer` is the sender's alias.
    pub fields: BTreeMap<String, String>,
}

impl Mail {
    /// Makes mail of `kind` without fields.
    ///
    /// ```
    /// use slimerpc::control::Mail;
    /// let mail = Mail::new("qp_ready").with("peer", "driver:0");
    /// assert_eq!(mail.peer(), Some("driver:0"));
    /// ```
    pub fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            fields: BTreeMap::new(),
        }
    }

    /// Tells an agent that it wants to be connected with `peer`, as a server does.
    pub(super) fn connect_peer(peer: &str) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self::new("connect_peer")
            .with("peer", peer)
            .with("timestamp", now.as_secs_f64().to_string())
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, field: impl Into<String>, value: impl Into<String>) -> Self {
        self.fields.insert(field.into(), value.into());
        self
    }

    /// Alias of the sender, if the mail names one.
    pub fn peer(&self) -> Option<&str> {
        self.get("peer")
    }

    /// The value of a field.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }
}

/// An event in the mail of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MailEvent {
    /// Mail from a peer or from the server.
    Mail(Mail),
    /// A peer has left cleanly (the `cleanup` event of the inbox list).
    Left {
        /// Alias of the peer.
        peer: String,
    },
}

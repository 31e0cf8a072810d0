//! Messages between agents, by way of the control plane.

use std::collections::BTreeMap;

/// A message for another agent: flat text fields, as a Redis stream entry is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mail {
    /// The field `type`: `connect_peer`, `qp_ready` or one of our own. Readers skip unknown ones.
    pub kind: String,
    /// The other fields, `peer` (the sender's alias) among them.
    pub fields: BTreeMap<String, String>,
}

impl Mail {
    /// Mail of `kind` without fields.
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

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, field: impl Into<String>, value: impl Into<String>) -> Self {
        self.fields.insert(field.into(), value.into());
        self
    }

    /// The sender, if the mail names one.
    pub fn peer(&self) -> Option<&str> {
        self.get("peer")
    }

    /// A field.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }
}

/// What arrives in a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailEvent {
    /// Mail from a peer or the server.
    Mail(Mail),
    /// A peer has left cleanly (the `cleanup` event of the inbox list).
    Left {
        /// Its alias.
        peer: String,
    },
}

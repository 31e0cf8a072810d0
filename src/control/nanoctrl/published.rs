//! What an agent has published, remembered in case the control plane loses it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::control::Entity;

/// What has to be published again after the control plane has lost it.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) records: BTreeMap<String, Value>,
    pub(super) topology: Option<Vec<String>>,
    /// Entities by id.
    pub(super) entities: BTreeMap<String, Entity>,
    /// Counts changes of `records`.
    pub(super) version: u64,
}

impl Published {
    /// Names of the records, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        self.records.keys().cloned().collect()
    }

    /// Adds or replaces a record.
    pub(super) fn insert(&mut self, name: &str, record: Value) {
        self.records.insert(name.to_owned(), record);
        self.version += 1;
    }

    /// Removes a record.
    pub(super) fn remove(&mut self, name: &str) {
        self.records.remove(name);
        self.version += 1;
    }

    /// The records of `earlier`, published at `version`, that have been removed since.
    pub(super) fn removed_since(
        &self,
        version: u64,
        earlier: &BTreeMap<String, Value>,
    ) -> Vec<String> {
        if self.version == version {
            return Vec::new();
        }
        earlier
            .keys()
            .filter(|name| !self.records.contains_key(*name))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_removed_while_all_are_published_is_noticed() {
        let mut published = Published::default();
        published.insert("b", json!(1));
        published.insert("a", json!(1));
        assert_eq!(published.names(), ["a", "b"]);
        let (version, records) = (published.version, published.records.clone());
        assert!(published.removed_since(version, &records).is_empty());
        published.insert("b", json!(2));
        published.remove("a");
        assert_eq!(published.removed_since(version, &records), ["a"]);
    }
}

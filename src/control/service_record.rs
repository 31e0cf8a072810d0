//! What an agent publishes of a service that accepts any caller.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire::{Signature, any_signatures, names};

use super::{Entity, names::check_alias, process, topology::boot_id};

/// A service as it is registered, in the metadata of an [`Entity`] of the kind
/// [`KIND`](Self::KIND).
///
/// The record contains what a caller needs to choose among several services. What it needs to
/// connect (geometry, devices) stands in the agent's record, which is read then.
///
/// ```
/// use slimerpc::control::ServiceRecord;
/// let record = ServiceRecord {
///     alias: "worker:0".to_owned(),
///     incarnation: 0x1f,
///     name: "second".to_owned(),
///     type_name: "Calc".to_owned(),
///     methods: vec!["add".to_owned()],
///     signatures: Vec::new(),
///     codec: "bincode".to_owned(),
///     wire_version: 1,
///     since: 1_795_331_391_000,
///     process: ServiceRecord::this_process(),
/// };
/// let entity = record.entity("worker:0/second");
/// assert_eq!(entity.metadata["service"], "second");
/// assert_eq!(ServiceRecord::read(&entity), Ok(record));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// Alias of the agent that serves it.
    pub alias: String,
    /// Incarnation of that agent; in JSON hexadecimal text, because not every reader knows 64-bit
    /// integers.
    #[serde(with = "hexadecimal")]
    pub incarnation: u64,
    /// Name under which the service is served.
    #[serde(rename = "service", deserialize_with = "names::name")]
    pub name: String,
    /// The service's own name.
    #[serde(rename = "type", deserialize_with = "names::name")]
    pub type_name: String,
    /// Names of its methods; a method's number is its index.
    #[serde(deserialize_with = "names::names")]
    pub methods: Vec<String>,
    /// The types that each method takes and returns. Earlier releases register none.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "any_signatures"
    )]
    pub signatures: Vec<Signature>,
    /// Name of the codec of its payloads.
    pub codec: String,
    /// Version of the protocol between native agents.
    pub wire_version: u32,
    /// When it was first offered, in milliseconds of Unix time.
    pub since: u64,
    /// The process that serves it, for readers on the same host.
    #[serde(default)]
    pub process: Value,
}

impl ServiceRecord {
    /// The kind of entities that hold such records.
    pub const KIND: &'static str = "rpc-worker";

    /// Describes this process, for [`process`](Self::process).
    pub fn this_process() -> Value {
        process::this()
    }

    /// Makes an entity with this record.
    pub fn entity(&self, id: impl Into<String>) -> Entity {
        Entity {
            id: id.into(),
            kind: Self::KIND.to_owned(),
            metadata: serde_json::to_value(self).expect("a record has string keys only"),
        }
    }

    /// Reads the record of an entity. Any agent may have registered it, so every field is checked.
    ///
    /// # Errors
    /// A text that says what is wrong with the record.
    pub fn read(entity: &Entity) -> Result<Self, String> {
        if entity.kind != Self::KIND {
            return Err("it is of another kind".to_owned());
        }
        let record = Self::deserialize(&entity.metadata).map_err(|error| error.to_string())?;
        check_alias(&record.alias).map_err(|error| error.to_string())?;
        if record.signatures.len() > record.methods.len() {
            return Err("it has more signatures than methods".to_owned());
        }
        Ok(record)
    }

    /// Returns whether the service is on this host.
    pub fn is_on_this_host(&self) -> bool {
        let theirs = self.process.get("boot_id").and_then(Value::as_str);
        theirs.is_some_and(|theirs| theirs == boot_id())
    }

    /// Returns whether the process that served it is proved to have ended without leaving. False if
    /// that cannot be known from here.
    pub fn is_gone(&self) -> bool {
        process::is_gone(&self.process)
    }
}

mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{number:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record() -> ServiceRecord {
        ServiceRecord {
            alias: "w:0".to_owned(),
            incarnation: u64::MAX,
            name: "Calc".to_owned(),
            type_name: "Calc".to_owned(),
            methods: vec!["add".to_owned()],
            signatures: Vec::new(),
            codec: "bincode".to_owned(),
            wire_version: 1,
            since: 1,
            process: process::this(),
        }
    }

    #[test]
    fn a_record_survives_registration_and_knows_its_host() {
        let record = record();
        assert_eq!(
            ServiceRecord::read(&record.entity("id")).as_ref(),
            Ok(&record)
        );
        assert!(record.is_on_this_host() && !record.is_gone());
        let elsewhere = ServiceRecord {
            process: json!({"boot_id": "another"}),
            ..record
        };
        assert!(!elsewhere.is_on_this_host() && !elsewhere.is_gone());
    }

    #[test]
    fn fields_of_later_versions_are_ignored() {
        let mut entity = record().entity("id");
        entity.metadata["region"] = json!("eu");
        assert!(ServiceRecord::read(&entity).is_ok());
        for signatures in [
            json!(null),
            json!("hello"),
            json!([7]),
            json!([{"text": [7]}]),
        ] {
            entity.metadata["signatures"] = signatures;
            assert_eq!(ServiceRecord::read(&entity), Ok(record()));
        }
    }

    #[test]
    fn input_1_metadata_that_is_no_record_is_refused() {
        for (name, value) in [
            ("alias", json!("a/b")),
            ("alias", json!("")),
            ("alias", json!(null)),
            ("incarnation", json!(7)),
            ("incarnation", json!("-1")),
            ("incarnation", json!("10000000000000000")),
            ("service", json!("")),
            ("type", json!("x".repeat(1025))),
            ("methods", json!("add")),
            ("methods", json!([""])),
            ("methods", json!(vec!["add"; 4097])),
            ("signatures", json!(vec![json!({}); 2])),
            ("wire_version", json!(-1)),
            ("since", json!(0.5)),
        ] {
            let mut entity = record().entity("id");
            entity.metadata[name] = value;
            assert!(ServiceRecord::read(&entity).is_err(), "{name}");
        }
        for metadata in [json!(null), json!([]), json!({}), json!("Calc")] {
            let odd = Entity {
                metadata,
                ..record().entity("id")
            };
            assert!(ServiceRecord::read(&odd).is_err());
        }
        let other = Entity {
            kind: "cache".to_owned(),
            ..record().entity("id")
        };
        assert!(ServiceRecord::read(&other).is_err());
    }
}

//! Reads the answers of Redis: mail, events and what agents have published about themselves. Any
//! client may have written it, so everything is checked.
//!
//! The stream readers of the crate `redis` refuse a whole answer for one field name that is not
//! text, so one such message would block all that follow it.

use redis::Value;

use crate::control::{ControlError, Entity, EntityEvent, Mail, MailEvent, PeerRecord};

/// Longest accepted message, in bytes of all its names and values.
const LONGEST_MAIL: usize = 1 << 20;

/// Longest accepted event about an entity, in bytes.
const LONGEST_EVENT: usize = 64 << 10;

/// Most fields of an accepted message.
const MOST_FIELDS: usize = 64;

/// An entry of a stream: its id, and its message or why it is invalid.
pub(super) type Entry = (String, Result<Mail, &'static str>);

/// The entries in the answer to XREAD on one stream; `None` if it is not such an answer.
pub(super) fn entries(answer: Value) -> Option<Vec<Entry>> {
    let Value::Array(streams) = answer else {
        return matches!(answer, Value::Nil).then(Vec::new);
    };
    let mut entries = Vec::new();
    for stream in streams {
        let Some([_, Value::Array(found)]) = pair(stream) else {
            return None;
        };
        for entry in found {
            let [id, fields] = pair(entry)?;
            entries.push((text(id)?, mail(fields)));
        }
    }
    Some(entries)
}

/// The id of the entry in an XREVRANGE answer for one; `None` if there is none.
pub(super) fn newest_id(answer: &Value) -> Option<(u64, u64)> {
    let Value::Array(entries) = answer else {
        return None;
    };
    let Value::Array(entry) = entries.first()? else {
        return None;
    };
    match entry.first()? {
        Value::BulkString(text) => id(std::str::from_utf8(text).ok()?),
        _ => None,
    }
}

/// An entry's id as numbers, which compare as ids do: `<milliseconds>-<number>`.
pub(super) fn id(text: &str) -> Option<(u64, u64)> {
    let (millis, number) = text.split_once('-')?;
    Some((millis.parse().ok()?, number.parse().ok()?))
}

/// The message in the fields of an entry.
fn mail(fields: Value) -> Result<Mail, &'static str> {
    let Value::Array(fields) = fields else {
        return Err("it has no fields");
    };
    if fields.len() > 2 * MOST_FIELDS {
        return Err("it has more than 64 fields");
    }
    if fields.iter().map(size).sum::<usize>() > LONGEST_MAIL {
        return Err("it is longer than 1 MiB");
    }
    let mut mail = Mail::default();
    let mut fields = fields.into_iter();
    while let Some(name) = fields.next() {
        let name = text(name).ok_or("a field's name is not text")?;
        let value = fields.next().and_then(text).ok_or("a field is not text")?;
        mail.fields.insert(name, value);
    }
    mail.kind = mail.fields.remove("type").ok_or("it has no type")?;
    Ok(mail)
}

/// The event in the answer to BLPOP; `None` if there was nothing to pop.
pub(super) fn notice(answer: Value) -> Option<Result<MailEvent, &'static str>> {
    pair(answer).map(|[_, payload]| left(&payload))
}

/// The event in an element of the inbox: `{"peer":"<alias>","type":"cleanup"}`.
fn left(payload: &Value) -> Result<MailEvent, &'static str> {
    let Value::BulkString(bytes) = payload else {
        return Err("it is not text");
    };
    if bytes.len() > LONGEST_MAIL {
        return Err("it is longer than 1 MiB");
    }
    let json: serde_json::Value = serde_json::from_slice(bytes).map_err(|_| "it is not JSON")?;
    if json["type"] != "cleanup" {
        return Err("its type is unknown");
    }
    let peer = json["peer"].as_str().ok_or("it names no peer")?;
    Ok(MailEvent::Left {
        peer: peer.to_owned(),
    })
}

/// The event in a message about an entity, and the counter of changes after it.
pub(super) fn entity_event(message: &[u8]) -> Result<(i64, EntityEvent), &'static str> {
    if message.len() > LONGEST_EVENT {
        return Err("it is longer than 64 KiB");
    }
    let mut json: serde_json::Value =
        serde_json::from_slice(message).map_err(|_| "it is not JSON")?;
    let revision = json["revision"].as_i64().ok_or("it has no revision")?;
    let event = match json["event_type"].as_str() {
        Some("ADD") => {
            let payload = json.get_mut("payload").ok_or("it has no payload")?;
            EntityEvent::Added(Entity::read(payload.take())?)
        }
        Some("REMOVE") => {
            let id = json["entity_id"].as_str().ok_or("it names no entity")?;
            EntityEvent::Removed { id: id.to_owned() }
        }
        _ => return Err("its type is unknown"),
    };
    Ok((revision, event))
}

/// Reads any answer of Redis in each way that readers of mail and watches do: for fuzzing.
#[cfg(fuzzing)]
pub fn read_mail(answer: &[u8]) {
    if let Ok(value) = redis::parse_redis_value(answer) {
        newest_id(&value);
        notice(value.clone());
        for (entry, _) in entries(value).into_iter().flatten() {
            id(&entry);
        }
    }
    let _ = left(&Value::BulkString(answer.to_vec()));
    let _ = entity_event(answer);
}

fn pair(value: Value) -> Option<[Value; 2]> {
    match value {
        Value::Array(items) => items.try_into().ok(),
        _ => None,
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::BulkString(bytes) => bytes.len(),
        _ => 0,
    }
}

/// Longest record read; one byte more is asked for, to notice longer ones.
pub(super) const LONGEST_RECORD: usize = 1 << 20;

/// The record in a peer's hash; `None` if there is no hash. Malformed fields count as absent.
pub(super) fn peer_record(alias: &str, fields: [Option<Vec<u8>>; 6]) -> Option<PeerRecord> {
    if fields.iter().all(Option::is_none) {
        return None;
    }
    let [address, device, ib_port, link_type, resource, topology] =
        fields.map(|field| field.and_then(|bytes| String::from_utf8(bytes).ok()));
    let json = |text: Option<String>| serde_json::from_str(&text?).ok();
    Some(PeerRecord {
        alias: alias.to_owned(),
        address: address.unwrap_or_default(),
        device,
        ib_port: ib_port.and_then(|text| text.parse().ok()),
        link_type,
        resource: json(resource).or_else(|| json(topology)),
    })
}

/// Parses a record; empty text is none.
pub(super) fn record(key: &str, text: &[u8]) -> Result<Option<serde_json::Value>, ControlError> {
    if text.is_empty() {
        return Ok(None);
    }
    let malformed = |reason| ControlError::Malformed {
        what: format!("the record `{}`", key.escape_debug()),
        reason,
    };
    if text.len() > LONGEST_RECORD {
        return Err(malformed("it is longer than 1 MiB".to_owned()));
    }
    serde_json::from_slice(text)
        .map(Some)
        .map_err(|error| malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(bytes: impl AsRef<[u8]>) -> Value {
        Value::BulkString(bytes.as_ref().to_vec())
    }

    fn entry(fields: Vec<Value>) -> Value {
        Value::Array(vec![bulk("7-0"), Value::Array(fields)])
    }

    fn answer(found: Vec<Value>) -> Value {
        Value::Array(vec![Value::Array(vec![
            bulk("stream:a"),
            Value::Array(found),
        ])])
    }

    /// What becomes of one entry with these fields.
    fn read(fields: Vec<Value>) -> Result<Mail, &'static str> {
        let mut found = entries(answer(vec![entry(fields)])).expect("the answer has its shape");
        let (id, mail) = found.remove(0);
        assert_eq!(id, "7-0");
        mail
    }

    #[test]
    fn an_entry_becomes_mail_and_the_last_of_equal_fields_counts() {
        let fields = ["type", "qp_ready", "peer", "x", "peer", "b:0"].map(bulk);
        let mail = Mail::new("qp_ready").with("peer", "b:0");
        assert_eq!(read(fields.into()), Ok(mail));
    }

    #[test]
    fn input_1_malformed_entries_keep_their_id_so_that_they_can_be_skipped() {
        let long = "x".repeat(LONGEST_MAIL);
        let cases = [
            vec![],
            vec![bulk("peer"), bulk("b")],
            vec![bulk("type")],
            vec![bulk("type"), bulk([0xff])],
            vec![bulk([0xff]), bulk("type")],
            vec![bulk("type"), Value::Nil],
            vec![bulk("type"), bulk("t"), bulk("x"), bulk(long)],
            vec![bulk("type"); 2 * MOST_FIELDS + 2],
        ];
        for fields in cases {
            assert!(read(fields).is_err());
        }
    }

    #[test]
    fn input_1_an_answer_of_another_shape_is_no_answer() {
        for odd in [
            Value::Int(1),
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![Value::Array(vec![bulk("s"), Value::Int(3)])]),
            answer(vec![Value::Nil]),
            answer(vec![Value::Array(vec![Value::Nil, Value::Nil])]),
        ] {
            assert!(entries(odd).is_none());
        }
        assert!(entries(Value::Nil).is_some_and(|none| none.is_empty()));
    }

    #[test]
    fn the_clean_up_event_names_the_peer_that_left() {
        let pop = |payload: &[u8]| notice(Value::Array(vec![bulk("inbox:a"), bulk(payload)]));
        let event = MailEvent::Left {
            peer: "b:0".to_owned(),
        };
        assert_eq!(pop(br#"{"peer":"b:0","type":"cleanup"}"#), Some(Ok(event)));
        assert_eq!(notice(Value::Nil), None);
    }

    #[test]
    fn input_1_malformed_clean_up_events_are_errors() {
        let deep = "[".repeat(100_000);
        for payload in ["", "{}", "[]", "\u{0}", r#"{"type":"cleanup"}"#, &deep] {
            let popped = notice(Value::Array(vec![bulk("inbox:a"), bulk(payload)]));
            assert!(popped.is_some_and(|event| event.is_err()), "{payload:.20}");
        }
    }

    #[test]
    fn an_event_tells_of_an_entity_that_was_registered_or_is_gone() {
        let added = br#"{"event_type":"ADD","entity_type":"service","entity_id":"e1","kind":"cache",
            "timestamp":1795331391,"revision":3,"payload":{"endpoint":null,"entity_id":"e1","entity_type":"service",
            "id":"e1","kind":"cache","metadata":{"a":1},"resource":null}}"#;
        let entity = Entity {
            id: "e1".to_owned(),
            kind: "cache".to_owned(),
            metadata: serde_json::json!({"a": 1}),
        };
        assert_eq!(entity_event(added), Ok((3, EntityEvent::Added(entity))));
        let removed = br#"{"entity_type":"service","entity_id":"e1","timestamp":"1795331394","event_type":"REMOVE","revision":4}"#;
        let id = "e1".to_owned();
        assert_eq!(entity_event(removed), Ok((4, EntityEvent::Removed { id })));
    }

    #[test]
    fn input_1_malformed_events_are_errors() {
        let deep = "[".repeat(10_000);
        let long = format!(
            r#"{{"event_type":"REMOVE","revision":1,"entity_id":"{}"}}"#,
            "x".repeat(LONGEST_EVENT)
        );
        for message in [
            "",
            "null",
            "[]",
            r#"{"event_type":"REMOVE","entity_id":"e1"}"#,
            r#"{"event_type":"REMOVE","entity_id":"e1","revision":"4"}"#,
            r#"{"event_type":"REMOVE","revision":4}"#,
            r#"{"event_type":"ADD","revision":4}"#,
            r#"{"event_type":"ADD","revision":4,"payload":{}}"#,
            r#"{"event_type":"MOVE","revision":4,"entity_id":"e1"}"#,
            &deep,
            &long,
        ] {
            assert!(entity_event(message.as_bytes()).is_err(), "{message:.40}");
        }
        assert!(entity_event(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn input_1_fields_of_a_peer_that_make_no_sense_count_as_absent() {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let odd = [
            text("10.0.0.1"),
            Some(vec![0xff]),
            text("-1"),
            None,
            text("{"),
            text(r#"{"nics":[]}"#),
        ];
        let record = peer_record("w:0", odd).expect("there is a hash");
        assert_eq!(record.address, "10.0.0.1");
        assert_eq!(
            (record.device, record.ib_port, record.link_type),
            (None, None, None)
        );
        assert_eq!(record.resource, Some(serde_json::json!({"nics": []})));
        assert_eq!(peer_record("w:0", [const { None }; 6]), None);
    }

    #[test]
    fn input_1_records_that_are_too_long_or_no_json_are_errors() {
        assert!(matches!(record("mr:a:b", b""), Ok(None)));
        assert!(matches!(record("mr:a:b", b"1"), Ok(Some(_))));
        for text in [
            &b"{"[..],
            &vec![b' '; LONGEST_RECORD + 1],
            &vec![b'['; 1000],
        ] {
            assert!(matches!(
                record("mr:a:b", text),
                Err(ControlError::Malformed { .. })
            ));
        }
    }
}

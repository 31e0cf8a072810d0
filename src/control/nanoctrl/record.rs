//! Reads what agents have published about themselves. Any client may have written it, so everything
//! is checked.

use serde_json::Value;

use crate::control::{ControlError, PeerRecord};

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
pub(super) fn record(key: &str, text: &[u8]) -> Result<Option<Value>, ControlError> {
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

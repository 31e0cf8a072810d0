//! Reads the owner of a record.

use serde::Deserialize;

/// The owner that a record names, as those of DLSlime do.
pub(crate) fn record_owner(text: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Owned {
        agent_name: String,
    }
    let owned: Owned = serde_json::from_slice(text).ok()?;
    Some(owned.agent_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_its_owner_or_none() {
        let owned = br#"{"agent_name":"w:0","device":"rxe0","addr":5}"#;
        assert_eq!(record_owner(owned).as_deref(), Some("w:0"));
        for text in [
            &b""[..],
            b"{}",
            b"7",
            b"{\"agent_name\":7}",
            b"\xff{",
            &[b'['; 9999],
        ] {
            assert_eq!(record_owner(text), None);
        }
    }
}

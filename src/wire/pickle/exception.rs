//! Exceptions, which are pickled dicts even where results are raw bytes.

use serde::Serialize;

use super::{Pickle, Value};
use crate::wire::EncodeError;

/// A DLSlime peer's description of an exception.
///
/// ```
/// use slimerpc::wire::pickle::Exception;
/// let raised = Exception {
///     type_name: "ValueError".into(),
///     message: "no".into(),
///     traceback: String::new(),
/// };
/// let mut slot = [0; 64];
/// let len = raised.encode(&mut slot).unwrap();
/// assert_eq!(Exception::decode(&slot[..len]), raised);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Exception {
    /// Name of the exception's class.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Text of the exception.
    pub message: String,
    /// Python's traceback, in many lines.
    pub traceback: String,
}

const NO_ROOM: &str = "(left out: it does not fit the slot)";

impl Exception {
    /// Encodes it to the beginning of `into`. If it does not fit, the traceback is dropped first,
    /// then more and more of the message and the name.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] if there is no room for any exception.
    pub fn encode(&self, into: &mut [u8]) -> Result<usize, EncodeError> {
        let mut shorter = match Pickle::encode(self, into) {
            Err(EncodeError::TooLarge { .. }) => self.clone(),
            encoded => return encoded,
        };
        shorter.traceback = NO_ROOM.to_owned();
        loop {
            let error = match Pickle::encode(&shorter, into) {
                Err(error) => error,
                encoded => return encoded,
            };
            let texts = [
                &mut shorter.traceback,
                &mut shorter.message,
                &mut shorter.type_name,
            ];
            let Some(text) = texts
                .into_iter()
                .max_by_key(|text| text.len())
                .filter(|text| !text.is_empty())
            else {
                return Err(error);
            };
            let half = (0..=text.len() / 2)
                .rev()
                .find(|at| text.is_char_boundary(*at));
            text.truncate(half.unwrap_or(0));
        }
    }

    /// Decodes an exception. Any bytes are one: something has failed at the peer.
    pub fn decode(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::saying("an exception that cannot be read: it has no bytes".to_owned());
        }
        let dict = match Pickle::decode(bytes) {
            Ok(Value::Dict(dict)) => dict,
            Ok(other) => return Self::saying(text(other)),
            Err(error) => {
                return Self::saying(format!("an exception that cannot be read: {error}"));
            }
        };
        let mut exception = Self::saying("<no message>".to_owned());
        for (name, value) in dict {
            match &name {
                Value::Str(name) if name == "type" => exception.type_name = text(value),
                Value::Str(name) if name == "message" => exception.message = text(value),
                Value::Str(name) if name == "traceback" => exception.traceback = text(value),
                _ => {}
            }
        }
        exception
    }

    fn saying(message: String) -> Self {
        Self {
            message,
            ..Self::default()
        }
    }
}

fn text(value: Value) -> String {
    match value {
        Value::Str(text) => text,
        Value::None => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shortened_until_it_fits() {
        let exception = Exception {
            type_name: "ValueError".to_owned(),
            message: "é".repeat(500),
            traceback: "line\n".repeat(500),
        };
        for room in [64, 100, 300, 1300, 5000] {
            let mut bytes = vec![0; room];
            let len = exception.encode(&mut bytes).unwrap();
            let read = Exception::decode(&bytes[..len]);
            assert!(
                exception.message.starts_with(&read.message),
                "{room}: {read:?}"
            );
            if room >= 1300 {
                assert_eq!(
                    (&read.type_name, &read.message),
                    (&exception.type_name, &exception.message)
                );
            }
        }
        assert!(exception.encode(&mut [0; 20]).is_err());
    }

    #[test]
    fn input_1_anything_is_an_exception() {
        for (bytes, message) in [
            (&b"\x80\x04\x8c\x02no."[..], "no"),
            (b"\x80\x04K\x07.", "7"),
            (b"\x80\x04}.", "<no message>"),
            (b"", "cannot be read"),
            (b"\x80\x02cos\nsystem\n.", "os.system"),
        ] {
            let read = Exception::decode(bytes);
            assert!(read.message.contains(message), "{read:?}");
        }
    }
}

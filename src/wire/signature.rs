//! The types that a method takes and returns, so that two sides can find out whether they agree.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::{Shape, names::list};

/// Version of the text form of shapes. Fingerprints of other versions cannot be compared.
const WAY: &str = "1-";

/// Most bytes of a signature's text that are published, for error messages. The fingerprint covers
/// all of it.
const LONGEST_TEXT: usize = 512;

/// Most bytes of a fingerprint.
const LONGEST_FINGERPRINT: usize = 64;

/// The types of a method: its arguments by name, and its result. Two sides agree on a method only
/// if their signatures have the same fingerprint (TYPE-1).
///
/// Names of arguments are part of it, without leading underscores, as names of fields are: two that
/// change places make another signature. [`Shape`] says what of a type is seen.
///
/// ```
/// use slimerpc::wire::{PayloadCodec, Shape, Signature};
///
/// let unsigned = Shape::of::<u64>(PayloadCodec::Bincode);
/// let signed = Shape::of::<i64>(PayloadCodec::Bincode);
/// let takes = |shape| Signature::of("mul").argument("a", shape).argument("b", shape);
/// let ours = takes(&unsigned).returns(&unsigned);
/// let theirs = takes(&signed).returns(&signed);
/// assert_eq!(ours.to_string(), "mul(a: u64, b: u64) -> u64");
/// assert!(ours.differs_from(&theirs));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Published")]
pub struct Signature {
    text: String,
    fingerprint: String,
    /// Known on this side only.
    #[serde(skip)]
    obstacle: Option<String>,
}

/// A signature as any client may have published it.
#[derive(Deserialize)]
struct Published {
    #[serde(default)]
    text: String,
    #[serde(default)]
    fingerprint: String,
}

impl From<Published> for Signature {
    fn from(published: Published) -> Self {
        let Published { text, fingerprint } = published;
        let fits = fingerprint.len() <= LONGEST_FINGERPRINT;
        Self {
            text: clip(text),
            fingerprint: if fits { fingerprint } else { String::new() },
            obstacle: None,
        }
    }
}

/// Reads what a peer has published as signatures: a later release may use another form.
pub(crate) fn any_signatures<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<Signature>, D::Error> {
    let published = Value::deserialize(from)?;
    Ok(list(published).unwrap_or_default())
}

/// Builds a [`Signature`]; see [`Signature::of`].
#[derive(Debug)]
#[must_use = "it is a signature when it is said what the method gives back"]
pub struct SignatureBuilder {
    text: String,
    arguments: usize,
    obstacle: Option<String>,
}

impl Signature {
    /// Starts the signature of a method, with its name.
    pub fn of(method: &str) -> SignatureBuilder {
        SignatureBuilder {
            text: format!("{method}("),
            arguments: 0,
            obstacle: None,
        }
    }

    /// Returns whether it is known to differ from `other`. Nothing is known if one has no
    /// fingerprint, or one of another version.
    pub fn differs_from(&self, other: &Self) -> bool {
        self.is_known() && other.is_known() && self.fingerprint != other.fingerprint
    }

    /// Returns whether it can be compared with those of this release.
    pub fn is_known(&self) -> bool {
        self.fingerprint.starts_with(WAY)
    }

    /// The fingerprint: equal for equal types, in every build and on every machine.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Why the service's codec cannot carry the types, if it cannot: `argument "filter": the type
    /// ..`.
    pub fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }
}

impl fmt::Display for Signature {
    /// Writes the declaration; a long one is cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A peer's text may contain anything, and goes to terminals.
        self.text
            .escape_debug()
            .try_for_each(|it| fmt::Write::write_char(f, it))
    }
}

impl SignatureBuilder {
    /// Adds an argument.
    pub fn argument(mut self, name: &str, shape: &Shape) -> Self {
        // Leading underscores silence the compiler, and mean nothing.
        let name = name.trim_start_matches('_');
        if self.arguments > 0 {
            self.text += ", ";
        }
        self.arguments += 1;
        self.text += &format!("{name}: {}", shape.text());
        self.met(shape, || format!("argument `{name}`"));
        self
    }

    fn met(&mut self, shape: &Shape, part: impl FnOnce() -> String) {
        if let Some(obstacle) = shape.obstacle() {
            self.obstacle
                .get_or_insert_with(|| format!("{}: {obstacle}", part()));
        }
    }

    /// Finishes the signature of a method that returns such a value.
    pub fn returns(mut self, shape: &Shape) -> Signature {
        self.met(shape, || "its result".to_owned());
        self.text += &format!(") -> {}", shape.text());
        self.finish()
    }

    /// Finishes the signature of a method that returns a stream of such values.
    pub fn streams(mut self, shape: &Shape) -> Signature {
        self.met(shape, || "an item of its stream".to_owned());
        self.text += &format!(") -> stream of {}", shape.text());
        self.finish()
    }

    /// Finishes the signature of a method that takes and returns raw bytes.
    pub fn raw(mut self) -> Signature {
        self.text += "raw bytes) -> raw bytes";
        self.finish()
    }

    fn finish(self) -> Signature {
        Signature {
            fingerprint: format!("{WAY}{:016x}", xxh3_64(self.text.as_bytes())),
            text: clip(self.text),
            obstacle: self.obstacle,
        }
    }
}

/// Shortens a text that is too long, and marks the cut.
fn clip(mut text: String) -> String {
    const MORE: &str = " ..";
    if text.len() > LONGEST_TEXT {
        let fits = |end: &usize| text.is_char_boundary(*end);
        let end = (0..=LONGEST_TEXT - MORE.len()).rev().find(fits);
        text.truncate(end.unwrap_or_default());
        text += MORE;
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::wire::PayloadCodec;

    fn shape<T: serde::de::DeserializeOwned>() -> Shape {
        Shape::of::<T>(PayloadCodec::Bincode)
    }

    fn mul() -> Signature {
        let number = shape::<u64>();
        let builder = Signature::of("mul").argument("a", &number);
        builder.argument("_b", &number).returns(&number)
    }

    /// Peers of other builds and releases compare with it: if this changes, so must [`WAY`].
    #[test]
    fn a_fingerprint_is_the_same_in_every_build() {
        assert_eq!(mul().to_string(), "mul(a: u64, b: u64) -> u64");
        assert_eq!(mul().fingerprint(), "1-f4f7c02681e767c0");
    }

    #[test]
    fn a_signature_comes_back_from_json_as_it_was() {
        let text = serde_json::to_string(&mul()).unwrap();
        assert_eq!(serde_json::from_str::<Signature>(&text).unwrap(), mul());
    }

    #[test]
    fn what_differs_is_told_and_what_is_unknown_is_not() {
        let of = |fingerprint: &str| -> Signature {
            serde_json::from_value(json!({"text": "mul()", "fingerprint": fingerprint})).unwrap()
        };
        assert!(!mul().differs_from(&mul()));
        assert!(mul().differs_from(&of("1-0000000000000000")));
        for unknown in ["", "2-0000000000000000", "hello"] {
            assert!(!mul().differs_from(&of(unknown)), "{unknown}");
            assert!(!of(unknown).is_known());
        }
        let number = shape::<u64>();
        let swapped = Signature::of("mul").argument("b", &number);
        let swapped = swapped.argument("a", &number).returns(&number);
        assert!(mul().differs_from(&swapped));
    }

    #[test]
    fn input_1_what_anybody_publishes_is_bounded_and_harmless() {
        let long = json!({"text": "é\u{1b}[2J".repeat(10_000), "fingerprint": "1".repeat(10_000), "more": [1]});
        let long: Signature = serde_json::from_value(long).unwrap();
        assert!(long.text.len() <= LONGEST_TEXT && long.fingerprint.is_empty());
        assert!(!long.to_string().contains('\u{1b}'), "{long}");
        let odd: Signature = serde_json::from_value(json!({})).unwrap();
        assert!(!odd.is_known());
        for wrong in [json!([]), json!({"text": 1}), json!("text")] {
            let read = serde_json::from_value::<Signature>(wrong);
            assert!(read.is_err() || !read.unwrap().is_known());
        }
    }

    #[test]
    fn a_raw_method_is_another_than_one_of_bytes() {
        let (of, bytes) = (|| Signature::of("load"), shape::<Vec<u8>>());
        let typed = of().argument("bytes", &bytes).returns(&bytes);
        assert!(of().raw().differs_from(&typed));
        let streamed = of().argument("bytes", &bytes).streams(&bytes);
        assert!(streamed.differs_from(&typed));
    }
}

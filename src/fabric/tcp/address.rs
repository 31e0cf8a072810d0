//! Where a queue pair listens, and the key that opens it.

use std::fmt;
use std::hint::black_box;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fabric::{FabricError, software};

/// What a peer needs to reach a queue pair of the tcp fabric.
///
/// ```
/// use slimerpc::fabric::tcp::TcpAddress;
/// let json = r#"{"socket":"192.0.2.1:4000","key":"000102030405060708090a0b0c0d0e0f"}"#;
/// let address: TcpAddress = serde_json::from_str(json)?;
/// assert_eq!(serde_json::to_string(&address)?, json);
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpAddress {
    /// Host and port that the owner can be dialled at.
    pub socket: SocketAddr,
    /// What a peer must show.
    pub key: TcpKey,
    /// Whether it speaks TLS, and nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
}

/// A random key of 128 bits. It is compared in constant time and not shown by `Debug`; as a record
/// it is 32 hexadecimal digits.
#[derive(Clone, Copy)]
pub struct TcpKey([u8; 16]);

impl TcpKey {
    /// The key of these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(super) fn draw() -> Result<Self, FabricError> {
        software::random().map(Self)
    }

    pub(super) fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl PartialEq for TcpKey {
    fn eq(&self, other: &Self) -> bool {
        let [ours, theirs] = [self, other].map(|key| u128::from_ne_bytes(key.0));
        // All bits are looked at before anything is decided.
        black_box(ours ^ theirs) == 0
    }
}

impl Eq for TcpKey {}

impl fmt::Debug for TcpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TcpKey(..)")
    }
}

/// A text that is not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the key of a tcp address has 32 hexadecimal digits")]
pub struct MalformedKey;

impl FromStr for TcpKey {
    type Err = MalformedKey;

    fn from_str(text: &str) -> Result<Self, MalformedKey> {
        let is_hex = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex);
        number.map(|n| Self(n.to_be_bytes())).ok_or(MalformedKey)
    }
}

impl Serialize for TcpKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", u128::from_be_bytes(self.0)))
    }
}

impl<'de> Deserialize<'de> for TcpKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_travels_as_hexadecimal_digits_and_is_not_shown() {
        let text = "000102030405060708090a0b0c0d0eff";
        let key: TcpKey = text.parse().unwrap();
        assert_eq!(serde_json::to_value(key).unwrap(), text);
        assert_eq!(serde_json::from_value::<TcpKey>(text.into()).unwrap(), key);
        assert_ne!(key, TcpKey::new([0; 16]));
        assert!(!format!("{key:?}").contains("0e"));
        let long = format!("{text}0");
        for bad in ["", "00", "+00102030405060708090a0b0c0d0eff", &long] {
            assert_eq!(bad.parse::<TcpKey>(), Err(MalformedKey), "{bad}");
        }
    }
}

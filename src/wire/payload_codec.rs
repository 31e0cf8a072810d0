//! The choice between the codecs of typed payloads.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Bincode, DecodeError, EncodeError, Pickle};

/// A codec of typed payloads, chosen at run time.
///
/// ```
/// use slimerpc::wire::PayloadCodec;
/// let mut slot = [0; 64];
/// let len = PayloadCodec::Pickle.encode(&(1, "two"), &mut slot).unwrap();
/// let back: (i64, String) = PayloadCodec::Pickle.decode(&slot[..len]).unwrap();
/// assert_eq!(back, (1, "two".to_owned()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum PayloadCodec {
    /// Compact and fast: the default between native peers.
    #[default]
    Bincode,
    /// Self-describing: the codec of DLSlime peers.
    Pickle,
}

impl PayloadCodec {
    /// Name of the codec, as descriptors publish it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bincode => "bincode",
            Self::Pickle => "pickle",
        }
    }

    /// Encodes a value to the beginning of `into` and returns how many bytes it took.
    ///
    /// # Errors
    /// The errors of [`Codec::encode`](super::Codec::encode).
    pub fn encode<T: Serialize + ?Sized>(
        self,
        value: &T,
        into: &mut [u8],
    ) -> Result<usize, EncodeError> {
        match self {
            Self::Bincode => Bincode::encode(value, into),
            Self::Pickle => Pickle::encode(value, into),
        }
    }

    /// Encodes a value to a new vector.
    ///
    /// ```
    /// use slimerpc::wire::PayloadCodec;
    /// let bytes = PayloadCodec::Bincode.encode_to_vec(&vec![7_u8; 1000]).unwrap();
    /// assert_eq!(bytes.len(), 1003);
    /// ```
    ///
    /// # Errors
    /// The value cannot be encoded.
    pub fn encode_to_vec<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = vec![0; 256];
        let encoded = match self.encode(value, &mut bytes) {
            Err(EncodeError::TooLarge { size, .. }) => {
                bytes.resize(size, 0);
                self.encode(value, &mut bytes)
            }
            encoded => encoded,
        };
        bytes.truncate(encoded?);
        Ok(bytes)
    }

    /// Decodes a value from exactly `bytes`.
    ///
    /// # Errors
    /// The errors of [`Codec::decode`](super::Codec::decode).
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, DecodeError> {
        match self {
            Self::Bincode => Bincode::decode(bytes),
            Self::Pickle => Pickle::decode(bytes),
        }
    }
}

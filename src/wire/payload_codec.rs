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
    /// Compact and fast; what native peers speak unless a service says otherwise.
    #[default]
    Bincode,
    /// Self-describing; what DLSlime peers speak.
    Pickle,
}

impl PayloadCodec {
    /// Its name, as descriptors publish it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bincode => "bincode",
            Self::Pickle => "pickle",
        }
    }

    /// Encodes to the beginning of `into` and says how many bytes it took.
    ///
    /// # Errors
    /// As [`Codec::encode`](super::Codec::encode).
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

    /// Encodes to bytes of its own.
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

    /// Decodes from exactly `bytes`.
    ///
    /// # Errors
    /// As [`Codec::decode`](super::Codec::decode).
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, DecodeError> {
        match self {
            Self::Bincode => Bincode::decode(bytes),
            Self::Pickle => Pickle::decode(bytes),
        }
    }
}

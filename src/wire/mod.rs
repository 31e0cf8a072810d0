//! The wire format: the message header, the immediate, and the codecs of payloads (bincode, pickle,
//! raw).
//!
//! A message is one RDMA WRITE_WITH_IMM into a slot of the receiver's ring:
//!
//! ```text
//!  0        4           8            16                      16 + extension
//!  | tag u32 | length u32 | request id u64 | [extension block] | payload ...  |      all little-endian
//! ```
//!
//! The header and its flags are those of DLSlime 0.1.23 (wire version 3 there). Between native
//! peers a request may carry an [`Extension`] block, announced by a tag bit that DLSlime's method
//! tags never reach.

mod bincode;
mod codec;
mod extension;
mod fault;
mod guard;
mod header;
pub(crate) mod names;
pub mod pickle;
mod shape;
mod signature;
mod traceparent;

pub use bincode::Bincode;
pub use codec::{Codec, CodecLimits, DecodeError, EncodeError, PayloadCodec, Raw};
pub use pickle::Pickle;
pub use shape::Shape;
pub(crate) use signature::any_signatures;
pub use signature::{Signature, SignatureBuilder};
pub use traceparent::Traceparent;

pub(crate) use header::FixedHeader;

// What a message is made of, for `slimerpc-actors` and tests of the wire format.
#[doc(hidden)]
pub use self::{
    extension::{Extension, ExtensionError, RendezvousDescriptor, StreamPart},
    fault::Fault,
    header::{Header, HeaderError, Immediate, MAX_METHODS, MessageKind, Signal},
};

/// Version of the native wire format. Peers refuse each other when theirs differ.
pub const WIRE_VERSION: u32 = 4;

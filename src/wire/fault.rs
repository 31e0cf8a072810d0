//! Failures that cross the wire between native peers, as the payload of an exception.

use serde::{Deserialize, Serialize};

use super::PayloadCodec;
use super::pickle::Exception;

/// Why a call was not answered with a result. It travels in [`Bincode`](super::Bincode).
///
/// New variants are added at the end only: their numbers travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Fault {
    /// The handler returned an error, or panicked; then `type_name` is `panic`.
    #[error("{type_name}: {message}")]
    Raised {
        /// Type of the error, or class of the exception.
        type_name: String,
        /// Text of the error.
        message: String,
        /// Where the error came from, if known.
        traceback: String,
    },
    /// The service has no such method. No handler ran.
    #[error("service `{service}` has no method number {method}")]
    MethodNotFound {
        /// Name of the service.
        service: String,
        /// Number of the method that was requested.
        method: u32,
    },
    /// The arguments do not decode. No handler ran.
    #[error("the arguments do not decode: {reason}")]
    BadArguments {
        /// What the decoder reported.
        reason: String,
    },
    /// The reply does not fit the caller's slot.
    #[error("the reply takes {size} bytes, the slot has room for {limit}")]
    ReplyTooLarge {
        /// Size of the reply in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The service ended before the request was handled.
    #[error("service `{service}` is down")]
    ServiceDown {
        /// Name of the service.
        service: String,
    },
    /// The handler returned an error that the caller can decode.
    #[error("{type_name}: {message}")]
    Returned {
        /// Type of the error.
        type_name: String,
        /// Text of the error.
        message: String,
        /// The error, encoded with the codec of the service.
        value: Vec<u8>,
        /// The codec of `value`.
        codec: PayloadCodec,
        /// The full type of the error: its modules, without its crate, and its parameters.
        type_path: String,
    },
    /// The deadline had passed when the request's turn came. No handler ran.
    #[error("the request expired before its turn came")]
    Expired,
    /// The request is larger than the service takes. No handler ran.
    #[error("the request takes {size} bytes, the service takes {limit}")]
    RequestTooLarge {
        /// Size of the request in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The service has no registered memory for a request or reply beyond a slot.
    #[error("the service has no registered memory for {size} bytes: {reason}")]
    NoMemory {
        /// Size of the payload in bytes.
        size: u64,
        /// Why the memory is not available.
        reason: String,
        /// Whether it is the reply's memory, so that the handler ran.
        is_reply: bool,
    },
    /// The stream was ended, because its caller had not requested an item for too long.
    #[error("the stream was ended, as nobody had asked for its next item for {after_ms} ms")]
    Stalled {
        /// The time in milliseconds.
        after_ms: u64,
    },
    /// The method returns a stream, but the caller did not open one: it is a DLSlime peer, which
    /// has none.
    #[error("the method gives back a stream of items, which only native callers can take")]
    NotStreamed,
}

impl From<Fault> for Exception {
    /// The exception that a DLSlime peer raises for the fault.
    fn from(fault: Fault) -> Self {
        let (type_name, message, traceback) = match fault {
            Fault::Raised {
                type_name,
                message,
                traceback,
            } => (type_name, message, traceback),
            Fault::MethodNotFound { method, .. } => {
                let message = format!("Unknown RPC tag {method} on remote service");
                ("RuntimeError".to_owned(), message, String::new())
            }
            Fault::BadArguments { .. } => {
                ("TypeError".to_owned(), fault.to_string(), String::new())
            }
            Fault::Returned {
                type_name, message, ..
            } => (type_name, message, String::new()),
            Fault::Expired => ("TimeoutError".to_owned(), fault.to_string(), String::new()),
            Fault::ReplyTooLarge { .. }
            | Fault::Stalled { .. }
            | Fault::NotStreamed
            | Fault::ServiceDown { .. }
            | Fault::RequestTooLarge { .. }
            | Fault::NoMemory { .. } => {
                ("RuntimeError".to_owned(), fault.to_string(), String::new())
            }
        };
        Self {
            type_name,
            message,
            traceback,
        }
    }
}

impl From<Exception> for Fault {
    fn from(exception: Exception) -> Self {
        Self::Raised {
            type_name: exception.type_name,
            message: exception.message,
            traceback: exception.traceback,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wire::Bincode;

    /// One of each variant, in the order of their numbers. A new variant does not compile until it
    /// is here, too.
    fn all() -> Vec<Fault> {
        let text = || "text".to_owned();
        let all = vec![
            Fault::Raised {
                type_name: text(),
                message: text(),
                traceback: String::new(),
            },
            Fault::MethodNotFound {
                service: text(),
                method: 9,
            },
            Fault::BadArguments { reason: text() },
            Fault::ReplyTooLarge {
                size: 1 << 40,
                limit: 1,
            },
            Fault::ServiceDown { service: text() },
            Fault::Returned {
                type_name: text(),
                message: text(),
                value: vec![1, 2, 3],
                codec: PayloadCodec::Pickle,
                type_path: text(),
            },
            Fault::Expired,
            Fault::RequestTooLarge {
                size: 1 << 40,
                limit: 1 << 30,
            },
            Fault::NoMemory {
                size: 1 << 40,
                reason: text(),
                is_reply: true,
            },
            Fault::Stalled { after_ms: 1 << 40 },
            Fault::NotStreamed,
        ];
        for (at, fault) in all.iter().enumerate() {
            let number = match fault {
                Fault::Raised { .. } => 0,
                Fault::MethodNotFound { .. } => 1,
                Fault::BadArguments { .. } => 2,
                Fault::ReplyTooLarge { .. } => 3,
                Fault::ServiceDown { .. } => 4,
                Fault::Returned { .. } => 5,
                Fault::Expired => 6,
                Fault::RequestTooLarge { .. } => 7,
                Fault::NoMemory { .. } => 8,
                Fault::Stalled { .. } => 9,
                Fault::NotStreamed => 10,
            };
            assert_eq!(number, at);
        }
        all
    }

    #[test]
    fn every_fault_survives_the_wire_under_its_number() {
        for (number, fault) in all().into_iter().enumerate() {
            let mut bytes = [0; 128];
            let len = Bincode::encode(&fault, &mut bytes).unwrap();
            assert_eq!(usize::from(bytes[0]), number);
            assert_eq!(Bincode::decode::<Fault>(&bytes[..len]).unwrap(), fault);
        }
    }

    #[test]
    fn every_fault_is_an_exception_for_a_dlslime_peer() {
        let classes = [
            "text",
            "RuntimeError",
            "TypeError",
            "RuntimeError",
            "RuntimeError",
            "text",
            "TimeoutError",
            "RuntimeError",
            "RuntimeError",
            "RuntimeError",
            "RuntimeError",
        ];
        let faults = all();
        assert_eq!(faults.len(), classes.len());
        for (fault, class) in faults.into_iter().zip(classes) {
            let exception = Exception::from(fault);
            assert_eq!(exception.type_name, class);
            assert!(!exception.message.is_empty());
            let mut bytes = [0; 512];
            let len = exception.encode(&mut bytes).unwrap();
            let back = Exception::decode(&bytes[..len]);
            assert_eq!(back, exception);
            // A caller reads it as an error that the handler raised.
            let raised = Fault::from(back.clone());
            assert_eq!(Exception::from(raised), back);
        }
    }
}

//! What callers and agents can get wrong, or have go wrong.

use std::time::Duration;

use slimerpc::channel::{CallError, ConnectError, LossCause, Mismatch};
use slimerpc::control::ControlError;
use slimerpc::fabric::FabricError;
use slimerpc::fabric::LinkType;
use slimerpc::wire::{DecodeError, Fault};

/// A call did not bring a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// No answer came in time. The handler may have run, or run still.
    #[error("no answer within {after:?}")]
    Timeout {
        /// The time allowed.
        after: Duration,
    },
    /// The handler returned an error, or panicked (`type_name` is `panic` then).
    #[error("{type_name}: {message}")]
    Remote {
        /// Type of the error at the service.
        type_name: String,
        /// Its message.
        message: String,
        /// Where it came from, if known.
        traceback: String,
    },
    /// The connection to the peer is gone. The handler may have run.
    #[error("lost `{peer}`: {cause}")]
    PeerLost {
        /// Alias of the peer.
        peer: String,
        /// What ended the connection.
        cause: LossCause,
    },
    /// The peer's version of the service has no such method. Nothing was run.
    #[error(
        "`{service}` at the peer has no method `{method}`; it may be an older or newer version"
    )]
    MethodNotFound {
        /// Name of the service.
        service: String,
        /// Name, or number, of the method.
        method: String,
    },
    /// The service cannot decode the arguments. Nothing was run.
    #[error(
        "the service cannot decode the arguments: {reason}; do both sides declare the same types?"
    )]
    BadArguments {
        /// What its decoder said.
        reason: String,
    },
    /// The reply is not what the method returns. The handler has run.
    #[error("the reply does not decode: {0}; do both sides declare the same types?")]
    BadReply(DecodeError),
    /// The arguments do not fit a slot. Nothing was sent.
    #[error(
        "the arguments take {size} bytes, a slot has room for {limit}; raise slot_size on both sides"
    )]
    TooLarge {
        /// Bytes that they take.
        size: usize,
        /// Bytes that there are.
        limit: usize,
    },
    /// The result does not fit a slot. The handler has run.
    #[error(
        "the reply takes {size} bytes, a slot has room for {limit}; raise slot_size on both sides"
    )]
    ReplyTooLarge {
        /// Bytes that it takes.
        size: u64,
        /// Bytes that there are.
        limit: u64,
    },
    /// The arguments' `Serialize` failed. Nothing was sent.
    #[error("the arguments cannot be encoded: {reason}")]
    Encode {
        /// What it said.
        reason: String,
    },
    /// The service ended before it answered.
    #[error("service `{service}` is down")]
    ServiceDown {
        /// Its name.
        service: String,
    },
    /// [`wait`](crate::Reply::wait) was called on a thread that runs an async runtime, which it would block:
    /// `.await` the reply there.
    #[error("waiting would block the async runtime of this thread; `.await` the reply instead")]
    WouldBlock,
    /// The bytes in the ring are not an answer: the peer broke the protocol.
    #[error("the answer is damaged: {reason}")]
    Damaged {
        /// What is wrong with them.
        reason: String,
    },
}

impl RpcError {
    pub(crate) fn from_call(error: CallError, peer: &str) -> Self {
        match error {
            CallError::TooLarge { size, limit } => Self::TooLarge { size, limit },
            CallError::Encode(reason) => Self::Encode { reason },
            CallError::Timeout(after) => Self::Timeout { after },
            CallError::Closed(cause) => Self::PeerLost {
                peer: peer.to_owned(),
                cause,
            },
            other => Self::Damaged {
                reason: other.to_string(),
            },
        }
    }
}

impl From<Fault> for RpcError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Raised {
                type_name,
                message,
                traceback,
            } => Self::Remote {
                type_name,
                message,
                traceback,
            },
            Fault::MethodNotFound { service, method } => Self::MethodNotFound {
                service,
                method: format!("number {method}"),
            },
            Fault::BadArguments { reason } => Self::BadArguments { reason },
            Fault::ReplyTooLarge { size, limit } => Self::ReplyTooLarge { size, limit },
            Fault::ServiceDown { service } => Self::ServiceDown { service },
        }
    }
}

/// An agent could not start, connect, serve or make a proxy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The control plane said no, or nothing: the alias is taken, NanoCtrl or Redis cannot be reached, ...
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Nobody registered under the peer's name in time.
    #[error(
        "no agent `{peer}` is known to {control} after {waited:?}; is it running, with this alias and scope?"
    )]
    PeerUnknown {
        /// The alias.
        peer: String,
        /// The time waited.
        waited: Duration,
        /// The control plane, in words.
        control: String,
    },
    /// The peer is registered but is no native agent: it has published no descriptor.
    #[error("agent `{peer}` is registered but published no SlimeRPC descriptor within {waited:?}")]
    NotNative {
        /// Its alias.
        peer: String,
        /// The time waited.
        waited: Duration,
    },
    /// A DLSlime peer did not do its part in time.
    #[error(
        "waited {waited:?} for {waiting_for} of the DLSlime peer `{peer}`; it may have died, or be connected with an \
         earlier life of this alias, which it never notices: use an alias that it has not met"
    )]
    DlslimeTimeout {
        /// Its alias.
        peer: String,
        /// What did not come.
        waiting_for: &'static str,
        /// The time waited.
        waited: Duration,
    },
    /// A DLSlime peer that we serve was to be called.
    #[error(
        "`{peer}` calls the service `{service}` of this agent; a DLSlime peer keeps requests and replies in the same \
         slots, so over one pair of aliases it can be served or called, not both: call it from another agent"
    )]
    BothDirections {
        /// Its alias.
        peer: String,
        /// What it calls.
        service: String,
    },
    /// A DLSlime peer has no device that ours could be connected with.
    #[error(
        "the DLSlime peer `{peer}` has no active port {port} on {link}, where our device {device} is; choose another \
         device, here or there"
    )]
    NoCommonDevice {
        /// Its alias.
        peer: String,
        /// Our device.
        device: String,
        /// What it is attached to.
        link: LinkType,
        /// Its port; a connection has the same one at both ends.
        port: u8,
    },
    /// The peer is registered but does not answer.
    #[error("agent `{peer}` is registered but did not answer within {waited:?}; it may have died")]
    ConnectTimeout {
        /// Its alias.
        peer: String,
        /// The time waited.
        waited: Duration,
    },
    /// The two agents do not fit together.
    #[error("`{peer}` and this agent do not fit together: {mismatch}")]
    Refused {
        /// The peer's alias.
        peer: String,
        /// In what.
        mismatch: Mismatch,
    },
    /// A service of that name is served already.
    #[error("a service `{service}` is served by this agent already")]
    AlreadyServed {
        /// Its name.
        service: String,
    },
    /// The service's factory panicked.
    #[error("service `{service}` could not be built: {message}")]
    FactoryPanicked {
        /// Its name.
        service: String,
        /// The panic's message.
        message: String,
    },
    /// A setting is out of range.
    #[error("{name} is {value}; {allowed}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// The value given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The device cannot be opened or used.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// Queue pairs or rings could not be connected.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No thread could be started.
    #[error("no thread for an actor: {0}")]
    Thread(std::io::Error),
    /// The agent has been shut down.
    #[error("this agent has been shut down")]
    ShutDown,
}

//! Errors of calls and of agents.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use slimerpc::channel::{CallError, ConnectError, LossCause, MethodMismatch, Mismatch};
use slimerpc::control::ControlError;
use slimerpc::fabric::{FabricError, LinkType, SystemLimit};
use slimerpc::settings::Refused;
use slimerpc::wire::{DecodeError, Fault, PayloadCodec};

/// A call failed.
///
/// The error can travel: a handler that calls others may return `Result<_, RpcError>`, and its
/// caller gets that error whole by [`returned::<RpcError>()`](Self::returned).
/// [`Error`](crate::Error) does the same for all errors of this crate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// No answer came before the deadline.
    #[error("`{peer}` did not answer a call of `{method}` within {after:?}")]
    Timeout {
        /// Alias of the peer.
        peer: String,
        /// Name of the method.
        method: String,
        /// The time that was allowed.
        after: Duration,
        /// Whether the handler ran. It may still run.
        ran: Ran,
    },
    /// The handler returned an error, or panicked; then `type_name` is `panic`.
    #[error("{type_name}: {message}")]
    Remote {
        /// Type of the error at the service.
        type_name: String,
        /// The error's message.
        message: String,
        /// Where the error came from, if known: for a panic its source line, and a backtrace if the
        /// service runs with `RUST_BACKTRACE=1`.
        traceback: String,
        /// The error as a value, if it can travel; see [`returned`](Self::returned).
        value: Option<ReturnedValue>,
    },
    /// The connection to the peer is lost.
    #[error("lost `{peer}` in a call of `{method}`: {cause}")]
    PeerLost {
        /// Alias of the peer.
        peer: String,
        /// Name of the method.
        method: String,
        /// What ended the connection.
        cause: LossCause,
        /// Whether the handler ran.
        ran: Ran,
    },
    /// The peer's version of the service has no such method. No handler ran.
    #[error(
        "`{service}` at the peer has no method `{method}`; it may be an older or newer version"
    )]
    MethodNotFound {
        /// Name of the service.
        service: String,
        /// Name of the method, or its number.
        method: String,
    },
    /// The peer's version of the service declares the method with other types. Nothing was sent.
    #[error(
        "service `{service}` of the peer is another version: {mismatch}; use the same version of its types on both sides"
    )]
    MethodMismatch {
        /// Name of the service.
        service: String,
        /// The method, as both sides declare it.
        mismatch: Box<MethodMismatch>,
    },
    /// The codec of the service cannot carry the types of the method. Nothing was sent.
    #[error("`{service}::{method}` cannot be called with {codec}: {}", not_in_codec(.reason))]
    NotInCodec {
        /// Name of the service.
        service: String,
        /// Name of the method.
        method: String,
        /// Name of the codec.
        codec: Box<str>,
        /// Which type the codec cannot carry, and why.
        reason: String,
    },
    /// The service cannot decode the arguments. No handler ran.
    #[error(
        "the service cannot decode the arguments: {reason}; do both sides declare the same types?"
    )]
    BadArguments {
        /// What the service's decoder reported.
        reason: String,
    },
    /// The reply does not decode as the type that the method returns. The handler has run.
    #[error("the reply does not decode: {0}; do both sides declare the same types?")]
    BadReply(DecodeError),
    /// The arguments are larger than either side allows (`max_payload`), or, towards a DLSlime
    /// peer, than a slot (`slot_size`). No handler ran.
    #[error("the arguments take {size} bytes, and {limit} are allowed")]
    TooLarge {
        /// Size of the encoded arguments in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The result is larger than the service allows (`max_payload`), or than a slot (`slot_size`)
    /// if it is written in place. The handler has run.
    #[error("the reply takes {size} bytes, and {limit} are allowed")]
    ReplyTooLarge {
        /// Size of the encoded result in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// There is no registered memory, here or at the service, for arguments or a result beyond a
    /// slot: `payload_memory` is used up, or the device or the system's limits (`ulimit -l`) allow
    /// no more.
    #[error("no registered memory for {size} bytes: {reason}")]
    NoMemory {
        /// Size of the payload in bytes.
        size: usize,
        /// Why the memory is not available.
        reason: String,
        /// Whether the handler ran.
        ran: Ran,
    },
    /// The arguments' `Serialize` failed. Nothing was sent.
    #[error("the arguments cannot be encoded: {reason}")]
    Encode {
        /// What `Serialize` reported.
        reason: String,
    },
    /// The service ended before it answered, or [was given up](crate::Restart).
    #[error("service `{service}` is down")]
    ServiceDown {
        /// Name of the service.
        service: String,
    },
    /// The service ended the stream, because its items were not read for longer than the service's
    /// [`stream_patience`](crate::Timeouts::stream_patience).
    #[error("the service ended the stream, as no item was asked for in {after:?}")]
    Stalled {
        /// How long the service had waited.
        after: Duration,
    },
    /// The call needs something that a DLSlime peer does not have.
    #[error("`{peer}` is a DLSlime peer, and those have no {what}")]
    NotNative {
        /// Alias of the peer.
        peer: String,
        /// What the call needs.
        what: Cow<'static, str>,
    },
    /// A serial handler called its own instance, which cannot answer before that handler is done.
    /// Move the code into a function that both share, or send from a task of its own
    /// (`actix::spawn`) and do not await it in the handler.
    #[error(
        "a handler of `{service}` called its own instance, which runs one handler at a time: this would never be answered"
    )]
    OwnService {
        /// Name of the service.
        service: String,
    },
    /// [`wait`](crate::Reply::wait) was called on a thread that runs an async runtime, which it
    /// would block: `.await` the reply there. The call has been cancelled, but the service may have
    /// its request. [`Proxy::blocking`](crate::Proxy::blocking) refuses such calls before anything
    /// is sent.
    #[error(
        "waiting would block the async runtime of this thread; `.await` the reply instead, or wait in `spawn_blocking`"
    )]
    WouldBlock {
        /// Whether the handler ran.
        ran: Ran,
    },
}

/// The path of a type with its modules and parameters, without crates: the two ends are often
/// programs that share a module.
pub(crate) fn type_path<E>() -> String {
    let is_path = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | ':');
    let mut rest = std::any::type_name::<E>();
    let mut path = String::with_capacity(rest.len());
    while !rest.is_empty() {
        let (word, behind) =
            rest.split_at(rest.find(|letter| !is_path(letter)).unwrap_or(rest.len()));
        path.push_str(word.split_once("::").map_or(word, |(_, inside)| inside));
        let (between, next) = behind.split_at(behind.find(is_path).unwrap_or(behind.len()));
        path.push_str(between);
        rest = next;
    }
    path
}

/// Advice for a type that a codec cannot carry.
fn not_in_codec(reason: &str) -> String {
    format!(
        "{reason}, and this codec does not say; declare the service with `codec = \"pickle\"`, or send another type: a plain \
         enum, a struct without `flatten`, JSON as a `String`"
    )
}

/// Tells whether the handler of a failed call ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ran {
    /// The handler did not run, and will not: the call can be made again without harm.
    No,
    /// The handler ran.
    Yes,
    /// The handler may have run, or may yet: the request was sent, and nothing more is known.
    Unknown,
}

/// An error that a handler returned, in its encoded form; see [`RpcError::returned`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnedValue(Box<EncodedError>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EncodedError {
    bytes: Vec<u8>,
    codec: PayloadCodec,
    type_path: String,
}

impl RpcError {
    /// Returns whether the handler of the call ran.
    ///
    /// ```
    /// use slimerpc_actors::{Ran, RpcError};
    /// let error = RpcError::TooLarge { size: 70_000, limit: 32_752 };
    /// assert_eq!(error.ran(), Ran::No);
    /// ```
    pub fn ran(&self) -> Ran {
        match self {
            Self::Timeout { ran, .. }
            | Self::PeerLost { ran, .. }
            | Self::NoMemory { ran, .. }
            | Self::WouldBlock { ran } => *ran,
            Self::Remote { .. }
            | Self::BadReply(_)
            | Self::ReplyTooLarge { .. }
            | Self::Stalled { .. } => Ran::Yes,
            Self::MethodNotFound { .. }
            | Self::MethodMismatch { .. }
            | Self::NotInCodec { .. }
            | Self::BadArguments { .. }
            | Self::TooLarge { .. }
            | Self::Encode { .. }
            | Self::NotNative { .. }
            | Self::OwnService { .. } => Ran::No,
            Self::ServiceDown { .. } => Ran::Unknown,
        }
    }

    /// Decodes the error that the handler returned, if the method returns `Result<_, E>`, `E`
    /// implements `Serialize` at the service and `Deserialize` here, and both sides are native.
    /// Returns `None` if the handler returned another type. Types are compared by module path and
    /// parameters but not by crate, so two programs may share the module that declares the type.
    /// Two types of one path in different crates (`db::Error` and `cache::Error`, say) are
    /// therefore confused where the bytes of one decode as the other: give errors distinct names.
    ///
    /// ```no_run
    /// # use serde::{Deserialize, Serialize};
    /// # use slimerpc_actors::{Reply, RpcError};
    /// #[derive(Debug, Serialize, Deserialize)]
    /// struct OutOfStock { left: u32 }
    /// # async fn example(order: Reply<()>) {
    /// match order.await.map_err(|error| error.returned::<OutOfStock>().ok_or(error)) {
    ///     Ok(()) => println!("ordered"),
    ///     Err(Ok(OutOfStock { left })) => println!("only {left} left"),
    ///     Err(Err(error)) => println!("{error}"),
    /// }
    /// # }
    /// ```
    pub fn returned<E: DeserializeOwned>(&self) -> Option<E> {
        match self {
            Self::Remote {
                value: Some(ReturnedValue(value)),
                ..
            } if value.type_path == type_path::<E>() => value.codec.decode(&value.bytes).ok(),
            _ => None,
        }
    }

    /// Converts the failure of a call of `method` at `peer`.
    pub(crate) fn from_call(error: CallError, peer: &str, method: &str) -> Self {
        let of_call = |reason: String| in_call(&reason, peer, method);
        let (peer, method) = (peer.to_owned(), method.to_owned());
        match error {
            CallError::TooLarge { size, limit } => Self::TooLarge { size, limit },
            CallError::Encode(reason) => Self::Encode {
                reason: of_call(reason),
            },
            CallError::Timeout { after, sent } => Self::Timeout {
                peer,
                method,
                after,
                ran: if sent { Ran::Unknown } else { Ran::No },
            },
            CallError::Closed { cause, sent } => Self::PeerLost {
                peer,
                method,
                cause,
                ran: if sent { Ran::Unknown } else { Ran::No },
            },
            CallError::NoMemory {
                size,
                reason,
                is_answer,
            } => Self::NoMemory {
                size,
                reason: of_call(reason),
                ran: if is_answer { Ran::Yes } else { Ran::No },
            },
        }
    }

    /// The error for an answer to `method` of `peer` that does not decode.
    pub(crate) fn bad_reply(error: &DecodeError, peer: &str, method: &str) -> Self {
        let reason = in_call(&error.to_string(), peer, method);
        Self::BadReply(DecodeError::Malformed { reason })
    }
}

/// Adds the method and the peer to a reason.
fn in_call(reason: &str, peer: &str, method: &str) -> String {
    format!("{reason} (in a call of `{method}` at `{peer}`)")
}

impl RpcError {
    /// Converts the fault that `peer` has answered to a call of `method`.
    pub(crate) fn from_fault(fault: Fault, peer: &str, method: &str) -> Self {
        match fault {
            Fault::Raised {
                type_name,
                message,
                traceback,
            } => Self::Remote {
                type_name,
                message,
                traceback,
                value: None,
            },
            Fault::Returned {
                type_name,
                message,
                value,
                codec,
                type_path,
            } => Self::Remote {
                type_name,
                message,
                traceback: String::new(),
                value: Some(ReturnedValue(Box::new(EncodedError {
                    bytes: value,
                    codec,
                    type_path,
                }))),
            },
            Fault::Expired => Self::Timeout {
                peer: peer.to_owned(),
                method: method.to_owned(),
                after: Duration::ZERO,
                ran: Ran::No,
            },
            Fault::MethodNotFound { service, .. } => Self::MethodNotFound {
                service,
                method: method.to_owned(),
            },
            Fault::BadArguments { reason } => Self::BadArguments {
                reason: in_call(&reason, peer, method),
            },
            Fault::ReplyTooLarge { size, limit } => Self::ReplyTooLarge { size, limit },
            Fault::ServiceDown { service } => Self::ServiceDown { service },
            Fault::RequestTooLarge { size, limit } => Self::TooLarge {
                size: usize::try_from(size).unwrap_or(usize::MAX),
                limit: usize::try_from(limit).unwrap_or(usize::MAX),
            },
            Fault::NoMemory {
                size,
                reason,
                is_reply,
            } => Self::NoMemory {
                size: usize::try_from(size).unwrap_or(usize::MAX),
                reason: in_call(&reason, peer, method),
                ran: if is_reply { Ran::Yes } else { Ran::No },
            },
            Fault::Stalled { after_ms } => Self::Stalled {
                after: Duration::from_millis(after_ms),
            },
            Fault::NotStreamed => Self::Remote {
                type_name: "NotStreamed".to_owned(),
                message: fault.to_string(),
                traceback: String::new(),
                value: None,
            },
        }
    }
}

/// An agent could not start, connect, serve or make a proxy.
///
/// The error can travel, as [`RpcError`] does; errors of the control plane, of a device or of the
/// system travel as text.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The control plane refused or did not answer: the alias is taken, NanoCtrl or Redis cannot be
    /// reached, ...
    #[error(transparent)]
    Control(#[from] ControlError),
    /// No agent registered under the peer's alias in time.
    #[error(
        "no agent `{peer}` is known to {control} after {waited:?}; is it running, with this alias and scope?"
    )]
    PeerUnknown {
        /// Alias of the peer.
        peer: String,
        /// How long the agent waited.
        waited: Duration,
        /// Description of the control plane.
        control: String,
    },
    /// The peer is registered but is not a native agent: it has published no descriptor.
    #[error("agent `{peer}` is registered but published no SlimeRPC descriptor within {waited:?}")]
    NotNative {
        /// Alias of the peer.
        peer: String,
        /// How long the agent waited.
        waited: Duration,
    },
    /// The agent was asked to watch itself.
    #[error("`{alias}` is this agent itself, which is there as long as it can be asked")]
    WatchesItself {
        /// Alias of the agent.
        alias: String,
    },
    /// A DLSlime peer did not complete its part of the connection in time.
    #[error(
        "waited {waited:?} for {waiting_for} of the DLSlime peer `{peer}`; it may have died, or be connected with an \
         earlier life of this alias, which it never notices: use an alias that it has not met"
    )]
    DlslimeTimeout {
        /// Alias of the peer.
        peer: String,
        /// The message that did not arrive.
        waiting_for: Cow<'static, str>,
        /// How long the agent waited.
        waited: Duration,
    },
    /// The peer is a DLSlime peer that calls a service of this agent, so this agent cannot call it.
    #[error(
        "`{peer}` calls the service `{service}` of this agent; a DLSlime peer keeps requests and replies in the same \
         slots, so over one pair of aliases it can be served or called, not both: call it from another agent"
    )]
    BothDirections {
        /// Alias of the peer.
        peer: String,
        /// Name of the service that the peer calls.
        service: String,
    },
    /// The DLSlime peer has no device that this agent's device can connect with.
    #[error(
        "the DLSlime peer `{peer}` has no active port {port} on {link}, where our device {device} is; choose another \
         device, here or there"
    )]
    NoCommonDevice {
        /// Alias of the peer.
        peer: String,
        /// Name of this agent's device.
        device: String,
        /// The link that this agent's device is attached to.
        link: LinkType,
        /// The port of this agent's device; a connection uses the same port number at both ends.
        port: u8,
    },
    /// The peer is registered but does not answer.
    #[error(
        "agent `{peer}` is registered but did not answer within {waited:?}; {}",
        no_answer(.limit.as_ref())
    )]
    ConnectTimeout {
        /// Alias of the peer.
        peer: String,
        /// How long the agent waited.
        waited: Duration,
        /// A limit that this process has reached meanwhile, be it elsewhere: it may have kept the
        /// answer, or what comes with it, from being received.
        limit: Option<SystemLimit>,
    },
    /// The connection of a proxy was lost and could not be restored in time; see
    /// [`Proxy::ready`](crate::Proxy::ready).
    #[error(
        "lost `{peer}` ({cause}), and its service `{service}` is not back after {waited:?}{}",
        if .waited.is_zero() { "; connections with DLSlime peers are not made again, so make another proxy" } else { "" }
    )]
    NotBack {
        /// Alias of the peer.
        peer: String,
        /// Name of the service.
        service: String,
        /// What ended the connection.
        cause: LossCause,
        /// How long the proxy waited; zero for a DLSlime peer, whose connection is not restored.
        waited: Duration,
    },
    /// The two agents do not fit together, or the peer has no room for another connection.
    #[error("{}", refused(.peer, .mismatch))]
    Refused {
        /// Alias of the peer.
        peer: String,
        /// What does not fit.
        mismatch: Mismatch,
    },
    /// A service of that name is served already.
    #[error("a service `{service}` is served by this agent already")]
    AlreadyServed {
        /// Name of the service.
        service: String,
    },
    /// The codec of a service cannot carry the types of one of its methods.
    #[error("service `{service}` cannot be served: method `{method}` is not possible with {codec}: {}", not_in_codec(.reason))]
    NotInCodec {
        /// Name of the service.
        service: String,
        /// Name of the method.
        method: String,
        /// Name of the codec.
        codec: String,
        /// Which type the codec cannot carry, and why.
        reason: String,
    },
    /// A service for "the only peer" is ambiguous: this agent is not asked to be connected with
    /// exactly one peer.
    #[error(
        "a service for the only peer: this agent is to be connected with {peers:?}; say which one with `.peer(alias)`"
    )]
    WhichPeer {
        /// Aliases of the peers that it asked to be connected with.
        peers: Vec<String>,
    },
    /// A stopped service has a handler that does not end.
    #[error(
        "service `{service}` is withdrawn, but had a handler running after {waited:?}; if it is a sync one, its thread \
         goes on until it returns"
    )]
    StillRunning {
        /// Name of the service.
        service: String,
        /// How long the agent waited.
        waited: Duration,
    },
    /// The service's factory, or its [`Lifecycle::started`](crate::Lifecycle::started), panicked.
    #[error("service `{service}` could not be built: {message}")]
    FactoryPanicked {
        /// Name of the service.
        service: String,
        /// The panic's message.
        message: String,
    },
    /// The service's factory returned an error.
    #[error("service `{service}` could not be built: {message}")]
    FactoryFailed {
        /// Name of the service.
        service: String,
        /// The error's text.
        message: String,
    },
    /// A setting is out of range.
    #[error("{name} is {value}; {allowed}")]
    Setting {
        /// Name of the setting.
        name: Cow<'static, str>,
        /// The value that was given.
        value: String,
        /// The values that are allowed.
        allowed: String,
    },
    /// The device cannot be opened or used.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// Queue pairs or rings could not be connected.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No thread could be started.
    #[error("{}", no_thread(.0))]
    Thread(#[serde(with = "io_error")] std::io::Error),
    /// The agent has been shut down.
    #[error("this agent has been shut down")]
    ShutDown,
}

impl From<Refused> for AgentError {
    fn from(refused: Refused) -> Self {
        let Refused {
            setting,
            value,
            allowed,
        } = refused;
        Self::Setting {
            name: setting.into(),
            value,
            allowed,
        }
    }
}

impl AgentError {
    /// A peer did not answer since then.
    pub(crate) fn timed_out(peer: &str, since: Instant) -> Self {
        Self::ConnectTimeout {
            peer: peer.to_owned(),
            waited: since.elapsed(),
            limit: SystemLimit::reached_since(since),
        }
    }
}

/// Says why a peer may not have answered.
fn no_answer(limit: Option<&SystemLimit>) -> String {
    match limit {
        Some(limit) => format!("it may have died, or this process could not receive it: {limit}"),
        None => "it may have died".to_owned(),
    }
}

/// Describes the error, its cause first.
fn no_thread(error: &std::io::Error) -> String {
    const DOING: &str = "starting a thread for an actor";
    match SystemLimit::of_thread(error) {
        Some(limit) => format!("{limit} ({DOING}: {error})"),
        None => format!("{DOING}: {error}"),
    }
}

fn refused(peer: &str, mismatch: &Mismatch) -> String {
    match mismatch {
        Mismatch::Connect(reason) => {
            format!("`{peer}` cannot be connected with, for a reason at its end: {reason}")
        }
        mismatch => format!("`{peer}` and this agent do not fit together: {mismatch}"),
    }
}

/// Serializes an error of the system as text.
mod io_error {
    use std::io::Error;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        error: &Error,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(error)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Error, D::Error> {
        String::deserialize(deserializer).map(Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each failure that crosses the wire, as callers of native peers see it.
    #[test]
    fn every_fault_is_an_error_that_says_whether_the_call_was_run() {
        let text = || "text".to_owned();
        let in_call = || "text (in a call of `add` at `w:0`)".to_owned();
        let (size, limit) = (70_000, 32_752);
        let raised = |type_name: &str, message: &str| RpcError::Remote {
            type_name: type_name.to_owned(),
            message: message.to_owned(),
            traceback: String::new(),
            value: None,
        };
        for (fault, error, ran) in [
            (
                Fault::Raised {
                    type_name: text(),
                    message: text(),
                    traceback: String::new(),
                },
                raised("text", "text"),
                Ran::Yes,
            ),
            (
                Fault::MethodNotFound {
                    service: text(),
                    method: 9,
                },
                RpcError::MethodNotFound {
                    service: text(),
                    method: "add".to_owned(),
                },
                Ran::No,
            ),
            (
                Fault::BadArguments { reason: text() },
                RpcError::BadArguments { reason: in_call() },
                Ran::No,
            ),
            (
                Fault::ReplyTooLarge { size, limit },
                RpcError::ReplyTooLarge { size, limit },
                Ran::Yes,
            ),
            (
                Fault::ServiceDown { service: text() },
                RpcError::ServiceDown { service: text() },
                Ran::Unknown,
            ),
            (
                Fault::Returned {
                    type_name: text(),
                    message: text(),
                    value: vec![1],
                    codec: PayloadCodec::Pickle,
                    type_path: text(),
                },
                RpcError::Remote {
                    type_name: text(),
                    message: text(),
                    traceback: String::new(),
                    value: Some(ReturnedValue(Box::new(EncodedError {
                        bytes: vec![1],
                        codec: PayloadCodec::Pickle,
                        type_path: text(),
                    }))),
                },
                Ran::Yes,
            ),
            (
                Fault::Expired,
                RpcError::Timeout {
                    peer: "w:0".to_owned(),
                    method: "add".to_owned(),
                    after: Duration::ZERO,
                    ran: Ran::No,
                },
                Ran::No,
            ),
            (
                Fault::RequestTooLarge { size, limit },
                RpcError::TooLarge {
                    size: 70_000,
                    limit: 32_752,
                },
                Ran::No,
            ),
            (
                Fault::NoMemory {
                    size,
                    reason: text(),
                    is_reply: true,
                },
                RpcError::NoMemory {
                    size: 70_000,
                    reason: in_call(),
                    ran: Ran::Yes,
                },
                Ran::Yes,
            ),
            (
                Fault::Stalled { after_ms: 5 },
                RpcError::Stalled {
                    after: Duration::from_millis(5),
                },
                Ran::Yes,
            ),
        ] {
            let found = RpcError::from_fault(fault, "w:0", "add");
            assert_eq!((found.ran(), found), (ran, error));
        }
        // Small errors matter here: a call hands its result through several functions.
        assert!(size_of::<RpcError>() <= 96, "{}", size_of::<RpcError>());
        let not_streamed = RpcError::from_fault(Fault::NotStreamed, "w:0", "add").to_string();
        assert!(not_streamed.contains("stream of items"), "{not_streamed}");
    }

    #[test]
    fn a_peer_that_does_not_answer_is_named_and_a_limit_beside_it() {
        for (limit, why) in [
            (None, "it may have died"),
            (Some(SystemLimit::OpenFilesOfAll), "fs.file-max"),
        ] {
            let error = AgentError::ConnectTimeout {
                peer: "w:0".to_owned(),
                waited: Duration::from_secs(5),
                limit,
            };
            let text = error.to_string();
            for part in ["`w:0`", "5s", why] {
                assert!(text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn errors_that_give_a_reason_say_in_which_call() {
        let of_call = |error| RpcError::from_call(error, "w:0", "add");
        for error in [
            of_call(CallError::Encode("text".to_owned())),
            of_call(CallError::NoMemory {
                size: 1,
                reason: "text".to_owned(),
                is_answer: false,
            }),
            of_call(CallError::Timeout {
                after: Duration::ZERO,
                sent: true,
            }),
            RpcError::bad_reply(&DecodeError::Trailing { extra: 3 }, "w:0", "add"),
        ] {
            let text = error.to_string();
            assert!(text.contains("`w:0`") && text.contains("`add`"), "{text}");
        }
    }
}

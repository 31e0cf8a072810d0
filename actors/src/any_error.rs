//! One error for everything that can go wrong.

use serde::{Deserialize, Serialize};

use crate::{
    AgentError, BufferError, DiscoveryError, GroupError, MemberError, Ran, RpcError, SendError,
};

/// Any error of this crate, for functions that combine several operations and use `?` on each.
///
/// The error can travel: a handler may return `Result<_, Error>`, and its caller gets it by
/// [`RpcError::returned::<Error>()`](RpcError::returned).
///
/// ```no_run
/// use slimerpc_actors::{Error, Group, PeerAgent, service};
///
/// struct Shard;
///
/// #[service]
/// impl Shard {
///     #[method]
///     fn sum(&mut self, of: Vec<f64>) -> f64 {
///         of.iter().sum()
///     }
/// }
///
/// async fn sums(agent: &PeerAgent, of: Vec<f64>) -> Result<Vec<f64>, Error> {
///     let first = agent.proxy::<Shard>("shard:0").await?;
///     let second = agent.proxy_any::<Shard>().await?;
///     println!("{}", first.sum(vec![1.0]).await?);
///     Ok(Group::new([first, second])?.broadcast(Sum { of }).await?)
/// }
/// ```
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] RpcError),
    /// An agent could not start, connect, serve or make a proxy.
    #[error(transparent)]
    Agent(Box<AgentError>),
    /// No service of a type was found.
    #[error(transparent)]
    Discovery(Box<DiscoveryError>),
    /// Memory could not be used.
    #[error(transparent)]
    Buffer(Box<BufferError>),
    /// A group cannot be called like this.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A call of a group's member failed.
    #[error(transparent)]
    Member(Box<MemberError>),
}

impl Error {
    /// Returns whether the handler of the failed call ran; [`Ran::No`] if no call was made.
    ///
    /// ```
    /// use slimerpc_actors::{Error, GroupError, Ran};
    /// assert_eq!(Error::from(GroupError::Empty).ran(), Ran::No);
    /// ```
    pub fn ran(&self) -> Ran {
        match self {
            Self::Call(error) => error.ran(),
            Self::Member(error) => error.error.ran(),
            Self::Agent(_) | Self::Discovery(_) | Self::Buffer(_) | Self::Group(_) => Ran::No,
        }
    }
}

impl From<AgentError> for Error {
    fn from(error: AgentError) -> Self {
        Self::Agent(Box::new(error))
    }
}

impl From<DiscoveryError> for Error {
    fn from(error: DiscoveryError) -> Self {
        Self::Discovery(Box::new(error))
    }
}

impl From<BufferError> for Error {
    fn from(error: BufferError) -> Self {
        Self::Buffer(Box::new(error))
    }
}

impl From<MemberError> for Error {
    fn from(error: MemberError) -> Self {
        Self::Member(Box::new(error))
    }
}

impl<M> From<SendError<M>> for Error {
    /// Converts the error, and drops the message that it carries.
    fn from(unsent: SendError<M>) -> Self {
        Self::Call(unsent.error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use slimerpc::channel::{ConnectError, LossCause, MemoryError};
    use slimerpc::control::ControlError;
    use slimerpc::fabric::{CompletionStatus, FabricError};
    use slimerpc::wire::{DecodeError, PayloadCodec};

    use super::*;

    fn errors() -> Vec<Error> {
        let text = || "text".to_owned();
        let second = Duration::from_secs(1);
        let full = || FabricError::QueueFull {
            qp_num: 7,
            queue: "send",
            depth: 9,
        };
        vec![
            RpcError::Timeout {
                peer: text(),
                method: text(),
                after: second,
                ran: Ran::Unknown,
            }
            .into(),
            RpcError::PeerLost {
                peer: text(),
                method: text(),
                cause: LossCause::Completion(CompletionStatus::Flushed),
                ran: Ran::No,
            }
            .into(),
            RpcError::BadReply(DecodeError::Trailing { extra: 3 }).into(),
            RpcError::NotNative {
                peer: text(),
                what: "streams".into(),
            }
            .into(),
            AgentError::Control(ControlError::NotRegistered).into(),
            AgentError::Fabric(full()).into(),
            AgentError::Connect(ConnectError::Fabric(full())).into(),
            AgentError::Thread(std::io::Error::other("no more")).into(),
            AgentError::Setting {
                name: "heartbeat".into(),
                value: text(),
                allowed: text(),
            }
            .into(),
            DiscoveryError::NoneFits {
                service: "Calc",
                found: Vec::new(),
                waited: second,
            }
            .into(),
            BufferError::Memory(MemoryError::Fabric(full())).into(),
            BufferError::Revoked { owner: text() }.into(),
            GroupError::Empty.into(),
            MemberError {
                rank: 1,
                peer: text(),
                error: RpcError::Stalled { after: second },
            }
            .into(),
        ]
    }

    #[test]
    fn every_error_travels_in_both_codecs_and_says_the_same_there() {
        for codec in [PayloadCodec::Bincode, PayloadCodec::Pickle] {
            for error in errors() {
                let bytes = codec.encode_to_vec(&error).unwrap();
                let back: Error = codec.decode(&bytes).unwrap();
                assert_eq!(back.to_string(), error.to_string(), "{codec:?}");
                assert_eq!(back.ran(), error.ran());
                if let (Error::Call(back), Error::Call(error)) = (back, error) {
                    assert_eq!(back, error);
                }
            }
        }
    }

    #[test]
    fn it_is_not_larger_than_the_error_of_a_call() {
        assert!(size_of::<Error>() <= size_of::<RpcError>() + 8);
    }
}

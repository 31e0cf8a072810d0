//! Calls whose result nobody waits for, and the events of their failures.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use slimerpc::channel::{CallSpan, LossCause, OneWayCall, TellError};
use slimerpc::fabric::LinkType;
use tokio::sync::broadcast;

use crate::client::reconnect::Later;
use crate::observe::trace;
use crate::{EndCause, Outcome, Ran, RpcError};

/// A call whose result nobody waits for. It completes when the transport has taken the request: at
/// once if a credit is free, otherwise when one is. The request is delivered at most once. Dropping
/// this before it has completed takes the request back.
///
/// A later failure is an [`AgentEvent`] of the calling agent.
///
/// ```no_run
/// # use slimerpc_actors::{Proxy, RpcError, service};
/// struct Log;
///
/// #[service]
/// impl Log {
///     #[method(oneway)]
///     fn line(&mut self, text: String) {
///         println!("{text}");
///     }
/// }
///
/// # async fn example(log: Proxy<Log>) -> Result<(), RpcError> {
/// log.line("nobody waits for this to be printed".into()).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a request that the transport has not taken is taken back when this is dropped"]
pub struct Tell(TellState);

enum TellState {
    Sent(OneWayCall),
    /// The peer is away.
    Later(Box<Later<OneWayCall>>),
    Failed(RpcError),
    /// Somebody wants to know how the call ends.
    Traced(Box<(Tell, CallSpan)>),
    Done,
}

impl Tell {
    pub(crate) fn new(told: Result<OneWayCall, RpcError>) -> Self {
        Self(match told {
            Ok(call) => TellState::Sent(call),
            Err(error) => TellState::Failed(error),
        })
    }

    pub(crate) fn later(call: Box<Later<OneWayCall>>) -> Self {
        Self(TellState::Later(call))
    }

    /// Tells `span`, if there is one, what becomes of the request.
    pub(crate) fn traced(mut self, span: Option<CallSpan>) -> Self {
        let Some(mut span) = span else { return self };
        // It may be dropped without a look at it.
        let outcome = match &mut self.0 {
            TellState::Sent(call) => {
                let is_taken = call.poll_taken(Waker::noop()).is_ready();
                is_taken.then_some(Outcome::Told)
            }
            TellState::Failed(error) => Some(trace::outcome(error)),
            _ => None,
        };
        if let Some(outcome) = outcome {
            span.ends(outcome);
        }
        Self(TellState::Traced(Box::new((self, span))))
    }
}

impl Future for Tell {
    type Output = Result<(), RpcError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match std::mem::replace(&mut self.0, TellState::Done) {
            TellState::Sent(mut call) => match call.poll_taken(context.waker()) {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => {
                    self.0 = TellState::Sent(call);
                    Poll::Pending
                }
            },
            TellState::Later(mut call) => match call.poll(context) {
                Poll::Ready(told) => {
                    *self = Self::new(told);
                    self.poll(context)
                }
                Poll::Pending => {
                    self.0 = TellState::Later(call);
                    Poll::Pending
                }
            },
            TellState::Failed(error) => Poll::Ready(Err(error)),
            TellState::Traced(mut traced) => {
                let (tell, span) = &mut *traced;
                let told = Pin::new(tell).poll(context);
                match &told {
                    Poll::Ready(Ok(())) => span.ends(Outcome::Told),
                    Poll::Ready(Err(error)) => span.ends(trace::outcome(error)),
                    Poll::Pending => self.0 = TellState::Traced(traced),
                }
                told
            }
            TellState::Done => panic!("a tell is polled after it was ready"),
        }
    }
}

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            TellState::Sent(_) => "Tell(sent)",
            TellState::Later(_) => "Tell(later)",
            TellState::Failed(_) => "Tell(failed)",
            TellState::Traced(traced) => return traced.0.fmt(f),
            TellState::Done => "Tell(done)",
        })
    }
}

/// An event of an agent that is not the result of a call; see
/// [`PeerAgent::events`](crate::PeerAgent::events).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AgentEvent {
    /// A call whose result nobody waits for has failed.
    TellFailed {
        /// Alias of the peer.
        peer: String,
        /// Name of the service.
        service: String,
        /// Name of the method.
        method: String,
        /// Why the call failed.
        error: RpcError,
    },
    /// An instance of a service of this agent ended, and another has taken its place.
    Restarted {
        /// Name of the service.
        service: String,
        /// Why the previous instance ended, or the start before this one failed.
        cause: EndCause,
        /// How often the service has been restarted since it was served, including this time and
        /// failed starts.
        restarts: u64,
    },
    /// A service of this agent has ended, and is not restarted; see [`Restart`](crate::Restart).
    GivenUp {
        /// Name of the service.
        service: String,
        /// Why it ended.
        cause: EndCause,
    },
    /// Two connections with a peer failed soon after they were made. New ones use another fabric,
    /// for five minutes or until the peer comes back as another incarnation.
    FabricChanged {
        /// Alias of the peer.
        peer: String,
        /// The kind of link that fails.
        from: LinkType,
        /// The kind of link that is used instead.
        to: LinkType,
        /// Why the last connection failed.
        cause: LossCause,
    },
}

/// The events of an agent from the subscription on. [`PeerAgent::events`](crate::PeerAgent::events)
/// makes it.
#[derive(Debug)]
pub struct Events(pub(crate) broadcast::Receiver<AgentEvent>);

impl Events {
    /// Waits for the next event; `None` once the agent has gone. A reader that falls more than
    /// 1,024 events behind misses the oldest.
    pub async fn next(&mut self) -> Option<AgentEvent> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "events of an agent were not read in time");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// The error of a failed call, as its caller would have got it.
pub(crate) fn error(cause: TellError, peer: &str, method: &str) -> RpcError {
    match cause {
        TellError::Fault(fault) => RpcError::from_fault(fault, peer, method),
        TellError::Lost { cause, sent } => RpcError::PeerLost {
            peer: peer.to_owned(),
            method: method.to_owned(),
            cause,
            ran: if sent { Ran::Unknown } else { Ran::No },
        },
    }
}

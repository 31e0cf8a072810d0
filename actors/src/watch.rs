//! What becomes of peers.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix::Message;
use futures_util::stream::{BoxStream, StreamExt};
use futures_util::{Stream, stream};
use slimerpc::channel::LossCause;
use tokio::sync::broadcast;

/// What becomes of a peer; see [`PeerAgent::watch`](crate::PeerAgent::watch).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// It is there, for the first time.
    Connected {
        /// Which life of it.
        incarnation: u64,
    },
    /// It gives no signs of life, though its end of the connection is there: it was stopped, say, or does nothing but compute.
    /// Calls to it wait, until their deadlines if they have some.
    Stalled,
    /// It gives signs of life again.
    Recovered,
    /// Its end of the connection is gone. Its calls have ended with [`PeerLost`](crate::RpcError::PeerLost).
    Lost {
        /// What was noticed.
        cause: LossCause,
    },
    /// It is there again; proxies for it work again as soon as its services are found.
    Reconnected {
        /// Which life of it: another one if it was restarted.
        incarnation: u64,
    },
    /// It has left, as it should.
    Left,
}

impl PeerEvent {
    /// Whether the peer cannot be called any more, for now.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Left)
    }
}

/// The events of one peer, as a stream. Made by [`PeerAgent::watch`](crate::PeerAgent::watch) and
/// [`Proxy::watch`](crate::Proxy::watch); ends with the agent. Who falls more than 64 events behind misses the oldest.
pub struct Watch(BoxStream<'static, PeerEvent>);

impl Watch {
    /// What is known already comes first.
    pub(crate) fn new(known: Vec<PeerEvent>, events: broadcast::Receiver<PeerEvent>) -> Self {
        let events = stream::unfold(events, async |mut events| {
            loop {
                match events.recv().await {
                    Ok(event) => return Some((event, events)),
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "events of a peer were not read in time");
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        Self(stream::iter(known).chain(events).boxed())
    }
}

impl Stream for Watch {
    type Item = PeerEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<PeerEvent>> {
        self.0.poll_next_unpin(context)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// A peer that was watched is gone: what an actor is told by [`PeerAgent::death_watch`](crate::PeerAgent::death_watch).
///
/// ```no_run
/// # use actix::{Actor, Context, Handler};
/// # use slimerpc_actors::Terminated;
/// struct Router;
///
/// # impl Actor for Router {
/// #     type Context = Context<Self>;
/// # }
/// impl Handler<Terminated> for Router {
///     type Result = ();
///
///     fn handle(&mut self, gone: Terminated, _: &mut Context<Self>) {
///         println!("{} is gone: {:?}", gone.peer, gone.event);
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Terminated {
    /// Its alias.
    pub peer: String,
    /// [`Lost`](PeerEvent::Lost) or [`Left`](PeerEvent::Left).
    pub event: PeerEvent,
}

//! What becomes of peers.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix::Message;
use futures_util::stream::{BoxStream, StreamExt};
use futures_util::{Stream, future, stream};
use slimerpc::channel::LossCause;
use tokio::sync::{broadcast, watch};

use crate::AgentError;

/// What becomes of a peer; see [`PeerAgent::watch`](crate::PeerAgent::watch).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// It is there, for the first time.
    Connected {
        /// Which life of it.
        incarnation: u64,
    },
    /// It gives no signs of life, though its end of the connection is there: it was stopped, say,
    /// or does nothing but compute. Calls to it wait, until their deadlines if they have some.
    Stalled,
    /// It gives signs of life again.
    Recovered,
    /// Its end of the connection is gone. Its calls have ended with
    /// [`PeerLost`](crate::RpcError::PeerLost).
    Lost {
        /// What was noticed.
        cause: LossCause,
    },
    /// It is there again. [`Proxy::watch`](crate::Proxy::watch) says so once calls through that
    /// proxy can be made; [`PeerAgent::watch`](crate::PeerAgent::watch) as soon as the agent can be
    /// reached, which may be before it serves anything: [`Proxy::ready`](crate::Proxy::ready) waits
    /// for that.
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
/// [`Proxy::watch`](crate::Proxy::watch); ends with the agent. Who falls more than 64 events behind
/// misses the oldest.
pub struct Watch(BoxStream<'static, PeerEvent>);

impl Watch {
    /// What is known already, once that is certain, comes first.
    pub(crate) fn new(
        known: impl Future<Output = Option<PeerEvent>> + Send + 'static,
        events: broadcast::Receiver<PeerEvent>,
    ) -> Self {
        let known = stream::once(known).filter_map(future::ready);
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
        Self(known.chain(events).boxed())
    }
}

impl Watch {
    /// As a proxy tells it: that the peer is there once `can_call` says that this life of it can be
    /// called, which it is asked whenever something was `adopted`. Of a life that is lost before,
    /// nothing is told.
    pub(crate) fn of_proxy(
        self,
        adopted: watch::Receiver<()>,
        can_call: impl Fn(u64) -> bool + Send + 'static,
    ) -> Self {
        let held = HeldEvents {
            events: self,
            adopted,
            can_call,
            queue: VecDeque::new(),
            has_ended: false,
        };
        let events = stream::unfold(held, async |mut held| Some((held.next().await?, held)));
        Self(events.boxed())
    }
}

/// Events of a peer, from one that says that it is there and is held back.
struct HeldEvents<F> {
    events: Watch,
    adopted: watch::Receiver<()>,
    can_call: F,
    /// Those that are held back.
    queue: VecDeque<PeerEvent>,
    /// An end was told last.
    has_ended: bool,
}

impl<F: Fn(u64) -> bool> HeldEvents<F> {
    async fn next(&mut self) -> Option<PeerEvent> {
        loop {
            self.adopted.mark_unchanged();
            let is_held = match self.queue.front() {
                Some(
                    PeerEvent::Connected { incarnation } | PeerEvent::Reconnected { incarnation },
                ) => !(self.can_call)(*incarnation),
                Some(_) => false,
                None => true,
            };
            if !is_held && let Some(event) = self.queue.pop_front() {
                self.has_ended = event.is_end();
                return Some(event);
            }
            let event = tokio::select! {
                event = self.events.next() => event?,
                // An error: the proxy has gone, so nothing is held back any more.
                _ = self.adopted.changed(), if !self.queue.is_empty() => continue,
            };
            if !event.is_end() {
                self.queue.push_back(event);
                continue;
            }
            // What is held back is not so any more.
            let was_held = !self.queue.is_empty();
            self.queue.clear();
            if !(was_held && self.has_ended && matches!(event, PeerEvent::Lost { .. })) {
                self.queue.push_back(event);
            }
        }
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

/// A peer that was watched is gone: what an actor is told by
/// [`PeerAgent::death_watch`](crate::PeerAgent::death_watch).
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

/// Begins to watch a peer.
#[derive(Message)]
#[rtype(result = "Result<Watch, AgentError>")]
pub(crate) struct Follow {
    pub(crate) peer: String,
    pub(crate) timeout: Duration,
}

//! Events of peers.

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

/// A change in the status of a peer; see [`PeerAgent::watch`](crate::PeerAgent::watch).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// The peer can be reached for the first time.
    Connected {
        /// Incarnation of the peer.
        incarnation: u64,
    },
    /// The peer sends no heartbeats, although its end of the connection exists: it was stopped,
    /// say, or does nothing but compute. Calls to it wait, until their deadlines if they have some.
    Stalled,
    /// The peer sends heartbeats again.
    Recovered,
    /// The peer's end of the connection is gone. Its calls have ended with
    /// [`PeerLost`](crate::RpcError::PeerLost).
    Lost {
        /// How the loss was noticed.
        cause: LossCause,
    },
    /// The peer can be reached again. [`Proxy::watch`](crate::Proxy::watch) reports it once calls
    /// through that proxy can be made; [`PeerAgent::watch`](crate::PeerAgent::watch) reports it as
    /// soon as the agent can be reached, which may be before it serves anything:
    /// [`Proxy::ready`](crate::Proxy::ready) waits for that.
    Reconnected {
        /// Incarnation of the peer: another number if it was restarted.
        incarnation: u64,
    },
    /// The peer has left cleanly.
    Left,
}

impl PeerEvent {
    /// Returns whether the peer cannot be called after this event.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Left)
    }
}

/// The events of one peer, as a stream. [`PeerAgent::watch`](crate::PeerAgent::watch) and
/// [`Proxy::watch`](crate::Proxy::watch) make it; it ends with the agent. A reader that falls more
/// than 64 events behind misses the oldest.
pub struct Watch(BoxStream<'static, PeerEvent>);

impl Watch {
    /// Makes a stream that begins with the present status, once that is certain.
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
        // What is known may be so by an event that came since the subscription.
        let mut up = None;
        let is_news = move |event: &PeerEvent| {
            let before = up;
            match event {
                PeerEvent::Connected { incarnation } | PeerEvent::Reconnected { incarnation } => {
                    up = Some(*incarnation);
                    return future::ready(before != up);
                }
                PeerEvent::Lost { .. } | PeerEvent::Left => up = None,
                PeerEvent::Stalled | PeerEvent::Recovered => {}
            }
            future::ready(true)
        };
        Self(known.chain(events).filter(is_news).boxed())
    }
}

impl Watch {
    /// Makes the stream of a proxy. It reports that the peer can be reached only when `can_call`
    /// says so for that incarnation, which it asks whenever a connection was `adopted`. An
    /// incarnation that is lost before is not reported.
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

/// Events of a peer that are held back, because calls through the proxy cannot be made yet.
struct HeldEvents<F> {
    events: Watch,
    adopted: watch::Receiver<()>,
    can_call: F,
    /// The events that are held back.
    queue: VecDeque<PeerEvent>,
    /// Whether the last reported event was an end.
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
                // An error means that the proxy has gone: nothing is held back any more.
                _ = self.adopted.changed(), if !self.queue.is_empty() => continue,
            };
            if !event.is_end() {
                self.queue.push_back(event);
                continue;
            }
            // What was held back can be reported now.
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

/// A watched peer is gone: the message that
/// [`PeerAgent::death_watch`](crate::PeerAgent::death_watch) sends to an actor.
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
    /// Alias of the peer.
    pub peer: String,
    /// Either [`Lost`](PeerEvent::Lost) or [`Left`](PeerEvent::Left).
    pub event: PeerEvent,
}

/// Begins to watch a peer.
#[derive(Message)]
#[rtype(result = "Result<Watch, AgentError>")]
pub(crate) struct Follow {
    pub(crate) peer: String,
    pub(crate) timeout: Duration,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[actix::test]
    async fn a_peer_that_is_reached_is_reported_once_until_it_is_lost() {
        let (sender, receiver) = broadcast::channel(8);
        let lost = PeerEvent::Lost {
            cause: LossCause::Gone,
        };
        let events = [
            PeerEvent::Connected { incarnation: 1 },
            PeerEvent::Stalled,
            lost,
            PeerEvent::Reconnected { incarnation: 1 },
            PeerEvent::Left,
            PeerEvent::Reconnected { incarnation: 2 },
        ];
        for event in &events {
            sender.send(event.clone()).unwrap();
        }
        drop(sender);
        let known = future::ready(Some(events[0].clone()));
        let read: Vec<_> = Watch::new(known, receiver).collect().await;
        assert_eq!(read, events);
    }
}

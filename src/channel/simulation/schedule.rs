//! The events to come, under a virtual clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::agent::Spot;
use super::fabric::{Flight, Port};
use super::trouble::Trouble;
use crate::channel::core::caller::CallId;
use crate::channel::peer_connection::{HandshakeMessage, Session};

/// Microseconds since the world began.
pub(super) type Micros = u64;

/// An event to come. An event for an agent names the incarnation that it is meant for, unless the
/// outside world causes it.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// A message comes to the other end of its queue pair.
    Arrive(Flight),
    /// A queue pair goes to ERR: its peer does not answer.
    Fail(Port),
    /// An agent looks at its completions.
    Poll(Spot),
    /// A handler has come to its end.
    Handled(Spot, Port),
    /// The arguments of a call are encoded, or cannot be.
    Encoded(Spot, Port, CallId),
    /// Whoever makes the items of this stream goes on.
    Item(Spot, Port, u64),
    /// A deadline may have passed, or an answer is to be read.
    Look(Spot, usize),
    /// An agent makes a call.
    Call(Spot, usize),
    /// The machine of a link wanted to be told the time.
    Timer(Spot, usize),
    /// A look-up is answered.
    Record(Spot, usize),
    /// Queue pairs are made, or cannot be.
    Made(Spot, usize, Session),
    /// Queue pairs are drained.
    Drained(Spot, usize, Session),
    /// A message arrives at the present owner of the alias.
    Mail(usize, usize, HandshakeMessage<Port>),
    /// An agent wants its connections.
    Want(Spot),
    /// Something goes wrong.
    Trouble(Trouble),
    /// Nothing goes wrong any more, and no more calls are made.
    Calm,
}

impl Event {
    /// The incarnation that it is for.
    pub(super) fn spot(&self) -> Option<Spot> {
        match self {
            Self::Poll(spot)
            | Self::Handled(spot, _)
            | Self::Encoded(spot, ..)
            | Self::Item(spot, ..)
            | Self::Look(spot, _)
            | Self::Call(spot, _)
            | Self::Timer(spot, _)
            | Self::Record(spot, _)
            | Self::Want(spot)
            | Self::Made(spot, ..)
            | Self::Drained(spot, ..) => Some(*spot),
            Self::Arrive(_) | Self::Fail(_) | Self::Mail(..) | Self::Trouble(_) | Self::Calm => {
                None
            }
        }
    }
}

/// The clock and what it will bring. Of two events at one time, the one that was planned first
/// comes first.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) now: Micros,
    began: Instant,
    order: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    planned: u64,
}

impl Schedule {
    pub(super) fn new() -> Self {
        Self {
            now: 0,
            began: Instant::now(),
            order: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            planned: 0,
        }
    }

    pub(super) fn at(&mut self, at: Micros, event: Event) {
        let place = self.free.pop().unwrap_or(self.events.len());
        if place == self.events.len() {
            self.events.push(Some(event));
        } else {
            self.events[place] = Some(event);
        }
        self.planned += 1;
        self.order
            .push(Reverse((at.max(self.now), self.planned, place)));
    }

    pub(super) fn after(&mut self, delay: Micros, event: Event) {
        self.at(self.now + delay, event);
    }

    /// What happens next; it is that time then.
    pub(super) fn next(&mut self) -> Option<Event> {
        let Reverse((at, _, place)) = self.order.pop()?;
        self.now = at;
        self.free.push(place);
        self.events[place].take()
    }

    /// The time as the machines are told it.
    pub(super) fn instant(&self) -> Instant {
        self.began + Duration::from_micros(self.now)
    }

    pub(super) fn instant_of(&self, at: Micros) -> Instant {
        self.began + Duration::from_micros(at)
    }

    /// The first whole microsecond at which it is `at`.
    pub(super) fn micros_of(&self, at: Instant) -> Micros {
        let nanos = at.saturating_duration_since(self.began).as_nanos();
        u64::try_from(nanos.div_ceil(1000)).unwrap_or(u64::MAX)
    }
}

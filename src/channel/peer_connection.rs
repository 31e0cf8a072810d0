//! Decides whether and how two agents connect their monitors: a state machine without I/O or clock,
//! one at each end.
//!
//! Either end may begin, both may begin at once, and either may die and come back under its alias
//! as another incarnation. The machine receives what happens ([`Input`]), returns what is to be
//! done ([`Action`]), and guarantees:
//!
//! - **One connection.** A [`Session`] is named by its opener's incarnation and the number of the
//!   attempt. When both ends open at once, the attempt of the smaller incarnation goes on and the
//!   other end accepts it; the attempts that it crossed are void.
//! - **FENCE-1.** Incarnations are random numbers, so two of them do not show which is the earlier,
//!   and messages and records may be late. The machine therefore believes in one incarnation of the
//!   peer, and changes to another only when that has *proved to be alive since*: it has answered an
//!   attempt of this end, or echoed a challenge that was made after the last change. (TCP's
//!   three-way handshake and DTLS's cookies tell a new connection from a late packet of an old one
//!   in the same way.) Everything else that another incarnation has sent is dropped.
//! - **SLOT-1.** The resources of a session are reused only once it is [`Drained`](Input::Drained):
//!   at most one session has queue pairs at any time.
//!
//! ```text
//!            look up       record        make, open      accept
//!   Waiting ────────▶ Looking ─────▶ Opening ─────────────────────▶ Connected
//!      ▲                 │              │  their open, if they win     │ lost, ended,
//!      │                 │              ▼  or we were not opening      │ a newer open
//!      │                 │           Draining ──────▶ Accepting ──▶ Connected
//!      └─────────────────┴──────────────┴──────────────────────────────┘
//!                             time is up, or drained
//! ```

mod handshake_message;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use handshake_message::{Action, Body, HandshakeMessage, Input, RetryTiming, Session};

use crate::clock::later;

/// How often the time for an answer doubles.
const LONGEST_ANSWER: u32 = 3;

/// One end of a connection between two agents; see the module's description for what it guarantees.
/// `E` is what one end must know of the other to connect.
#[derive(Debug, Clone)]
pub struct PeerConnection<E> {
    /// Incarnation of this end.
    me: u64,
    timing: RetryTiming,
    phase: Phase<E>,
    wanted: bool,
    /// The incarnation of the peer that has last proved to be alive.
    believed: Option<u64>,
    /// How often `believed` has changed: the number in this end's challenges. An echo of an older
    /// number proves nothing about the present.
    epoch: u64,
    /// The latest attempt of the believed incarnation that was handled. Earlier attempts are void.
    heard: u64,
    /// Number of attempts of this end.
    attempts: u64,
    /// Attempts since the last success.
    failures: u32,
    actions: VecDeque<Action<E>>,
}

#[derive(Debug, Clone)]
enum Phase<E> {
    /// The connection is not wanted.
    Idle,
    /// Waits until the next attempt.
    Waiting(Instant),
    /// Waits for the peer's record.
    Looking(Instant),
    /// This end has begun. `peer` is the incarnation that it opens to, and `ours` this end's
    /// endpoint once it is made.
    Opening {
        session: Session,
        peer: u64,
        ours: Option<E>,
        until: Instant,
    },
    /// The peer has begun, and this end's endpoint is being made.
    Accepting {
        session: Session,
        peer: u64,
        theirs: E,
    },
    Connected {
        session: Session,
        peer: u64,
    },
    /// A session is being drained; afterwards `next` is accepted, if the peer has opened it
    /// meanwhile.
    Draining {
        session: Session,
        next: Option<Opened<E>>,
    },
}

/// A session that the peer has opened.
#[derive(Debug, Clone)]
struct Opened<E> {
    session: Session,
    peer: u64,
    theirs: E,
}

impl<E: Clone> PeerConnection<E> {
    /// Makes one end of a connection, for an agent with this incarnation. It is neither wanted nor
    /// connected.
    pub fn new(incarnation: u64, timing: RetryTiming) -> Self {
        Self {
            me: incarnation,
            timing,
            phase: Phase::Idle,
            wanted: false,
            believed: None,
            epoch: 0,
            heard: 0,
            attempts: 0,
            failures: 0,
            actions: VecDeque::new(),
        }
    }

    /// Continues the count of attempts of an earlier connection of this incarnation, which the peer
    /// may remember: to it, attempts with smaller numbers are void.
    pub fn after(mut self, attempts: u64) -> Self {
        self.attempts = attempts;
        self
    }

    /// Number of attempts of this end.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// The session that can be used, with the peer's incarnation.
    pub fn connected(&self) -> Option<(Session, u64)> {
        match self.phase {
            Phase::Connected { session, peer } => Some((session, peer)),
            _ => None,
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting(until) | Phase::Looking(until) | Phase::Opening { until, .. } => {
                Some(until)
            }
            _ => None,
        }
    }

    /// Returns whether the connection is wanted, and an attempt has failed since it was last up.
    pub fn is_in_trouble(&self) -> bool {
        self.wanted && self.failures > 0
    }

    /// Returns whether there is an action to take.
    pub fn has_action(&self) -> bool {
        !self.actions.is_empty()
    }

    /// Takes the next action.
    pub fn poll_action(&mut self) -> Option<Action<E>> {
        let action = self.actions.pop_front();
        if let Some(Action::Up { .. }) = action {
            self.failures = 0;
        }
        action
    }

    /// Handles the time `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_timeout().is_none_or(|until| now < until) {
            return;
        }
        match self.phase {
            Phase::Waiting(_) => self.look_up(now),
            Phase::Opening { session, .. } => self.drain(session, None),
            _ => self.wait(now),
        }
    }

    /// Handles an input at the time `now`.
    pub fn handle(&mut self, input: Input<E>, now: Instant) {
        match input {
            Input::Want => {
                self.wanted = true;
                if matches!(self.phase, Phase::Idle) {
                    self.look_up(now);
                }
            }
            Input::Leave => self.leave(),
            Input::Spare => self.wanted = false,
            Input::Wake => match self.phase {
                Phase::Waiting(_) => self.look_up(now),
                // The incarnation that was opened to may be dead. The attempt goes on until a
                // look-up shows another one.
                Phase::Opening { .. } => self.actions.push_back(Action::LookUp),
                _ => {}
            },
            // FENCE-1: no other agent has this incarnation, so such a record is this agent's own.
            Input::Record(record) => self.take_record(record.filter(|life| *life != self.me), now),
            // FENCE-1: the message is for an earlier incarnation of this end, or claims to come
            // from this one.
            Input::HandshakeMessage(message)
                if message.to != self.me || message.from == self.me => {}
            Input::HandshakeMessage(message) => self.take_message(message),
            Input::Made { session, endpoint } => self.made(session, endpoint),
            Input::Lost(session) => {
                if self.current() == Some(session) {
                    self.drain(session, None);
                }
            }
            Input::Drained(session) => self.drained(session, now),
        }
    }

    /// The session that has queue pairs and is not being drained.
    fn current(&self) -> Option<Session> {
        match self.phase {
            Phase::Opening { session, .. }
            | Phase::Accepting { session, .. }
            | Phase::Connected { session, .. } => Some(session),
            Phase::Idle | Phase::Waiting(_) | Phase::Looking(_) | Phase::Draining { .. } => None,
        }
    }

    fn look_up(&mut self, now: Instant) {
        self.phase = Phase::Looking(later(now, self.timing.answer));
        self.actions.push_back(Action::LookUp);
    }

    /// Waits before the next attempt, if the connection is wanted: exponentially longer, with a
    /// share that depends on the incarnation, so that two ends do not retry in step.
    fn wait(&mut self, now: Instant) {
        if !self.wanted {
            self.phase = Phase::Idle;
            return;
        }
        let doubled = self
            .timing
            .first
            .saturating_mul(2_u32.pow(self.failures.min(16)));
        let most = doubled.min(self.timing.last);
        self.failures = self.failures.saturating_add(1);
        let share = (self.me.rotate_left(self.failures) % 1024) as u32;
        self.phase = Phase::Waiting(later(now, most / 2 + most / 2048 * share));
    }

    /// How long the peer may take to answer: longer after each failure. One that is asked by a
    /// thousand others would otherwise be asked again by all of them before it answers the first.
    fn patience(&self) -> Duration {
        let most = self.failures.min(LONGEST_ANSWER);
        self.timing.answer.saturating_mul(1 << most)
    }

    fn take_record(&mut self, record: Option<u64>, now: Instant) {
        if let Phase::Opening { session, peer, .. } = self.phase
            && record.is_some_and(|record| record != peer)
        {
            // The incarnation that was opened to is gone; the new one deserves no pause.
            self.failures = 0;
            return self.drain(session, None);
        }
        if !matches!(self.phase, Phase::Looking(_)) {
            return;
        }
        let Some(peer) = record else {
            return self.wait(now);
        };
        self.attempts += 1;
        let session = Session {
            opener: self.me,
            attempt: self.attempts,
        };
        self.phase = Phase::Opening {
            session,
            peer,
            ours: None,
            until: later(now, self.patience()),
        };
        self.actions.push_back(Action::Make(session));
    }

    fn take_message(&mut self, message: HandshakeMessage<E>) {
        let HandshakeMessage {
            from,
            session,
            body,
            ..
        } = message;
        match body {
            Body::Open { endpoint, echo } => {
                let opened = Opened {
                    session,
                    peer: from,
                    theirs: endpoint,
                };
                self.take_open(opened, echo);
            }
            Body::Challenge(number) => self.take_challenge(from, session, number),
            Body::Accept { endpoint, void } => self.take_accept(from, session, endpoint, void),
            Body::End => self.take_end(from, session),
        }
    }

    fn take_open(&mut self, opened: Opened<E>, echo: Option<u64>) {
        let (session, peer) = (opened.session, opened.peer);
        if session.opener != peer {
            return;
        }
        let is_known = self.believed.is_none_or(|believed| believed == peer);
        if !is_known && echo != Some(self.epoch) {
            // FENCE-1: this incarnation may have died since it wrote the open. A late open of a
            // dead one must not end the connection with its successor, so ask for an echo.
            return self.send(peer, session, Body::Challenge(self.epoch));
        }
        if is_known && session.attempt <= self.heard {
            // An attempt that was handled or is void: its open is late, or came twice.
            return;
        }
        match self.phase {
            // Both ends have begun at once, and this end's attempt goes on.
            Phase::Opening { peer: meant, .. } if meant == peer && self.me < peer => return,
            _ => {}
        }
        self.believe(peer);
        self.heard = session.attempt;
        if let Some(current) = self.current() {
            self.drain(current, Some(opened));
        } else if let Phase::Draining { next, .. } = &mut self.phase {
            *next = Some(opened);
        } else {
            self.accept(opened);
        }
    }

    /// Notes that this incarnation of the peer has proved to be alive since the last change.
    fn believe(&mut self, peer: u64) {
        if self.believed != Some(peer) {
            self.believed = Some(peer);
            self.heard = 0;
            self.epoch += 1;
        }
    }

    /// Answers a peer that asks whether this end is alive.
    fn take_challenge(&mut self, from: u64, session: Session, number: u64) {
        if let Phase::Opening {
            session: current,
            peer,
            ours: Some(ours),
            ..
        } = &self.phase
            && (*current, *peer) == (session, from)
        {
            let (endpoint, echo) = (ours.clone(), Some(number));
            self.send(from, session, Body::Open { endpoint, echo });
        }
    }

    fn take_accept(&mut self, from: u64, session: Session, endpoint: E, void: u64) {
        match self.phase {
            Phase::Opening {
                session: current,
                peer,
                ..
            } if current == session && peer == from => {
                self.believe(peer);
                // Opens of the peer that crossed this attempt may still arrive.
                self.heard = self.heard.max(void);
                let theirs = endpoint;
                self.actions.push_back(Action::Join { session, theirs });
                self.up(session, peer);
            }
            _ if self.current() == Some(session) => {}
            // The peer waits for a session that this end has given up.
            _ => self.send(from, session, Body::End),
        }
    }

    fn take_end(&mut self, from: u64, session: Session) {
        let is_peer = match self.phase {
            Phase::Opening { peer, .. }
            | Phase::Accepting { peer, .. }
            | Phase::Connected { peer, .. } => peer == from,
            Phase::Draining { ref mut next, .. } => {
                next.take_if(|next| next.session == session);
                false
            }
            _ => false,
        };
        if is_peer && self.current() == Some(session) {
            self.drain(session, None);
        }
    }

    fn accept(&mut self, opened: Opened<E>) {
        self.phase = Phase::Accepting {
            session: opened.session,
            peer: opened.peer,
            theirs: opened.theirs,
        };
        self.actions.push_back(Action::Make(opened.session));
    }

    fn made(&mut self, session: Session, endpoint: E) {
        if self.current() != Some(session) {
            return;
        }
        match &mut self.phase {
            Phase::Opening { peer, ours, .. } => {
                let (peer, echo) = (*peer, None);
                *ours = Some(endpoint.clone());
                self.send(peer, session, Body::Open { endpoint, echo });
            }
            Phase::Accepting { peer, theirs, .. } => {
                let (peer, theirs) = (*peer, theirs.clone());
                self.actions.push_back(Action::Join { session, theirs });
                let void = self.attempts;
                self.send(peer, session, Body::Accept { endpoint, void });
                self.up(session, peer);
            }
            _ => {}
        }
    }

    fn up(&mut self, session: Session, peer: u64) {
        self.phase = Phase::Connected { session, peer };
        self.actions.push_back(Action::Up { session, peer });
    }

    fn drain(&mut self, session: Session, next: Option<Opened<E>>) {
        // A session that could not be joined is never up, at either end.
        self.actions.retain(|action| match action {
            Action::Up { session: up, .. } => *up != session,
            Action::Send(message) => {
                message.session != session || !matches!(message.body, Body::Accept { .. })
            }
            _ => true,
        });
        self.phase = Phase::Draining { session, next };
        self.actions.push_back(Action::Drain(session));
    }

    fn drained(&mut self, session: Session, now: Instant) {
        let Phase::Draining {
            session: current,
            next,
        } = &mut self.phase
        else {
            return;
        };
        if *current != session {
            return;
        }
        match next.take() {
            Some(opened) => self.accept(opened),
            None => self.wait(now),
        }
    }

    fn leave(&mut self) {
        self.wanted = false;
        if let Phase::Connected { session, peer } = self.phase {
            self.send(peer, session, Body::End);
        }
        match self.current() {
            Some(session) => self.drain(session, None),
            None if matches!(self.phase, Phase::Draining { .. }) => {}
            None => self.phase = Phase::Idle,
        }
    }

    fn send(&mut self, to: u64, session: Session, body: Body<E>) {
        let from = self.me;
        self.actions.push_back(Action::Send(HandshakeMessage {
            from,
            to,
            session,
            body,
        }));
    }
}

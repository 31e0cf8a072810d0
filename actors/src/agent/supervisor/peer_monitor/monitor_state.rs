//! One monitor's end of the connection with its peer: carries out what a [`PeerConnection`]
//! decides, sends heartbeats and hears those of the peer. It returns as [`Effect`]s what concerns
//! the rest of the agent, for the task to carry out when nothing is borrowed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slimerpc::channel::peer_connection::{
    Action, HandshakeMessage, Input, PeerConnection, RetryTiming, Session,
};
use slimerpc::channel::{Change, Heartbeat, HeartbeatEvent, HeartbeatTiming, Liveness, LossCause};
use slimerpc::clock::later;
use slimerpc::fabric::LinkType;
use tokio::sync::Notify;

use super::super::AgentState;
use super::super::link_choice::EndedConnection;
use super::{GOODBYE, GOODBYE_LOOK, STALE_RETRY};
use crate::agent::handshake_json::LinkEndpoint;
use crate::client::watch::PeerEvent;

/// Time between two questions to the control plane whether a stalled peer is gone.
const INQUIRY: Duration = Duration::from_secs(2);
/// How long it may take to be connected again with a peer that gave the connection up just as it
/// was needed here.
const AWAKENING: Duration = Duration::from_secs(10);
const RETRY_TIMING: RetryTiming = RetryTiming {
    answer: Duration::from_millis(500),
    first: Duration::from_millis(10),
    last: Duration::from_millis(400),
};

pub(super) struct MonitorState {
    /// Alias of the peer.
    peer: String,
    /// Notified when the task has something to do.
    woken: Arc<Notify>,
    pub(super) link: PeerConnection<LinkEndpoint>,
    pub(super) inputs: VecDeque<Input<LinkEndpoint>>,
    /// This side's end of the connection, if there is one.
    pub(super) end: Option<MonitoredEnd>,
    /// The session that the peer opened last, and the kind of link that it uses.
    pub(super) opened: Option<(Session, LinkType)>,
    /// The kind of link that the next open of this side uses.
    pub(super) found: LinkType,
    pub(super) was_up: bool,
    /// The incarnation that was lost last, and when it may be tried again.
    pub(super) lost: Option<(u64, Instant)>,
    /// Why the monitor goes down, once its session is drained.
    pub(super) cause: Option<LossCause>,
    /// Whether it was logged why attempts fail.
    is_told: bool,
    /// Whether somebody here needs the connection; if not, the peer may.
    pub(super) is_needed: bool,
    /// Whether the session that is being drained was given up by an end that does not need it.
    is_resting: bool,
    /// The incarnation whose end gave the connection up just as this end came to need it, and how
    /// long it may take to be connected again.
    unsure: Option<(u64, Instant)>,
}

pub(super) struct MonitoredEnd {
    pub(super) session: Session,
    pub(super) heartbeat: Heartbeat,
    /// Set once the session is up: the incarnation of the peer, and its liveness.
    pub(super) up: Option<(u64, Liveness)>,
    /// Whether heartbeats have arrived both ways. If the connection ends before, an attempt has
    /// failed and no peer is lost: an end that has joined may still lack what it needs to send.
    pub(super) is_certain: bool,
    pub(super) beat: HeartbeatTiming,
    pub(super) next_beat: Instant,
    /// When the control plane is next asked whether a stalled peer is gone.
    pub(super) next_inquiry: Instant,
    /// Set once this end has given the connection up: when to look next whether the peer has been
    /// told, and how long that may take.
    resting: Option<(Instant, Instant)>,
    link: LinkType,
    since: Instant,
}

/// What the task does after the borrow of the monitor has ended.
pub(super) enum Effect {
    LookUp,
    Send(HandshakeMessage<LinkEndpoint>),
    Listen,
    Up(u64),
    Down(u64, LossCause),
    /// The connection has ended, which nobody needs.
    Rests,
    /// The connection with an incarnation that has joined has ended.
    Ended(EndedConnection),
    Event(PeerEvent),
    /// This incarnation of the peer sends no heartbeats: find out whether it is gone.
    Inquire(u64),
    /// The peer sent a heartbeat at this time.
    HeartbeatEvent(Instant),
}

impl MonitorState {
    /// Makes the state of a monitor that is not connected yet.
    /// It goes on after as many attempts as an earlier one has made at most.
    pub(super) fn new(
        peer: &str,
        woken: Arc<Notify>,
        incarnation: u64,
        found: LinkType,
        attempts: u64,
    ) -> Self {
        Self {
            peer: peer.to_owned(),
            woken,
            link: PeerConnection::new(incarnation, RETRY_TIMING).after(attempts),
            inputs: VecDeque::new(),
            end: None,
            opened: None,
            found,
            was_up: false,
            lost: None,
            cause: None,
            is_told: false,
            is_needed: false,
            is_resting: false,
            unsure: None,
        }
    }

    /// Notes that somebody here needs the connection, and has the peer told soon.
    pub(super) fn need(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_needed, true)
            && let Some(end) = &mut self.end
        {
            end.next_beat = end.next_beat.min(now);
        }
    }

    /// Whether this end, which needs the connection, may have lost a peer that gave it up.
    pub(super) fn is_unsure(&self) -> bool {
        self.unsure.is_some()
    }

    /// When a peer counts as lost that gave the connection up and does not come back, or when to
    /// look whether it knows that this end has given it up.
    pub(super) fn next_doubt(&self) -> Option<Instant> {
        let end = self.end.as_ref().and_then(|end| end.resting);
        let look = end.map(|(look, _)| look);
        let unsure = self.unsure.map(|(_, until)| until);
        [look, unsure].into_iter().flatten().min()
    }

    /// Tells who watches of a peer that gave the connection up, and does not come back although it
    /// is needed. Channels to it go on, as long as they do.
    pub(super) fn doubt_rest(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.unsure.take_if(|(_, until)| *until <= now).is_some() {
            let cause = LossCause::Gone;
            effects.push(Effect::Event(PeerEvent::Lost { cause }));
        }
    }

    /// The kind of link of the connection, if heartbeats have arrived both ways over it.
    pub(super) fn connected_over(&self) -> Option<LinkType> {
        let end = self.end.as_ref().filter(|end| end.is_certain)?;
        Some(end.link)
    }

    /// Whether the peer is on this host and well, so that there is nothing to do but to exchange
    /// heartbeats at intervals.
    pub(super) fn is_quiet(&self) -> bool {
        let is_quiet = |end: &MonitoredEnd| {
            let is_well = matches!(&end.up, Some((_, liveness)) if !liveness.is_stalled());
            end.is_here() && end.is_certain && is_well && end.resting.is_none()
        };
        let is_idle = self.inputs.is_empty() && !self.link.has_action();
        is_idle && self.end.as_ref().is_some_and(is_quiet)
    }

    /// Handles what was put in, and acts on what follows.
    pub(super) fn go_on(&mut self, state: &AgentState, now: Instant, effects: &mut Vec<Effect>) {
        while let Some(input) = self.inputs.pop_front() {
            self.link.handle(input, now);
        }
        while let Some(action) = self.link.poll_action() {
            self.act(state, action, now, effects);
        }
    }

    /// Reads the peer's heartbeats, and sends one when it is time: now, if the agent's
    /// [tick](super::tick) does, which says when the next one is.
    pub(super) fn listen(
        &mut self,
        now: Instant,
        tick: Option<Instant>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(end) = &mut self.end else { return };
        let session = end.session;
        end.heartbeat.set_needed(self.is_needed);
        let heard = end.listen(now, tick, effects);
        let has_left = matches!(heard, Ok(HeartbeatEvent::Leaving | HeartbeatEvent::Resting));
        if let (Some((peer, _)), false) = (&end.up, end.is_certain)
            && (has_left || end.heartbeat.is_proven())
        {
            let peer = *peer;
            self.is_up(peer, effects);
        }
        match heard {
            Ok(HeartbeatEvent::Leaving) => self.lose(session, LossCause::Left, now),
            Ok(HeartbeatEvent::Resting) => self.rest(session, now),
            Ok(_) => self.give_up_spare(session, now),
            // The peer was told, and has ended it first.
            Err(_) if self.is_given_up() => self.rest(session, now),
            Err(cause) => self.lose(session, cause, now),
        }
    }

    /// Whether this end has given the connection up.
    fn is_given_up(&self) -> bool {
        let end = self.end.as_ref();
        end.is_some_and(|end| end.resting.is_some())
    }

    /// Gives up a connection that neither end needs. Once the peer has been told, it ends.
    fn give_up_spare(&mut self, session: Session, now: Instant) {
        let is_needed = self.is_needed;
        let Some(end) = self.end.as_mut().filter(|end| end.is_certain) else {
            return;
        };
        if end.resting.is_none() {
            if is_needed || end.heartbeat.is_needed_by_peer() {
                return;
            }
            end.heartbeat.rest();
            end.resting = Some((now, now + GOODBYE));
        }
        let Some((look, until)) = &mut end.resting else {
            return;
        };
        *look = now + GOODBYE_LOOK;
        if end.heartbeat.has_arrived() || *until <= now {
            self.rest(session, now);
        }
    }

    /// Ends a session that was given up by an end that does not need it: nothing is lost.
    fn rest(&mut self, session: Session, now: Instant) {
        self.is_resting = self.link.connected().is_some_and(|(up, _)| up == session);
        if !self.is_needed {
            self.link.handle(Input::Spare, now);
        }
        self.link.handle(Input::Lost(session), now);
    }

    /// Notes that both ends are up.
    fn is_up(&mut self, peer: u64, effects: &mut Vec<Effect>) {
        if let Some(end) = &mut self.end {
            end.is_certain = true;
        }
        self.is_told = false;
        if let Some((life, _)) = self.unsure.take()
            && life != peer
        {
            self.tell_lost(life, LossCause::Gone, effects);
        }
        let was_up = std::mem::replace(&mut self.was_up, true);
        effects.push(Effect::Up(peer));
        effects.push(Effect::Event(if was_up {
            PeerEvent::Reconnected { incarnation: peer }
        } else {
            PeerEvent::Connected { incarnation: peer }
        }));
    }

    pub(super) fn lose(&mut self, session: Session, cause: LossCause, now: Instant) {
        self.cause = Some(cause);
        self.link.handle(Input::Lost(session), now);
    }

    pub(super) fn act(
        &mut self,
        state: &AgentState,
        action: Action<LinkEndpoint>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        match action {
            Action::LookUp => effects.push(Effect::LookUp),
            Action::Send(message) => effects.push(Effect::Send(message)),
            Action::Make(session) => match self.make(state, session, now) {
                Ok(endpoint) => self.link.handle(Input::Made { session, endpoint }, now),
                Err(cause) => self.lose(session, cause, now),
            },
            Action::Join { session, theirs } => {
                let joined = self
                    .end
                    .as_mut()
                    .map(|end| end.heartbeat.connect(theirs.qp));
                if let Some(Err(error)) = joined {
                    self.lose(session, LossCause::Fabric(error.to_string()), now);
                }
            }
            Action::Up { session, peer } => {
                if let Some(end) = &mut self.end {
                    end.up = Some((peer, Liveness::new(end.beat, now)));
                    // The opening end is connected last, so it may send at once, and its first
                    // heartbeat tells the accepting end that both are connected. The accepting end
                    // answers it, and else waits an interval.
                    end.next_beat = match session.opener == peer {
                        true => later(now, end.beat.interval),
                        false => now,
                    };
                }
                effects.push(Effect::Listen);
            }
            Action::Drain(session) => {
                self.drain(now, effects);
                self.link.handle(Input::Drained(session), now);
            }
        }
    }

    fn make(
        &mut self,
        state: &AgentState,
        session: Session,
        now: Instant,
    ) -> Result<LinkEndpoint, LossCause> {
        let refused = |error: &dyn std::fmt::Display| LossCause::Fabric(error.to_string());
        let link = match self.opened {
            Some((opened, link)) if opened == session => link,
            _ => self.found,
        };
        let Some(memory) = state.settings.devices.on(link) else {
            return Err(refused(&format!("no device is on {link}")));
        };
        let heartbeat = Heartbeat::new(
            &state.monitors.queues,
            memory.device(),
            state.settings.retry,
            self.woken.clone(),
        );
        let mut heartbeat = heartbeat.map_err(|error| refused(&error))?;
        heartbeat.expect_peer(&self.peer);
        let qp = heartbeat.address();
        self.end = Some(MonitoredEnd {
            session,
            heartbeat,
            up: None,
            is_certain: false,
            beat: state.settings.heartbeat(link),
            next_beat: now,
            next_inquiry: now,
            resting: None,
            link,
            since: now,
        });
        Ok(LinkEndpoint { link, qp })
    }

    /// Ends the session. Dropping the end drains its queue pair (DROP-1).
    fn drain(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let cause = self.cause.take().unwrap_or(LossCause::Gone);
        let end = self.end.take();
        if std::mem::take(&mut self.is_resting) {
            let life = end.and_then(|end| end.up).map(|(life, _)| life);
            // Somebody here may believe that it is up.
            let life = life.filter(|_| self.is_needed);
            self.unsure = life.map(|life| (life, now + AWAKENING));
            return effects.push(Effect::Rests);
        }
        let ended = end.as_ref().and_then(|end| end.ended(cause.clone()));
        effects.extend(ended.map(Effect::Ended));
        let Some(MonitoredEnd {
            up: Some((peer, _)),
            is_certain: true,
            ..
        }) = end
        else {
            // What works goes on, unwatched.
            if let LossCause::Fabric(reason) = cause
                && !std::mem::replace(&mut self.is_told, true)
            {
                tracing::warn!(%reason, "a peer cannot be watched; it is tried again");
            }
            return;
        };
        // Try this incarnation once more after half the pause, in case only the connection has
        // failed. After that it is most likely dead.
        self.lost = Some((peer, now + STALE_RETRY / 2));
        self.tell_lost(peer, cause, effects);
    }

    /// Tells that an incarnation of the peer is lost.
    fn tell_lost(&self, life: u64, cause: LossCause, effects: &mut Vec<Effect>) {
        effects.push(Effect::Down(life, cause.clone()));
        effects.push(Effect::Event(match cause {
            LossCause::Left => PeerEvent::Left,
            cause => PeerEvent::Lost { cause },
        }));
    }
}

impl MonitoredEnd {
    /// Whether the peer is on this host. Its heartbeats then carry their age by the shared clock,
    /// so this side need not wake for them: it reads them when it sends its own.
    fn is_here(&self) -> bool {
        self.link == LinkType::Shm
    }

    /// The end of the connection, if the peer had joined it.
    fn ended(&self, cause: LossCause) -> Option<EndedConnection> {
        let (life, _) = self.up.as_ref()?;
        Some(EndedConnection {
            life: *life,
            link: self.link,
            since: self.since,
            cause,
        })
    }

    /// Reads the peer's heartbeats, and sees to it that the task is woken for what it waits for.
    fn listen(
        &mut self,
        now: Instant,
        tick: Option<Instant>,
        effects: &mut Vec<Effect>,
    ) -> Result<HeartbeatEvent, LossCause> {
        let (is_here, interval) = (self.is_here(), self.beat.interval);
        let heard_at = |heard| {
            let ago = match heard {
                HeartbeatEvent::Nothing => return None,
                // The heartbeat came since the last look, so it is at most an interval old. An age
                // far beyond that means that the peer's clock is another one.
                HeartbeatEvent::Beat(ago) if is_here && ago <= interval.saturating_mul(2) => {
                    ago.min(interval)
                }
                _ => Duration::ZERO,
            };
            let now = Instant::now();
            now.checked_sub(ago).or(Some(now))
        };
        let mut change = None;
        let mut heard = match tick {
            Some(_) => self.heartbeat.listen_to_polled(),
            None => self.heartbeat.listen(),
        }?;
        if matches!(heard, HeartbeatEvent::Leaving | HeartbeatEvent::Resting) {
            return Ok(heard);
        }
        if let Some((peer, liveness)) = &mut self.up {
            if let Some(at) = heard_at(heard) {
                effects.push(Effect::HeartbeatEvent(at));
                change = liveness.heard(at);
                if !self.is_certain {
                    self.next_beat = now;
                }
            }
            // Both work out when that is from two clocks, of which they may read one later. But one
            // that has sent a heartbeat since needs no other.
            if tick.is_some() && self.next_beat <= later(now, interval / 2) {
                self.next_beat = now;
            }
            if self.next_beat <= now {
                self.next_beat = tick.unwrap_or_else(|| self.beat.next(now));
                change = change.or(liveness.tick(now));
                self.heartbeat.send_heartbeat()?;
            }
            if liveness.is_stalled() && self.next_inquiry <= now {
                self.next_inquiry = now + INQUIRY;
                effects.push(Effect::Inquire(*peer));
            }
        }
        let liveness = self.up.as_ref().map(|(_, liveness)| liveness);
        let is_well = liveness.is_some_and(|liveness| !liveness.is_stalled());
        if is_here && self.is_certain && is_well {
            self.heartbeat.wait_for_end();
            return Ok(self.note(heard, change, effects));
        }
        self.heartbeat.wait_for_all()?;
        // Listen again: of what arrived before nobody is notified.
        match self.heartbeat.listen()? {
            HeartbeatEvent::Nothing => {}
            later => {
                heard = later;
                let liveness = self.up.as_mut().map(|(_, liveness)| liveness);
                let at = heard_at(later);
                if !self.is_certain {
                    self.next_beat = now;
                }
                effects.extend(at.map(Effect::HeartbeatEvent));
                let later = liveness.and_then(|liveness| liveness.heard(at?));
                change = match (change, later) {
                    // The late heartbeat had arrived already: the peer was not stalled.
                    (Some(Change::Stalled), Some(Change::Recovered)) => None,
                    (change, later) => change.or(later),
                };
            }
        }
        Ok(self.note(heard, change, effects))
    }

    /// Notes a change in the liveness of the peer.
    fn note(
        &self,
        heard: HeartbeatEvent,
        change: Option<Change>,
        effects: &mut Vec<Effect>,
    ) -> HeartbeatEvent {
        // Nobody has been told that a peer is there which has never been heard.
        if let Some(change) = change.filter(|_| self.is_certain) {
            effects.push(Effect::Event(match change {
                Change::Stalled => PeerEvent::Stalled,
                Change::Recovered => PeerEvent::Recovered,
            }));
        }
        heard
    }
}

//! Monitors of native peers: one for each peer, with a queue pair on which both ends send heartbeats.
//!
//! Which end connects with which is decided by a [`PeerConnection`]; this module carries out its actions.
//! While a monitor is up, a task of its own listens and sends heartbeats. A monitor that goes down takes with it everything that belongs to that life of the peer.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::{self, pending};
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::{Context, Handler, Message, ResponseFuture};
use slimerpc::channel::peer_connection::{
    Action, Body, HandshakeMessage, Input, PeerConnection, RetryTiming, Session,
};
use slimerpc::channel::{
    Change, ClientChannel, Descriptor, Heartbeat, HeartbeatEvent, HeartbeatTiming, Liveness,
    LossCause, Mismatch,
};
use slimerpc::clock::later;
use slimerpc::fabric::{CompletionEvents, LinkType};
use tokio::sync::{Notify, broadcast, oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};

use super::news::News;
use super::{AgentState, Found, Supervisor};
use crate::AgentError;
use crate::agent::handshake_json::{HandshakeJson, LinkEndpoint};
use crate::client::watch::{PeerEvent, Watch};

/// Limit of monitors that peers opened and no local user wants; further ones are not answered.
const MAX_MONITORS: usize = 4096;
/// Events of a peer that are kept for who is slow to read them.
const EVENTS: usize = 64;
/// An attempt to reach the life of a peer that was lost is not made more often, as it is most likely dead.
const STALE_RETRY: Duration = Duration::from_secs(2);
/// Between two questions to the control plane whether a stalled peer is gone.
const INQUIRY: Duration = Duration::from_secs(2);
/// How long a farewell may take to arrive.
const GOODBYE: Duration = Duration::from_millis(50);
/// A life that is doubted and has not ended by then goes on: it takes about 2 s to notice that an RDMA peer is gone.
const DOUBT: Duration = Duration::from_secs(3);
/// By so much a sign of life may be older than it says: its age is in milliseconds.
const AGE_ERROR: Duration = Duration::from_millis(5);
const RETRY_TIMING: RetryTiming = RetryTiming {
    answer: Duration::from_millis(500),
    first: Duration::from_millis(10),
    last: Duration::from_millis(400),
};

/// The monitors of an agent, by peer.
#[derive(Default)]
pub(super) struct PeerMonitors(RefCell<HashMap<String, Rc<PeerMonitor>>>);

/// See the [module](self).
pub(super) struct PeerMonitor {
    peer: String,
    core: RefCell<MonitorState>,
    /// Something was put in for the task.
    woken: Notify,
    /// There once somebody watches: it takes up some memory.
    events: OnceCell<broadcast::Sender<PeerEvent>>,
    /// The life of the peer that can be reached.
    up: watch::Sender<Option<u64>>,
    /// When the peer gave its last sign of life that has been noticed.
    heard: watch::Sender<Instant>,
    /// When there was last reason to think that the life that can be reached is over: a connection to it has ended.
    doubted: Cell<Option<Instant>>,
    /// How its last life ended, if there is no other.
    ended: RefCell<Option<PeerEvent>>,
}

impl PeerMonitor {
    fn subscribe(&self) -> broadcast::Receiver<PeerEvent> {
        let events = self.events.get_or_init(|| broadcast::Sender::new(EVENTS));
        events.subscribe()
    }

    /// Whether nothing was heard of the peer since there was reason to think that it is gone, and it may be so unnoticed.
    pub(super) fn is_doubted(&self) -> bool {
        let is_recent = |doubted: &Instant| doubted.elapsed() < DOUBT;
        let doubted = self.doubted.get().filter(is_recent);
        doubted.is_some_and(|doubted| *self.heard.borrow() <= doubted + AGE_ERROR)
    }

    /// The life of the peer that can be reached; of one that is doubted, once it is known. `None` if there is none.
    async fn certain_life(&self) -> Option<u64> {
        let (mut up, mut heard) = (self.up.subscribe(), self.heard.subscribe());
        loop {
            let life = *up.borrow_and_update();
            heard.mark_unchanged();
            if life.is_none() || !self.is_doubted() {
                return life;
            }
            tokio::select! {
                changed = up.changed() => changed.ok()?,
                changed = heard.changed() => changed.ok()?,
                // Heartbeats may be set to be rare.
                () = sleep(DOUBT) => {}
            }
        }
    }

    fn is_watched(&self) -> bool {
        self.events
            .get()
            .is_some_and(|events| events.receiver_count() > 0)
    }
}

struct MonitorState {
    link: PeerConnection<LinkEndpoint>,
    inputs: VecDeque<Input<LinkEndpoint>>,
    /// The end that there is, if there is one.
    end: Option<MonitoredEnd>,
    /// What the peer's last open is attached to.
    opened: Option<(Session, LinkType)>,
    /// What our next open is to be attached to.
    found: LinkType,
    was_up: bool,
    /// The life that was lost last, and when it may be tried again.
    lost: Option<(u64, Instant)>,
    /// Why the monitor will go down next.
    cause: Option<LossCause>,
}

struct MonitoredEnd {
    session: Session,
    heartbeat: Heartbeat,
    events: Rc<CompletionEvents>,
    /// Once it is up: the life of the peer, and what is known of that.
    up: Option<(u64, Liveness)>,
    /// Whether the other end is certain to be up as well. Until then its end is that of an attempt, not of a life.
    is_certain: bool,
    beat: HeartbeatTiming,
    next_beat: Instant,
    /// When the control plane is asked next whether a stalled peer is gone.
    next_inquiry: Instant,
    /// Whether the peer is on this host, so that it is known how old a sign of life is, and to be noticed only when ours is
    /// given. Nobody is woken for it then.
    is_here: bool,
}

/// What is to be done when nothing of a monitor is borrowed.
enum Effect {
    LookUp,
    Send(HandshakeMessage<LinkEndpoint>),
    Listen,
    Up(u64),
    Down(u64, LossCause),
    Told(PeerEvent),
    /// This life of the peer gives no signs of life.
    Inquire(u64),
    /// The peer gave a sign of life then.
    HeartbeatEvent(Instant),
}

/// Follows what becomes of a peer.
#[derive(Message)]
#[rtype(result = "Result<Watch, AgentError>")]
pub(crate) struct Follow {
    pub(crate) peer: String,
    pub(crate) timeout: Duration,
}

impl Handler<Follow> for Supervisor {
    type Result = ResponseFuture<Result<Watch, AgentError>>;

    fn handle(&mut self, follow: Follow, _: &mut Context<Self>) -> Self::Result {
        let state = self.state.clone();
        Box::pin(async move { state.follow_peer(follow).await })
    }
}

impl AgentState {
    async fn follow_peer(self: &Rc<Self>, follow: Follow) -> Result<Watch, AgentError> {
        let Follow { peer, timeout } = follow;
        if peer == self.alias {
            return Err(AgentError::WatchesItself { alias: peer });
        }
        let known = self.monitors.0.borrow().contains_key(&peer);
        if !known {
            let devices = &self.settings.devices;
            let here = self.descriptor.borrow().host.clone();
            let check = |theirs: &Descriptor| theirs.link(&devices.links(), &here);
            let found = self.find(&peer, Instant::now(), timeout, check).await?;
            if let Found::Dlslime(_) = found {
                return Err(AgentError::NotNative {
                    peer,
                    waited: Duration::ZERO,
                });
            }
        }
        let monitor = self.want_line(&peer);
        self.doubt_lost(&monitor);
        let events = monitor.subscribe();
        if let Some(ended) = monitor.ended.borrow().clone() {
            return Ok(Watch::new(future::ready(Some(ended)), events));
        }
        let (tell, told) = oneshot::channel();
        actix::spawn(async move {
            // Nobody may be watching any more.
            let _ = tell.send(monitor.certain_life().await);
        });
        let connected = |incarnation| PeerEvent::Connected { incarnation };
        let known = async move { told.await.ok().flatten().map(connected) };
        Ok(Watch::new(known, events))
    }

    /// Takes note of channels to the life that a monitor is up with which have ended.
    fn doubt_lost(&self, monitor: &PeerMonitor) {
        let Some(up) = *monitor.up.borrow() else {
            return;
        };
        let is_lost = |channel: &ClientChannel| {
            channel.peer() == monitor.peer
                && channel.closed().is_some_and(|cause| cause.is_of_peer())
        };
        let channels = self.channels.borrow();
        let mut of_life = channels.iter().filter(|(life, _)| *life == Some(up));
        if of_life.any(|(_, channel)| channel.upgrade().is_some_and(|channel| is_lost(&channel))) {
            monitor.doubted.set(Some(Instant::now()));
        }
    }

    /// A connection to this life of `peer` has ended.
    pub(super) fn doubt(&self, peer: &str, life: Option<u64>) {
        if life.is_some()
            && let Some(monitor) = self.monitors.0.borrow().get(peer)
            && *monitor.up.borrow() == life
        {
            monitor.doubted.set(Some(Instant::now()));
        }
    }

    /// Waits until `peer` has proved to be alive.
    pub(super) async fn await_life(
        self: &Rc<Self>,
        peer: &str,
        started: Instant,
        limit: Duration,
    ) -> Result<(), AgentError> {
        let monitor = self.want_line(peer);
        self.doubt_lost(&monitor);
        // So that the monitor knows that somebody is interested.
        let _interest = monitor.subscribe();
        let mut up = monitor.up.subscribe();
        let alive = async {
            while monitor.certain_life().await.is_none() {
                up.wait_for(Option::is_some).await.ok()?;
            }
            Some(())
        };
        match timeout(limit.saturating_sub(started.elapsed()), alive).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(AgentError::ShutDown),
            Err(_) => Err(AgentError::ConnectTimeout {
                peer: peer.to_owned(),
                waited: started.elapsed(),
            }),
        }
    }

    /// The monitor to `peer`, which is wanted from now on.
    pub(super) fn want_line(self: &Rc<Self>, peer: &str) -> Rc<PeerMonitor> {
        let monitor = self.monitor(peer);
        monitor.put(Input::Want);
        monitor
    }

    /// Waits until `peer` can be reached, but no longer than `limit`.
    pub(super) async fn await_line(self: &Rc<Self>, peer: &str, limit: Duration) -> bool {
        let mut up = self.want_line(peer).up.subscribe();
        let reached = timeout(limit, up.wait_for(Option::is_some)).await;
        matches!(reached, Ok(Ok(_)))
    }

    /// Waits until this is not the life of `peer` any more that can be reached.
    pub(super) async fn life_over(self: &Rc<Self>, peer: &str, life: Option<u64>) {
        let mut up = self.want_line(peer).up.subscribe();
        // An error: the monitor is gone, and with it the life.
        let _ = up.wait_for(|up| *up != life).await;
    }

    /// The life of `peer` that is known to be there.
    pub(super) fn reachable(&self, peer: &str) -> Option<u64> {
        let monitors = self.monitors.0.borrow();
        monitors.get(peer).and_then(|monitor| *monitor.up.borrow())
    }

    /// There is reason to think that `peer` can be reached.
    pub(super) fn wake_monitor(&self, peer: &str) {
        if let Some(monitor) = self.monitors.0.borrow().get(peer) {
            monitor.put(Input::Wake);
        }
    }

    fn monitor(self: &Rc<Self>, peer: &str) -> Rc<PeerMonitor> {
        if let Some(monitor) = self.monitors.0.borrow().get(peer) {
            return monitor.clone();
        }
        let incarnation = self.descriptor.borrow().incarnation;
        let monitor = Rc::new(PeerMonitor {
            peer: peer.to_owned(),
            core: RefCell::new(MonitorState {
                link: PeerConnection::new(incarnation, RETRY_TIMING),
                inputs: VecDeque::new(),
                end: None,
                opened: None,
                found: self.settings.devices.links()[0],
                was_up: false,
                lost: None,
                cause: None,
            }),
            woken: Notify::new(),
            events: OnceCell::new(),
            up: watch::Sender::new(None),
            heard: watch::Sender::new(Instant::now()),
            doubted: Cell::new(None),
            ended: RefCell::new(None),
        });
        self.monitors
            .0
            .borrow_mut()
            .insert(peer.to_owned(), monitor.clone());
        actix::spawn(self.clone().keep(monitor.clone()));
        monitor
    }

    /// A message has come from `peer`.
    pub(super) fn take_letter(self: &Rc<Self>, peer: &str, message: HandshakeJson) {
        let is_known = self.monitors.0.borrow().contains_key(peer);
        if !is_known && self.monitors.0.borrow().len() >= MAX_MONITORS {
            tracing::warn!(%peer, "too many peers have opened monitors to this agent; one is not answered");
            return;
        }
        self.monitor(peer)
            .put(Input::HandshakeMessage(message.into()));
    }

    /// The task of a monitor.
    async fn keep(self: Rc<Self>, monitor: Rc<PeerMonitor>) {
        let mut news = None;
        while !self.left.get() {
            for effect in monitor.advance(&self, Instant::now()) {
                self.clone().take_effect(&monitor, effect);
            }
            if self.is_unwanted(&monitor) {
                self.monitors.0.borrow_mut().remove(&monitor.peer);
                return;
            }
            let (until, events) = monitor.next();
            let raised = async {
                match events {
                    Some(events) => events.raised().await,
                    None => pending().await,
                }
            };
            let time = async {
                match until {
                    Some(until) => sleep_until(until.into()).await,
                    None => pending().await,
                }
            };
            // A monitor that is up, or comes up at once, needs none.
            if !monitor.core.borrow().link.is_in_trouble() {
                news = None;
            } else if news.is_none() {
                news = Some(News::new(&self, &monitor.peer));
            }
            let told = async {
                match &mut news {
                    Some(news) => news.told().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = monitor.woken.notified() => {}
                () = told => monitor.put(Input::Wake),
                raised = raised => if let Err(error) = raised {
                    tracing::warn!(peer = monitor.peer, %error, "a monitor cannot be listened to");
                    return;
                },
                () = time => {}
            }
        }
    }

    /// Nobody wants it, at either end.
    fn is_unwanted(&self, monitor: &PeerMonitor) -> bool {
        let core = monitor.core.borrow();
        let is_wanted = core.link.next_timeout().is_some() || core.end.is_some();
        !is_wanted && core.inputs.is_empty() && !monitor.is_watched()
    }

    fn take_effect(self: Rc<Self>, monitor: &Rc<PeerMonitor>, effect: Effect) {
        match effect {
            Effect::LookUp => {
                let monitor = monitor.clone();
                actix::spawn(async move { self.look_up(&monitor).await });
            }
            Effect::Send(message) => {
                let (peer, me) = (monitor.peer.clone(), self.alias.clone());
                let mail = HandshakeJson::from(message).to_mail(&me);
                actix::spawn(async move {
                    if let Err(error) = self.control().send_mail(&peer, &mail).await {
                        tracing::debug!(%peer, %error, "a message could not be sent");
                    }
                });
            }
            Effect::Up(incarnation) => {
                tracing::info!(peer = monitor.peer, incarnation, "peer reached");
                monitor.doubted.set(None);
                monitor.ended.replace(None);
                monitor.up.send_replace(Some(incarnation));
            }
            // Its queue is to be armed.
            Effect::Listen => monitor.woken.notify_one(),
            Effect::Down(incarnation, cause) => {
                tracing::info!(peer = monitor.peer, incarnation, %cause, "peer lost");
                monitor.up.send_replace(None);
                self.life_lost(&monitor.peer, incarnation, &cause);
                if cause == LossCause::Left {
                    self.want_no_more(&monitor.peer);
                }
            }
            Effect::Inquire(life) => {
                let monitor = monitor.clone();
                actix::spawn(async move {
                    if self.is_life_over(&monitor.peer, life).await {
                        monitor.give_up(life);
                    }
                });
            }
            Effect::HeartbeatEvent(at) => {
                monitor.heard.send_modify(|heard| *heard = at.max(*heard))
            }
            Effect::Told(event) => {
                if event.is_end() {
                    monitor.ended.replace(Some(event.clone()));
                }
                if let Some(events) = monitor.events.get() {
                    // Nobody may be watching any more.
                    let _ = events.send(event);
                }
            }
        }
    }

    /// Whether anybody here has to do with its peer.
    fn is_of_interest(&self, monitor: &PeerMonitor) -> bool {
        let channels = self.channels.borrow();
        let mut live = channels.iter().filter_map(|(_, channel)| channel.upgrade());
        monitor.is_watched() || live.any(|channel| channel.peer() == monitor.peer)
    }

    /// Says which life of the peer there is.
    async fn look_up(&self, monitor: &PeerMonitor) {
        if !self.is_of_interest(monitor) {
            return monitor.put(Input::Leave);
        }
        let record = self
            .control()
            .lookup(&monitor.peer, Descriptor::RECORD)
            .await;
        let found = match record {
            Ok(Some(record)) => serde_json::from_value::<Descriptor>(record).ok(),
            Ok(None) => None,
            // It is asked again.
            Err(_) => return,
        };
        let here = self.descriptor.borrow().host.clone();
        let found = found.and_then(|theirs| {
            let link: Result<_, Mismatch> = theirs.link(&self.settings.devices.links(), &here);
            Some((theirs.incarnation, link.ok()?))
        });
        let mut core = monitor.core.borrow_mut();
        let now = Instant::now();
        let found = found.filter(|(life, _)| match &mut core.lost {
            Some((lost, again)) if lost == life => {
                let is_time = *again <= now;
                if is_time {
                    *again = now + STALE_RETRY;
                }
                is_time
            }
            _ => true,
        });
        if let Some((_, link)) = found {
            core.found = link;
        }
        core.inputs
            .push_back(Input::Record(found.map(|(life, _)| life)));
        monitor.woken.notify_one();
    }

    /// Closes what belongs to a life of a peer.
    pub(super) fn life_lost(&self, peer: &str, incarnation: u64, cause: &LossCause) {
        for (life, channel) in &*self.channels.borrow() {
            if *life == Some(incarnation)
                && let Some(channel) = channel.upgrade()
                && channel.peer() == peer
            {
                channel.close(cause.clone());
            }
        }
        self.one_sided
            .borrow_mut()
            .life_lost(peer, incarnation, cause);
        for service in self.services.borrow().values() {
            service.dismiss(peer, Some(incarnation), cause);
        }
    }

    /// Tells peers that we leave.
    pub(super) async fn end_lines(&self) {
        let monitors = self.monitors.0.take();
        let mut any = false;
        for monitor in monitors.values() {
            any |= monitor.say_goodbye();
        }
        if any {
            sleep(GOODBYE).await;
        }
    }
}

impl PeerMonitor {
    fn put(&self, input: Input<LinkEndpoint>) {
        if let Input::HandshakeMessage(HandshakeMessage {
            session,
            body: Body::Open { endpoint, .. },
            ..
        }) = &input
        {
            self.core.borrow_mut().opened = Some((*session, endpoint.link));
        }
        self.core.borrow_mut().inputs.push_back(input);
        self.woken.notify_one();
    }

    /// When to go on, and what to listen to.
    fn next(&self) -> (Option<Instant>, Option<Rc<CompletionEvents>>) {
        let core = self.core.borrow();
        let end = core.end.as_ref();
        let beat = end.filter(|end| end.up.is_some()).map(|end| end.next_beat);
        let until = [core.link.next_timeout(), beat].into_iter().flatten().min();
        (until, end.map(|end| end.events.clone()))
    }

    /// Takes in what has happened.
    fn advance(&self, state: &AgentState, now: Instant) -> Vec<Effect> {
        let core = &mut *self.core.borrow_mut();
        let mut effects = Vec::new();
        core.link.handle_timeout(now);
        core.listen(now, &mut effects);
        while let Some(input) = core.inputs.pop_front() {
            core.link.handle(input, now);
        }
        while let Some(action) = core.link.poll_action() {
            core.act(state, action, now, &mut effects);
        }
        effects
    }

    /// This life of the peer is over, if it has not given a sign of life meanwhile.
    fn give_up(&self, life: u64) {
        let mut core = self.core.borrow_mut();
        let is_it = |end: &&MonitoredEnd| {
            let up = end.up.as_ref();
            up.is_some_and(|(peer, liveness)| *peer == life && liveness.is_stalled())
        };
        if let Some(session) = core.end.as_ref().filter(is_it).map(|end| end.session) {
            core.lose(session, LossCause::Gone, Instant::now());
            self.woken.notify_one();
        }
    }

    fn say_goodbye(&self) -> bool {
        let mut core = self.core.borrow_mut();
        let end = core.end.as_mut().filter(|end| end.up.is_some());
        end.map(|end| end.heartbeat.leave()).is_some()
    }
}

impl MonitorState {
    /// Listens to the peer, and beats if it is time.
    fn listen(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(end) = &mut self.end else { return };
        let session = end.session;
        let heard = end.listen(now, effects);
        if let (Ok(HeartbeatEvent::Beat(_) | HeartbeatEvent::Leaving), Some((peer, _)), false) =
            (&heard, &end.up, end.is_certain)
        {
            let peer = *peer;
            self.is_up(peer, effects);
        }
        match heard {
            Ok(HeartbeatEvent::Leaving) => self.lose(session, LossCause::Left, now),
            Ok(_) => {}
            Err(cause) => self.lose(session, cause, now),
        }
    }

    /// Both ends are up.
    fn is_up(&mut self, peer: u64, effects: &mut Vec<Effect>) {
        if let Some(end) = &mut self.end {
            end.is_certain = true;
        }
        let was_up = std::mem::replace(&mut self.was_up, true);
        effects.push(Effect::Up(peer));
        effects.push(Effect::Told(if was_up {
            PeerEvent::Reconnected { incarnation: peer }
        } else {
            PeerEvent::Connected { incarnation: peer }
        }));
    }

    fn lose(&mut self, session: Session, cause: LossCause, now: Instant) {
        self.cause = Some(cause);
        self.link.handle(Input::Lost(session), now);
    }

    fn act(
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
                    // Who opened is connected last, and so may begin. Whether it is, the other end knows when it hears it.
                    let has_opened = session.opener == peer;
                    end.next_beat = match has_opened {
                        true => later(now, end.beat.interval),
                        false => now,
                    };
                    if !has_opened {
                        self.is_up(peer, effects);
                    }
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
        let heartbeat = Heartbeat::new(&**memory.device(), state.settings.retry);
        let heartbeat = heartbeat.map_err(|error| refused(&error))?;
        let events = heartbeat.events().map_err(|error| refused(&error))?;
        let qp = heartbeat.address();
        self.end = Some(MonitoredEnd {
            session,
            heartbeat,
            events: Rc::new(events),
            up: None,
            is_certain: false,
            beat: state.settings.heartbeat(link),
            next_beat: now,
            next_inquiry: now,
            is_here: link == LinkType::Shm,
        });
        Ok(LinkEndpoint { link, qp })
    }

    /// Dropping the end drains its queue pair (DROP-1).
    fn drain(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let cause = self.cause.take().unwrap_or(LossCause::Gone);
        let Some(MonitoredEnd {
            up: Some((peer, _)),
            is_certain: true,
            ..
        }) = self.end.take()
        else {
            return;
        };
        // A glitch is over soon; a dead one stays so.
        self.lost = Some((peer, now + STALE_RETRY / 2));
        effects.push(Effect::Down(peer, cause.clone()));
        effects.push(Effect::Told(match cause {
            LossCause::Left => PeerEvent::Left,
            cause => PeerEvent::Lost { cause },
        }));
    }
}

impl MonitoredEnd {
    /// What the peer says, after which it is listened for an event.
    fn listen(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<HeartbeatEvent, LossCause> {
        let (is_here, interval) = (self.is_here, self.beat.interval);
        let heard_at = |heard| match (heard, Instant::now()) {
            (HeartbeatEvent::Nothing, _) => None,
            // It came since the last look. What claims to be older by far has another clock.
            (HeartbeatEvent::Beat(ago), now) if is_here && ago <= interval.saturating_mul(2) => {
                now.checked_sub(ago.min(interval)).or(Some(now))
            }
            (HeartbeatEvent::Beat(_) | HeartbeatEvent::Leaving, now) => Some(now),
        };
        let mut change = None;
        let mut heard = self.heartbeat.listen()?;
        if heard == HeartbeatEvent::Leaving {
            return Ok(heard);
        }
        if let Some((peer, liveness)) = &mut self.up {
            if let Some(at) = heard_at(heard) {
                effects.push(Effect::HeartbeatEvent(at));
                change = liveness.heard(at);
            }
            if self.next_beat <= now {
                self.next_beat = self.beat.next(now);
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
        if self.is_here && self.is_certain && is_well {
            self.heartbeat.arm_for_the_end()?;
        } else {
            self.heartbeat.arm()?;
        }
        // What came before that raises no event.
        match self.heartbeat.listen()? {
            HeartbeatEvent::Nothing => {}
            later => {
                heard = later;
                let liveness = self.up.as_mut().map(|(_, liveness)| liveness);
                let at = heard_at(later);
                effects.extend(at.map(Effect::HeartbeatEvent));
                let later = liveness.and_then(|liveness| liveness.heard(at?));
                change = match (change, later) {
                    // It was not, after all.
                    (Some(Change::Stalled), Some(Change::Recovered)) => None,
                    (change, later) => change.or(later),
                };
            }
        }
        if let Some(change) = change {
            effects.push(Effect::Told(match change {
                Change::Stalled => PeerEvent::Stalled,
                Change::Recovered => PeerEvent::Recovered,
            }));
        }
        Ok(heard)
    }
}

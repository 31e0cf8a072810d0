//! Monitors of native peers. Each has a queue pair to one peer, on which both ends send heartbeats.
//!
//! A [`PeerConnection`](slimerpc::channel::peer_connection::PeerConnection) decides which end
//! connects with which; this module carries out its actions. Each monitor has a task
//! ([`AgentState::keep`]), which waits for input, for the peer's heartbeats and for time. When a
//! monitor goes down, everything that belongs to that incarnation of the peer ends with it:
//! channels, one-sided connections, and its place as a caller of services.
//!
//! The task never holds the borrow of [`MonitorState`] while it acts on the rest of the agent,
//! because that may come back to the same monitor: [`PeerMonitor::advance`] collects [`Effect`]s
//! under the borrow, and the task carries them out afterwards.

mod monitor_state;
mod tick;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::{self, pending};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Context, Handler, ResponseFuture};
use slimerpc::channel::peer_connection::{Body, HandshakeMessage, Input};
use slimerpc::channel::{ClientChannel, Descriptor, HeartbeatQueues, LossCause};
use slimerpc::fabric::LinkType;
use tokio::sync::{Notify, broadcast, oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};

use self::monitor_state::{Effect, MonitorState, MonitoredEnd};
use self::tick::Tick;
use super::peer_lookup::{Found, PeerNews};
use super::{AgentState, Supervisor};
use crate::AgentError;
use crate::agent::handshake_json::{HandshakeJson, LinkEndpoint};
use crate::client::watch::{Follow, PeerEvent, Watch};

/// Most monitors that peers opened and no local user wants. Further peers are not answered.
const MAX_MONITORS: usize = 4096;
/// Number of events of a peer that are kept for slow readers.
const EVENTS: usize = 64;
/// Pause between attempts to reach the incarnation that was lost: it is most likely dead, although
/// its record still names it.
const STALE_RETRY: Duration = Duration::from_secs(2);
/// How long a goodbye may take to arrive: it waits for a peer that has yet to connect its end, and
/// a lost one is sent again.
const GOODBYE: Duration = Duration::from_secs(1);
/// Pause between two looks whether goodbyes have arrived.
const GOODBYE_LOOK: Duration = Duration::from_millis(1);
/// How long a peer has to act on a goodbye before its connections end.
const PARTING: Duration = Duration::from_millis(50);
/// How long a doubt about an incarnation lasts. It takes about 2 s to notice that an RDMA peer is
/// gone; a peer that is still connected after this time is trusted again.
const DOUBT: Duration = Duration::from_secs(3);
/// Error of a heartbeat's age, which is in milliseconds.
const AGE_ERROR: Duration = Duration::from_millis(5);

/// The monitors of an agent, by peer.
#[derive(Default)]
pub(super) struct PeerMonitors {
    by_peer: RefCell<HashMap<String, Rc<PeerMonitor>>>,
    /// What the heartbeats of all of them complete into.
    queues: HeartbeatQueues,
    /// What exchanges heartbeats with those of this host that are well.
    tick: Tick,
    /// Most attempts of a monitor that is gone, which its peer may remember.
    attempts: Cell<u64>,
}

impl PeerMonitors {
    /// Notes that only the monitors of these peers, and of those that are watched, are needed here.
    /// Once the peer does not need the others either, their heartbeats end.
    pub(super) fn rest_but_for(&self, needed: &HashSet<String>) {
        for (peer, monitor) in &*self.by_peer.borrow() {
            if !needed.contains(peer) && !monitor.is_watched() {
                monitor.core.borrow_mut().is_needed = false;
            }
        }
    }

    /// Returns whether there is a monitor of `peer`, which is needed here.
    pub(super) fn is_needed(&self, peer: &str) -> bool {
        let monitors = self.by_peer.borrow();
        let monitor = monitors.get(peer);
        monitor.is_some_and(|monitor| monitor.core.borrow().is_needed)
    }
}

/// The monitor of one peer.
pub(super) struct PeerMonitor {
    peer: String,
    core: RefCell<MonitorState>,
    /// Notified when there is input for the task.
    woken: Arc<Notify>,
    /// Whether heartbeats are exchanged by the agent's [tick], not by the task.
    is_ticked: Cell<bool>,
    /// How often the task has looked.
    #[cfg(test)]
    looks: Cell<u32>,
    /// Made when somebody first watches, because it takes some memory.
    events: OnceCell<broadcast::Sender<PeerEvent>>,
    /// The incarnation of the peer that can be reached.
    up: watch::Sender<Option<u64>>,
    /// When the last heartbeat that was noticed was sent.
    heard: watch::Sender<Instant>,
    /// When a channel to the present incarnation last ended. That is a reason to doubt it: a device
    /// may report the end of one queue pair before that of another.
    doubted: Cell<Option<Instant>>,
    /// How the last incarnation ended, if there is no other.
    ended: RefCell<Option<PeerEvent>>,
}

/// What is known of a peer.
pub(super) struct ObservedPeer {
    pub(super) alias: String,
    /// The kind of link of the connection, if there is one over which heartbeats have arrived.
    pub(super) link: Option<LinkType>,
}

impl PeerMonitors {
    /// What is known of each peer.
    pub(super) fn observed(&self) -> Vec<ObservedPeer> {
        let monitors = self.by_peer.borrow();
        let observed = monitors.iter().map(|(alias, monitor)| ObservedPeer {
            alias: alias.clone(),
            link: monitor.core.borrow().connected_over(),
        });
        observed.collect()
    }
}

impl PeerMonitor {
    fn subscribe(&self) -> broadcast::Receiver<PeerEvent> {
        let events = self.events.get_or_init(|| broadcast::Sender::new(EVENTS));
        events.subscribe()
    }

    /// Returns whether the peer may be gone unnoticed: there was a recent reason to doubt it, and
    /// no heartbeat was sent since.
    pub(super) fn is_doubted(&self) -> bool {
        let is_recent = |doubted: &Instant| doubted.elapsed() < DOUBT;
        let doubted = self.doubted.get().filter(is_recent);
        doubted.is_some_and(|doubted| *self.heard.borrow() <= doubted + AGE_ERROR)
    }

    /// Waits while the peer's incarnation is doubted, and returns the one that can be reached;
    /// `None` if there is none.
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
                // The doubt ends by itself after this time: heartbeats may be set to be rarer.
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
        let known = self.monitors.by_peer.borrow().contains_key(&peer);
        if !known {
            let check = |theirs: &Descriptor| self.choose_link(&peer, theirs);
            let found = self.find(&peer, Instant::now(), timeout, check).await?;
            if let Found::Dlslime(_) = found {
                return Err(AgentError::NotNative {
                    peer,
                    waited: Duration::ZERO,
                });
            }
        }
        let monitor = self.want_monitor(&peer);
        self.doubt_lost(&monitor);
        let events = monitor.subscribe();
        if let Some(ended) = monitor.ended.borrow().clone() {
            return Ok(Watch::new(future::ready(Some(ended)), events));
        }
        let (tell, told) = oneshot::channel();
        actix::spawn(async move {
            // The watcher may have gone.
            let _ = tell.send(monitor.certain_life().await);
        });
        let connected = |incarnation| PeerEvent::Connected { incarnation };
        let known = async move { told.await.ok().flatten().map(connected) };
        Ok(Watch::new(known, events))
    }

    /// Doubts the present incarnation if one of its channels has ended.
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

    /// Doubts this incarnation of `peer`, because a connection to it has ended.
    pub(super) fn doubt(&self, peer: &str, life: Option<u64>) {
        if life.is_some()
            && let Some(monitor) = self.monitors.by_peer.borrow().get(peer)
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
        let monitor = self.want_monitor(peer);
        self.doubt_lost(&monitor);
        // A subscription keeps the monitor: without an interested user it would give up.
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
            Err(_) => Err(AgentError::timed_out(peer, started)),
        }
    }

    /// Returns the monitor of `peer`, and keeps it connected from now on.
    pub(super) fn want_monitor(self: &Rc<Self>, peer: &str) -> Rc<PeerMonitor> {
        let monitor = self.monitor(peer);
        monitor.core.borrow_mut().need(Instant::now());
        monitor.put(Input::Want);
        monitor
    }

    /// Waits until `peer` can be reached, at most for `limit`.
    pub(super) async fn await_peer(self: &Rc<Self>, peer: &str, limit: Duration) -> bool {
        if peer == self.alias {
            return true;
        }
        let mut up = self.want_monitor(peer).up.subscribe();
        let reached = timeout(limit, up.wait_for(Option::is_some)).await;
        matches!(reached, Ok(Ok(_)))
    }

    /// Waits until `peer` can no longer be reached as this incarnation.
    pub(super) async fn life_over(self: &Rc<Self>, peer: &str, life: Option<u64>) {
        if peer == self.alias {
            return pending().await;
        }
        let mut up = self.want_monitor(peer).up.subscribe();
        // An error means that the monitor is gone, and with it the incarnation.
        let _ = up.wait_for(|up| *up != life).await;
    }

    /// The incarnation of `peer` that can be reached. The agent itself always can.
    pub(super) fn reachable(&self, peer: &str) -> Option<u64> {
        if peer == self.alias {
            return Some(self.descriptor.borrow().incarnation);
        }
        let monitors = self.monitors.by_peer.borrow();
        monitors.get(peer).and_then(|monitor| *monitor.up.borrow())
    }

    /// Tells the monitor that `peer` can probably be reached now.
    pub(super) fn wake_monitor(&self, peer: &str) {
        if let Some(monitor) = self.monitors.by_peer.borrow().get(peer) {
            monitor.put(Input::Wake);
        }
    }

    fn monitor(self: &Rc<Self>, peer: &str) -> Rc<PeerMonitor> {
        if let Some(monitor) = self.monitors.by_peer.borrow().get(peer) {
            return monitor.clone();
        }
        let incarnation = self.descriptor.borrow().incarnation;
        let woken = Arc::<Notify>::default();
        let monitor = Rc::new(PeerMonitor {
            peer: peer.to_owned(),
            core: RefCell::new(MonitorState::new(
                peer,
                woken.clone(),
                incarnation,
                self.settings.devices.links()[0],
                self.monitors.attempts.get(),
            )),
            woken,
            is_ticked: Cell::default(),
            #[cfg(test)]
            looks: Cell::default(),
            events: OnceCell::new(),
            up: watch::Sender::new(None),
            heard: watch::Sender::new(Instant::now()),
            doubted: Cell::new(None),
            ended: RefCell::new(None),
        });
        self.monitors
            .by_peer
            .borrow_mut()
            .insert(peer.to_owned(), monitor.clone());
        actix::spawn(self.clone().keep(monitor.clone()));
        monitor
    }

    /// Passes a message from `peer` to its monitor.
    pub(super) fn take_handshake_message(self: &Rc<Self>, peer: &str, message: HandshakeJson) {
        let is_known = self.monitors.by_peer.borrow().contains_key(peer);
        if !is_known && self.monitors.by_peer.borrow().len() >= MAX_MONITORS {
            tracing::warn!(%peer, "too many peers have opened monitors to this agent; one is not answered");
            return;
        }
        self.monitor(peer)
            .put(Input::HandshakeMessage(message.into()));
    }

    /// Runs a monitor: carries out its effects, and waits for input, heartbeats and time.
    async fn keep(self: Rc<Self>, monitor: Rc<PeerMonitor>) {
        let mut news = None;
        while !self.left.get() {
            for effect in monitor.advance(&self, Instant::now()) {
                self.clone().take_effect(&monitor, effect);
            }
            if self.is_unwanted(&monitor) {
                let attempts = monitor.core.borrow().link.attempts();
                let most = self.monitors.attempts.get().max(attempts);
                self.monitors.attempts.set(most);
                self.monitors.by_peer.borrow_mut().remove(&monitor.peer);
                return;
            }
            self.leave_to_tick(&monitor);
            let until = monitor.next();
            let time = async {
                match until {
                    Some(until) => sleep_until(until.into()).await,
                    None => pending().await,
                }
            };
            // News from the control plane is worth a subscription only while attempts fail: a new
            // registration of the peer then ends the pause before the next one.
            if !monitor.core.borrow().link.is_in_trouble() {
                news = None;
            } else if news.is_none() {
                news = Some(PeerNews::new(&self, &monitor.peer));
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
                () = time => {}
            }
        }
    }

    /// Returns whether neither end wants the monitor any more.
    fn is_unwanted(&self, monitor: &PeerMonitor) -> bool {
        let core = monitor.core.borrow();
        let is_wanted =
            core.link.next_timeout().is_some() || core.end.is_some() || core.is_unsure();
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
                self.note("joined", "");
                monitor.doubted.set(None);
                monitor.ended.replace(None);
                monitor.up.send_replace(Some(incarnation));
            }
            // Advance once more: the new session begins to listen.
            Effect::Listen => monitor.woken.notify_one(),
            Effect::Down(incarnation, cause) => {
                tracing::info!(peer = monitor.peer, incarnation, %cause, "peer lost");
                self.note("lost", cause.name());
                monitor.up.send_replace(None);
                self.life_lost(&monitor.peer, incarnation, &cause);
                if cause == LossCause::Left {
                    self.want_no_more(&monitor.peer);
                }
            }
            // Nothing is lost, and nobody is told.
            Effect::Rests => {
                tracing::debug!(peer = monitor.peer, "the heartbeats of a peer rest");
                monitor.up.send_replace(None);
            }
            Effect::Ended(ended) => self.connection_ended(&monitor.peer, ended),
            Effect::Inquire(life) => {
                let monitor = monitor.clone();
                actix::spawn(async move {
                    if self.is_life_over(&monitor.peer, life).await {
                        monitor.give_up(life);
                    }
                });
            }
            Effect::HeartbeatEvent(at) => {
                // Without anybody who waits for it, that is a store.
                let is_awaited = monitor.heard.receiver_count() > 0;
                monitor.heard.send_if_modified(|heard| {
                    *heard = at.max(*heard);
                    is_awaited
                });
            }
            Effect::Event(event) => {
                self.obs.note_peer(&monitor.peer, &event);
                match &event {
                    PeerEvent::Stalled => self.note("stalled", ""),
                    PeerEvent::Recovered => self.note("recovered", ""),
                    _ => {}
                }
                if event.is_end() {
                    monitor.ended.replace(Some(event.clone()));
                }
                if let Some(events) = monitor.events.get() {
                    // The last watcher may have gone.
                    let _ = events.send(event);
                }
            }
        }
    }

    /// Returns whether anybody in this process watches the peer, or has a channel to it that does
    /// not rest or is lost.
    fn is_of_interest(&self, monitor: &PeerMonitor) -> bool {
        let channels = self.channels.borrow();
        let mut live = channels.iter().filter_map(|(_, channel)| channel.upgrade());
        let is_to_it = |channel: Arc<ClientChannel>| {
            channel.peer() == monitor.peer && channel.closed() != Some(LossCause::Resting)
        };
        monitor.is_watched() || live.any(is_to_it) || self.waits_for(&monitor.peer)
    }

    /// Asks the control plane for the peer's present incarnation.
    async fn look_up(&self, monitor: &PeerMonitor) {
        if !self.is_of_interest(monitor) {
            return monitor.put(Input::Leave);
        }
        let found = match self.read_descriptor(&monitor.peer).await {
            Ok(theirs) => theirs.and_then(|theirs| {
                let link = self.choose_link(&monitor.peer, &theirs);
                Some((theirs.incarnation, link.ok()?))
            }),
            // The connection asks again after a timeout.
            Err(_) => return,
        };
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

    /// Closes everything that belongs to an incarnation of a peer.
    pub(super) fn life_lost(&self, peer: &str, incarnation: u64, cause: &LossCause) {
        for (life, channel) in &*self.channels.borrow() {
            if *life == Some(incarnation)
                && let Some(channel) = channel.upgrade()
                && channel.peer() == peer
            {
                channel.close(cause.clone());
            }
        }
        self.lose_resting(peer, Some(incarnation), cause);
        self.one_sided
            .borrow_mut()
            .life_lost(peer, incarnation, cause);
        for service in self.services.borrow().values() {
            service.dismiss(peer, Some(incarnation), cause);
        }
    }

    /// Says goodbye to all peers.
    pub(super) async fn end_monitors(&self) {
        let monitors = self.monitors.by_peer.take();
        let monitors: Vec<_> = monitors.values().filter(|it| it.say_goodbye()).collect();
        if monitors.is_empty() {
            return;
        }
        let arrival = async {
            while !monitors.iter().all(|monitor| monitor.has_said_goodbye()) {
                sleep(GOODBYE_LOOK).await;
            }
        };
        // It never arrives at a peer whose loss is not noticed yet.
        let _ = timeout(GOODBYE, arrival).await;
        sleep(PARTING).await;
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

    /// When to continue, if nothing happens before.
    fn next(&self) -> Option<Instant> {
        let core = self.core.borrow();
        let end = core.end.as_ref();
        let beats = |end: &&MonitoredEnd| end.up.is_some() && !self.is_ticked.get();
        let beat = end.filter(beats).map(|end| end.next_beat);
        let times = [core.link.next_timeout(), beat, core.next_doubt()];
        times.into_iter().flatten().min()
    }

    /// Handles time, heartbeats and input, and returns what the task has to do.
    fn advance(&self, state: &AgentState, now: Instant) -> Vec<Effect> {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
        let core = &mut *self.core.borrow_mut();
        let mut effects = Vec::new();
        core.link.handle_timeout(now);
        core.doubt_rest(now, &mut effects);
        core.listen(now, None, &mut effects);
        core.go_on(state, now, &mut effects);
        effects
    }

    /// Exchanges heartbeats with a peer that is well, for which the queues have been polled. `next`
    /// is when to do so again. Returns whether that was all there is to do.
    fn beat(
        &self,
        state: &AgentState,
        now: Instant,
        next: Instant,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let core = &mut *self.core.borrow_mut();
        if !core.is_quiet() {
            return false;
        }
        core.listen(now, Some(next), effects);
        if core.is_quiet() {
            return true;
        }
        core.go_on(state, now, effects);
        false
    }

    /// Declares this incarnation of the peer gone, unless it has sent a heartbeat meanwhile.
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

    /// Returns whether the goodbye has arrived, or never will.
    fn has_said_goodbye(&self) -> bool {
        let mut core = self.core.borrow_mut();
        let end = core.end.as_mut();
        end.is_none_or(|end| end.heartbeat.has_arrived())
    }
}

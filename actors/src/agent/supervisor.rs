//! The actor behind a [`PeerAgent`](crate::PeerAgent).
//!
//! It talks to the control plane, answers the handshakes of callers, makes those of proxies, and
//! closes what belongs to peers that leave. No request or reply passes through it.

mod accept;
mod advertising;
mod connect_service;
mod discovery;
mod link_choice;
mod link_reason;
mod obs;
mod one_sided;
mod peer_lookup;
mod peer_monitor;
mod peers;
mod probe;
mod reconnect;
mod rest;
mod services;
mod supervise;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Weak;
use std::time::{Duration, Instant};

use actix::{Actor, Addr, Arbiter, Context, Handler, Message, ResponseFuture};
use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use slimerpc::backoff::Backoff;
use slimerpc::channel::{ClientChannel, Descriptor, Endpoint, HostId, LossCause, Mismatch};
use slimerpc::control::topology;
use slimerpc::control::{Control, ControlError, MailEvent};
use slimerpc::fabric::LinkType;
use slimerpc::unique::unique;
use slimerpc::wire::WIRE_VERSION;
use tokio::sync::{broadcast, oneshot};

use tokio::time::{sleep, timeout};

use crate::agent::builder::Settings;
use crate::agent::handshake::Handshake;
use crate::dlslime::DlslimePeers;
use crate::dlslime::handshake::QpReady;
use crate::observe::Telling;
use crate::service::running::{RunningService, RunningServices};
use crate::supervision::supervised::SupervisedServices;
use crate::{AgentError, AgentEvent, Figures};

pub(crate) use self::connect_service::ConnectService;
pub(crate) use self::discovery::{FollowServices, Following, ListServices, Registered};
pub(crate) use self::peers::ListPeers;
pub(crate) use self::reconnect::KeepUp;
pub(crate) use self::services::{Publish, Withdraw};
pub(crate) use self::supervise::Ended;

use self::accept::Untyped;
use self::advertising::Advertised;
use self::discovery::Followed;
use self::link_choice::LinkFailures;
use self::link_reason::LinkReasons;
use self::obs::ObsLog;
use self::one_sided::OneSidedConnections;
use self::peer_lookup::Found;
use self::peer_monitor::PeerMonitors;
use self::rest::KnownProxy;

/// Pauses between checks whether the alias is free.
const ALIAS_LOOKS: Backoff = Backoff::doubling(Duration::from_millis(250), Duration::from_secs(2));
const HEARTBEAT: Duration = Duration::from_secs(15);
/// First pause between two checks for a peer that is not there yet.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LOOKS: Backoff = Backoff::doubling(FIRST_LOOK, Duration::from_millis(250));
/// How long given answers may take to arrive when the agent leaves.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// The supervisor actor. Its handlers share [`AgentState`], because each awaits the control plane.
pub(crate) struct Supervisor {
    state: Rc<AgentState>,
}

struct AgentState {
    settings: Settings,
    alias: String,
    descriptor: RefCell<Descriptor>,
    services: Rc<RunningServices>,
    advertised: Advertised,
    followed: Followed,
    untyped: Untyped,
    /// The services that are supervised: restarted, or given up.
    supervised: RefCell<SupervisedServices<RunningService>>,
    events: broadcast::Sender<AgentEvent>,
    /// Proxies that wait for the answer to their open.
    dialing: RefCell<HashMap<u64, oneshot::Sender<Result<Endpoint, Mismatch>>>>,
    /// The channels of proxies, each with the peer's incarnation if it is native.
    channels: RefCell<Vec<(Option<u64>, Weak<ClientChannel>)>>,
    /// The proxies for services of native peers.
    proxies: RefCell<Vec<KnownProxy>>,
    monitors: PeerMonitors,
    link_failures: LinkFailures,
    link_reasons: LinkReasons,
    wanted: RefCell<BTreeSet<String>>,
    dlslime: Rc<DlslimePeers>,
    /// The connections for one-sided memory.
    one_sided: RefCell<OneSidedConnections>,
    next: Cell<u64>,
    left: Rc<Cell<bool>>,
    /// What the agent says of itself, if it does.
    obs: ObsLog,
    /// What serves metrics over HTTP.
    telling: Cell<Telling>,
}

/// A supervisor that has registered.
pub(crate) struct RegisteredSupervisor {
    pub(crate) alias: String,
    pub(crate) incarnation: u64,
    pub(crate) supervisor: Addr<Supervisor>,
}

impl Supervisor {
    /// Registers and starts the actor on the current arbiter.
    pub(crate) async fn start_here(
        mut settings: Settings,
        events: broadcast::Sender<AgentEvent>,
    ) -> Result<RegisteredSupervisor, AgentError> {
        let metrics = std::mem::take(&mut settings.metrics);
        let alias = register(&settings).await?;
        if let (Some(files), None) = (&settings.tls, &settings.alias)
            && let Err(error) = files.check_alias(&alias)
        {
            tracing::warn!(alias, "the control plane chose an alias; {error}");
        }
        let incarnation = unique();
        // Earlier releases cannot read a descriptor with another kind among `links`.
        let (more_links, links) = settings
            .devices
            .links()
            .into_iter()
            .partition(|link| *link == LinkType::Tcp);
        let descriptor = Descriptor {
            wire_version: WIRE_VERSION,
            incarnation,
            host: HostId {
                boot_id: topology::boot_id(),
                uid: topology::uid(),
                pid: std::process::id(),
                network: topology::network(),
            },
            geometry: settings.geometry,
            links,
            more_links,
            tls: settings.tls.is_some(),
            services: Vec::new(),
            down: Vec::new(),
        };
        let supervised = RefCell::new(SupervisedServices::new(settings.strategy));
        let (services, left) = (Rc::<RunningServices>::default(), Rc::new(Cell::new(false)));
        let dlslime = Rc::new(DlslimePeers {
            alias: alias.clone(),
            control: settings.control.clone(),
            devices: settings.devices.clone(),
            geometry: settings.dlslime_geometry,
            retry: settings.retry,
            services: services.clone(),
            has_left: left.clone(),
            pairs: RefCell::default(),
        });
        let obs = ObsLog::new(settings.obs.is_some());
        let state = Rc::new(AgentState {
            settings,
            alias: alias.clone(),
            descriptor: RefCell::new(descriptor),
            services,
            advertised: Advertised::default(),
            followed: Followed::default(),
            untyped: Untyped::default(),
            supervised,
            events,
            dialing: RefCell::default(),
            channels: RefCell::default(),
            proxies: RefCell::default(),
            monitors: PeerMonitors::default(),
            link_failures: LinkFailures::default(),
            link_reasons: LinkReasons::default(),
            wanted: RefCell::default(),
            dlslime,
            one_sided: RefCell::default(),
            next: Cell::new(unique()),
            left,
            obs,
            telling: Cell::default(),
        });
        if let Err(error) = state.publish().await {
            let _ = state.settings.control.clean_up().await;
            return Err(error);
        }
        tracing::info!(
            alias,
            control = state.control().describe(),
            devices = %state.settings.devices,
            "agent registered"
        );
        let observed = Rc::downgrade(&state);
        let last = observed.clone();
        let telling = metrics.tell(
            &alias,
            &state.settings.scope,
            move || observed.upgrade()?.figures(),
            move || last.upgrade()?.last_figures(),
        );
        state.telling.set(telling);
        Ok(RegisteredSupervisor {
            alias,
            incarnation,
            supervisor: Self { state }.start(),
        })
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        actix::spawn(self.state.clone().read_mail());
        actix::spawn(self.state.clone().send_heartbeats());
        actix::spawn(self.state.clone().probe());
        if let Some(period) = self.state.settings.obs {
            actix::spawn(self.state.clone().report(period));
        }
        actix::spawn(self.state.clone().let_rest());
    }
}

/// Waits for a peer.
#[derive(Message)]
#[rtype(result = "Result<(), AgentError>")]
pub(crate) struct Connect {
    pub(crate) peer: String,
    /// How many queue pairs a connection with a DLSlime peer has.
    pub(crate) queue_pairs: usize,
    pub(crate) timeout: Duration,
}

/// Ends the agent.
#[derive(Message)]
#[rtype(result = "Result<(), AgentError>")]
pub(crate) struct Leave;

impl Handler<Connect> for Supervisor {
    type Result = ResponseFuture<Result<(), AgentError>>;

    fn handle(&mut self, connect: Connect, _: &mut Context<Self>) -> Self::Result {
        let state = self.state.clone();
        Box::pin(async move { state.connect(connect).await })
    }
}

impl Handler<Leave> for Supervisor {
    type Result = ResponseFuture<Result<(), AgentError>>;

    fn handle(&mut self, _: Leave, _: &mut Context<Self>) -> Self::Result {
        let state = self.state.clone();
        Box::pin(async move { state.leave().await })
    }
}

impl AgentState {
    fn control(&self) -> &dyn Control {
        &*self.settings.control
    }

    async fn publish(&self) -> Result<(), AgentError> {
        let record = serde_json::to_value(&*self.descriptor.borrow())
            .expect("a descriptor has string keys only");
        Ok(self.control().publish(Descriptor::RECORD, record).await?)
    }

    async fn connect(self: &Rc<Self>, connect: Connect) -> Result<(), AgentError> {
        let started = Instant::now();
        let Connect { peer, timeout, .. } = connect;
        self.dlslime.set_queue_pairs(&peer, connect.queue_pairs);
        let left = || timeout.saturating_sub(started.elapsed());
        match self.find(&peer, started, timeout, |_| Ok(())).await? {
            Found::Native(..) => {
                self.declare(&peer, left()).await?;
                if peer == self.alias {
                    return Ok(());
                }
                // The peer's published record does not show whether it lives.
                self.await_life(&peer, started, timeout).await
            }
            Found::Dlslime(record) => {
                self.declare(&record.alias, left()).await?;
                self.dlslime.begin(&record, left()).await
            }
        }
    }

    /// Adds `peer` to the peers that this agent wants to be connected with, within `limit`: a
    /// control plane that is busy or away may be back by then. It reaches itself without that.
    async fn declare(&self, peer: &str, limit: Duration) -> Result<(), AgentError> {
        if peer == self.alias || !self.wanted.borrow_mut().insert(peer.to_owned()) {
            return Ok(());
        }
        let started = Instant::now();
        let declare = accept::persist(limit, async || self.declare_wanted().await);
        let declared = match timeout(limit.max(FIRST_LOOK), declare).await {
            Ok(declared) => declared.map_err(AgentError::from),
            Err(_) => Err(AgentError::timed_out(peer, started)),
        };
        if declared.is_err() {
            self.wanted.borrow_mut().remove(peer);
        }
        declared
    }

    async fn declare_wanted(&self) -> Result<(), ControlError> {
        let peers: Vec<_> = self.wanted.borrow().iter().cloned().collect();
        self.control().set_topology(&peers).await
    }

    async fn read_mail(self: Rc<Self>) {
        let mut mail = self.control().mail();
        while let Some(event) = mail.next().await {
            match event {
                MailEvent::Left { peer } => self.peer_left(&peer),
                MailEvent::Mail(mail) if QpReady::is(&mail) => self.dlslime.take_mail(&mail),
                MailEvent::Mail(mail) => match Handshake::read(&mail) {
                    Ok(Some(Handshake::Open(peer, open))) => {
                        actix::spawn(self.clone().answer(peer, open));
                    }
                    Ok(Some(Handshake::Answer(answer))) => self.take_answer(answer),
                    Ok(Some(Handshake::OneSidedOpen(peer, open))) => {
                        actix::spawn(self.clone().answer_one_sided(peer, open));
                    }
                    Ok(Some(Handshake::Link(peer, message))) => {
                        self.take_handshake_message(&peer, message)
                    }
                    Ok(Some(Handshake::OneSidedAnswer(answer))) => {
                        self.one_sided.borrow_mut().take_answer(answer);
                    }
                    Ok(None) => tracing::debug!(kind = mail.kind, "mail of another kind skipped"),
                    Err(reason) => {
                        tracing::warn!(
                            peer = mail.peer(),
                            kind = mail.kind,
                            reason,
                            "malformed mail skipped"
                        );
                    }
                },
            }
        }
    }

    /// Removes `peer` from the peers that this agent wants to be connected with. Otherwise the
    /// server would leave it a notice when this agent leaves, and nobody would ever read that.
    fn want_no_more(self: &Rc<Self>, peer: &str) {
        if !self.wanted.borrow_mut().remove(peer) {
            return;
        }
        let state = self.clone();
        actix::spawn(async move {
            if let Err(error) = state.declare_wanted().await {
                tracing::debug!(%error, "the peers we want could not be declared");
            }
        });
    }

    /// Handles the control plane's report that `peer` has left.
    fn peer_left(self: &Rc<Self>, peer: &str) {
        if let Some(incarnation) = self.reachable(peer) {
            // FENCE-1: another incarnation of the peer has left. If it is this one, the monitor
            // reports that itself.
            return tracing::debug!(%peer, incarnation, "another incarnation of a peer has left");
        }
        tracing::info!(%peer, "peer left");
        self.want_no_more(peer);
        self.wake_monitor(peer);
        self.dlslime.peer_left(peer);
        self.one_sided.borrow_mut().peer_left(peer);
        for (_, channel) in &*self.channels.borrow() {
            if let Some(channel) = channel.upgrade()
                && channel.peer() == peer
            {
                channel.close(LossCause::Left);
            }
        }
        self.lose_resting(peer, None, &LossCause::Left);
        for service in self.services.borrow().values() {
            service.dismiss(peer, None, &LossCause::Left);
        }
    }

    async fn send_heartbeats(self: Rc<Self>) {
        while !self.left.get() {
            sleep(HEARTBEAT).await;
            if self.left.get() {
                break;
            }
            if let Err(error) = self.control().heartbeat().await {
                tracing::warn!(%error, "heartbeat failed; connections go on, the next try is in {HEARTBEAT:?}");
            }
        }
    }

    async fn leave(&self) -> Result<(), AgentError> {
        if self.left.replace(true) {
            return Err(AgentError::ShutDown);
        }
        let services = self.services.take();
        // A program that shuts down after its last answer expects that answer to arrive.
        let flushed = join_all(services.values().map(|service| service.flush(LAST_ANSWERS)));
        join(flushed, self.obs.stop(LAST_ANSWERS)).await;
        tracing::info!(alias = self.alias, "agent leaves");
        let mut telling = self.telling.take();
        telling.leave().await;
        let cleaned = self.control().clean_up().await;
        self.end_monitors().await;
        for (_, channel) in self.channels.take() {
            if let Some(channel) = channel.upgrade() {
                channel.close(LossCause::ShutDown);
            }
        }
        self.end_resting();
        self.dlslime.end();
        self.one_sided.borrow_mut().end();
        for service in services.into_values() {
            service.end();
        }
        self.dialing.take();
        telling.end().await;
        Arbiter::current().stop();
        Ok(cleaned?)
    }

    /// The figures, if anything is counted and the agent has not left.
    fn figures(&self) -> Option<Figures> {
        self.last_figures().filter(|_| !self.left.get())
    }

    /// The figures, if anything is counted.
    fn last_figures(&self) -> Option<Figures> {
        let observed = self.settings.observed.as_ref()?;
        Some(observed.figures(self.settings.devices.account()))
    }

    /// Notes an incident, if anything is counted. A `detail` is counted apart.
    fn note(&self, kind: &'static str, detail: impl Display) {
        if let Some(observed) = &self.settings.observed {
            observed.incidents.note(kind, &detail.to_string());
        }
    }

    fn check_open(&self) -> Result<(), AgentError> {
        if self.left.get() {
            Err(AgentError::ShutDown)
        } else {
            Ok(())
        }
    }
}

/// Registers and returns the alias. Waits for a taken alias as long as the settings allow.
async fn register(settings: &Settings) -> Result<String, ControlError> {
    let (started, mut pauses) = (Instant::now(), ALIAS_LOOKS.pauses());
    let mut is_told = false;
    loop {
        let alias = settings.alias.as_deref();
        let mut registration = settings.topology.registration(alias, "");
        if let Some(resource) = &mut registration.resource {
            resource["slime"]["fabrics"] = settings.devices.beside_rdma().into();
        }
        let taken = match settings.control.register(registration).await {
            Err(taken @ ControlError::AliasTaken { .. }) => taken,
            done => return done,
        };
        let left = settings.take_over.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(taken);
        }
        if !is_told {
            tracing::warn!(within = ?settings.take_over, %taken, "waiting for an alias");
            is_told = true;
        }
        sleep(pauses.take().min(left)).await;
    }
}

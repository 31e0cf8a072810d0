//! The actor behind a [`PeerAgent`](crate::PeerAgent).
//!
//! It talks to the control plane, answers the handshakes of callers, makes those of proxies, and
//! closes what belongs to peers that leave. No request or reply passes through it.

mod advertising;
mod agreement;
mod discovery;
mod inquiry;
mod news;
mod one_sided;
mod peer_monitor;
mod reconnect;
mod registering;
mod supervise;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actix::{Actor, Addr, Arbiter, Context, Handler, Message, ResponseFuture};
use futures_util::StreamExt;
use futures_util::future::join_all;
use slimerpc::backoff::Backoff;
use slimerpc::channel::{
    ClientChannel, Descriptor, Dialer, Endpoint, HostId, LossCause, Mailbox, Mismatch,
    ServiceTable, WaitPolicy,
};
use slimerpc::control::topology;
use slimerpc::control::{Control, MailEvent, PeerRecord};
use slimerpc::fabric::LinkType;
use slimerpc::unique::unique;
use slimerpc::wire::WIRE_VERSION;
use tokio::sync::{broadcast, oneshot};
use tokio::time::{sleep, timeout};

use crate::agent::builder::Settings;
use crate::agent::handshake::{Answer, Handshake, Open};
use crate::agent::serve::Callers;
use crate::client::connection::{ConnectedService, ServiceConnection};
use crate::dlslime::DlslimePeers;
use crate::dlslime::client::Attempt;
use crate::dlslime::handshake::QpReady;
use crate::service::running::{RunningService, RunningServices};
use crate::supervision::supervised::SupervisedServices;
use crate::{AgentError, AgentEvent, Restart};

pub(crate) use self::discovery::{FollowServices, Following, ListServices, Registered};
pub(crate) use self::reconnect::KeepUp;
pub(crate) use self::supervise::Ended;

use self::advertising::Advertised;
use self::agreement::Untyped;
use self::discovery::Followed;
use self::news::News;
use self::one_sided::OneSidedConnections;
use self::peer_monitor::PeerMonitors;

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
    /// Proxies that wait for the answer to their [`Open`].
    dialing: RefCell<HashMap<u64, oneshot::Sender<Result<Endpoint, Mismatch>>>>,
    /// The channels of proxies, each with the peer's incarnation if it is native.
    channels: RefCell<Vec<(Option<u64>, Weak<ClientChannel>)>>,
    monitors: PeerMonitors,
    wanted: RefCell<BTreeSet<String>>,
    dlslime: Rc<DlslimePeers>,
    /// The connections for one-sided memory.
    one_sided: RefCell<OneSidedConnections>,
    next: Cell<u64>,
    left: Rc<Cell<bool>>,
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
        settings: Settings,
        events: broadcast::Sender<AgentEvent>,
    ) -> Result<RegisteredSupervisor, AgentError> {
        let alias = registering::register(&settings).await?;
        let incarnation = unique();
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
            links: settings.devices.links(),
            services: Vec::new(),
            down: Vec::new(),
        };
        let supervised = RefCell::new(SupervisedServices::new(settings.strategy));
        let (services, left) = (Rc::<RunningServices>::default(), Rc::new(Cell::new(false)));
        let link = settings.devices.for_dlslime().device().port().link_type;
        let dlslime = Rc::new(DlslimePeers {
            alias: alias.clone(),
            control: settings.control.clone(),
            devices: settings.devices.clone(),
            geometry: settings.dlslime_geometry,
            retry: settings.retry,
            probe_interval: settings.heartbeat(link).interval,
            services: services.clone(),
            has_left: left.clone(),
            pairs: RefCell::default(),
        });
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
            monitors: PeerMonitors::default(),
            wanted: RefCell::default(),
            dlslime,
            one_sided: RefCell::default(),
            next: Cell::new(unique()),
            left,
        });
        if let Err(error) = state.publish().await {
            let _ = state.settings.control.clean_up().await;
            return Err(error);
        }
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
        actix::spawn(self.state.clone().beat());
        actix::spawn(self.state.dlslime.clone().probe());
    }
}

/// Opens a channel to a service of a peer.
#[derive(Message)]
#[rtype(result = "Result<ConnectedService, AgentError>")]
pub(crate) struct ConnectService {
    pub(crate) peer: String,
    pub(crate) wanted: ServiceTable,
    pub(crate) wait_policy: WaitPolicy,
    pub(crate) timeout: Duration,
    /// Set for an existing proxy, which connects even if no method can be called any more, so that
    /// its calls fail with the reason.
    pub(crate) again: bool,
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

/// Offers a running service.
#[derive(Message)]
#[rtype(result = "Result<(), AgentError>")]
pub(crate) struct Publish {
    pub(crate) table: ServiceTable,
    pub(crate) callers: Callers,
    /// The service type's own name, if discovery by type may find it.
    pub(crate) advertise: Option<&'static str>,
    pub(crate) running: RunningService,
    /// The restart policy, if the service is supervised.
    pub(crate) restart: Option<Restart>,
}

/// Ends a service.
#[derive(Message)]
#[rtype(result = "Result<(), AgentError>")]
pub(crate) struct Withdraw {
    pub(crate) service: String,
    /// How long running handlers may take.
    pub(crate) limit: Duration,
}

/// Ends the agent.
#[derive(Message)]
#[rtype(result = "Result<(), AgentError>")]
pub(crate) struct Leave;

impl Handler<ConnectService> for Supervisor {
    type Result = ResponseFuture<Result<ConnectedService, AgentError>>;

    fn handle(&mut self, dial: ConnectService, _: &mut Context<Self>) -> Self::Result {
        let state = self.state.clone();
        Box::pin(async move { state.dial(dial).await })
    }
}

impl Handler<Connect> for Supervisor {
    type Result = ResponseFuture<Result<(), AgentError>>;

    fn handle(&mut self, connect: Connect, _: &mut Context<Self>) -> Self::Result {
        let state = self.state.clone();
        Box::pin(async move { state.connect(connect).await })
    }
}

impl Handler<Publish> for Supervisor {
    type Result = ResponseFuture<Result<(), AgentError>>;

    fn handle(&mut self, publish: Publish, _: &mut Context<Self>) -> Self::Result {
        let state = self.state.clone();
        Box::pin(async move { state.add_service(publish).await })
    }
}

impl Handler<Withdraw> for Supervisor {
    type Result = ResponseFuture<Result<(), AgentError>>;

    fn handle(&mut self, withdraw: Withdraw, _: &mut Context<Self>) -> Self::Result {
        let state = self.state.clone();
        Box::pin(async move { state.remove_service(withdraw).await })
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
        match self.find(&peer, started, timeout, |_| Ok(())).await? {
            Found::Native(..) => {
                self.declare(&peer).await?;
                if peer == self.alias {
                    return Ok(());
                }
                // The peer's published record does not show whether it lives.
                self.await_life(&peer, started, timeout).await
            }
            Found::Dlslime(record) => {
                let left = timeout.saturating_sub(started.elapsed());
                self.declare(&record.alias).await?;
                self.dlslime.begin(&record, left).await
            }
        }
    }

    async fn add_service(self: &Rc<Self>, mut publish: Publish) -> Result<(), AgentError> {
        self.check_open()?;
        publish.running.only = match publish.callers {
            Callers::All => None,
            Callers::Peer(peer) => Some(peer),
            Callers::OnlyPeer => Some(self.only_peer()?),
        };
        let name = publish.table.name.clone();
        if self.services.borrow().contains_key(&name) {
            return Err(AgentError::AlreadyServed { service: name });
        }
        self.supervise(&name, &publish.running, publish.restart);
        self.services
            .borrow_mut()
            .insert(name.clone(), publish.running);
        self.descriptor
            .borrow_mut()
            .services
            .push(publish.table.clone());
        let published = self.publish().await;
        match &published {
            Ok(()) => self.dlslime.serve_parked(),
            Err(_) => {
                if let Some(running) = self.forget_service(&name) {
                    self.unsupervise(&running);
                }
            }
        }
        published?;
        if let Some(type_name) = publish.advertise {
            self.advertise(&publish.table, type_name).await;
        }
        Ok(())
    }

    /// Alias of the one peer that this agent wants to be connected with.
    fn only_peer(&self) -> Result<String, AgentError> {
        let wanted = self.wanted.borrow();
        match wanted.first() {
            Some(peer) if wanted.len() == 1 => Ok(peer.clone()),
            _ => Err(AgentError::WhichPeer {
                peers: wanted.iter().cloned().collect(),
            }),
        }
    }

    async fn remove_service(self: &Rc<Self>, withdraw: Withdraw) -> Result<(), AgentError> {
        let Withdraw {
            service: name,
            limit,
        } = withdraw;
        let Some(running) = self.forget_service(&name) else {
            return Ok(());
        };
        self.retract(&name).await;
        let published = self.publish().await;
        let drained = running.drain(limit).await;
        if !drained {
            // Not every device tells callers that a queue pair is gone, so tell them why (CALL-1).
            running.give_up();
            running.drain(LAST_ANSWERS).await;
        }
        self.unsupervise(&running);
        running.end();
        self.dlslime.service_ended(&name).await;
        if !drained {
            return Err(AgentError::StillRunning {
                service: name,
                waited: limit,
            });
        }
        published
    }

    fn forget_service(&self, name: &str) -> Option<RunningService> {
        let mut descriptor = self.descriptor.borrow_mut();
        descriptor.services.retain(|table| table.name != name);
        descriptor.down.retain(|down| down != name);
        self.services.borrow_mut().remove(name)
    }

    async fn dial(self: &Rc<Self>, dial: ConnectService) -> Result<ConnectedService, AgentError> {
        let started = Instant::now();
        if dial.peer == self.alias {
            return self.dial_self(&dial, started).await;
        }
        let mut news = News::new(self, &dial.peer);
        let mut broken = None;
        loop {
            let (theirs, table, link) = match self.find_service(&dial, started).await? {
                Found::Native(theirs, (table, link)) => (theirs, table, link),
                Found::Dlslime(record) => {
                    let attempt = Attempt {
                        peer: &record,
                        wait_policy: &dial.wait_policy,
                        started,
                        limit: dial.timeout,
                    };
                    let declare = async || self.declare(&dial.peer).await;
                    let channel = self.dlslime.call(attempt, declare).await?;
                    return Ok(ConnectedService {
                        link: ServiceConnection::Channels(channel, None),
                        table: dial.wanted,
                        incarnation: None,
                    });
                }
            };
            self.declare(&dial.peer).await?;
            let opened = tokio::select! {
                opened = self.open_all(&dial, &theirs, &table, link, started) => opened,
                // Another incarnation has taken over: the one that was asked no longer answers, or
                // its answer is useless.
                () = self.superseded(&dial.peer, theirs.incarnation) => {
                    tracing::debug!(peer = dial.peer, "a peer is back as another life while it is dialled");
                    continue;
                }
            };
            let error = match opened {
                Ok((channel, parallel)) => {
                    self.note_agreement(&dial.peer, &dial.wanted, &table);
                    self.want_line(&dial.peer);
                    return Ok(ConnectedService {
                        link: ServiceConnection::Channels(channel, parallel),
                        table,
                        incarnation: Some(theirs.incarnation),
                    });
                }
                Err(error) => error,
            };
            let may_pass = match &error {
                // Another incarnation of the peer has read this, or the service is not served yet,
                // or no longer.
                AgentError::Refused { mismatch, .. } => matches!(
                    mismatch,
                    Mismatch::Incarnation { .. }
                        | Mismatch::NoSuchService { .. }
                        | Mismatch::ServiceChanged { .. }
                ),
                // The peer may have died after its answer, so try once more. If it lives, its
                // second answer is no better.
                AgentError::Connect(_) => {
                    broken.replace(theirs.incarnation) != Some(theirs.incarnation)
                }
                _ => false,
            };
            let left = dial.timeout.saturating_sub(started.elapsed());
            if !may_pass || left.is_zero() {
                return Err(error);
            }
            news.wait(left).await;
        }
    }

    /// Waits until the requested service is served and its peer can be reached.
    async fn find_service(
        self: &Rc<Self>,
        dial: &ConnectService,
        started: Instant,
    ) -> Result<Found<(ServiceTable, LinkType)>, AgentError> {
        let devices = &self.settings.devices;
        let here = self.descriptor.borrow().host.clone();
        let check = |theirs: &Descriptor| {
            let table = theirs.check_service(self.settings.geometry, &dial.wanted)?;
            if !dial.again {
                table.check_methods(&dial.wanted)?;
            }
            let table = table.clone();
            Ok((table, theirs.link(&devices.links(), &here)?))
        };
        self.find(&dial.peer, started, dial.timeout, check).await
    }

    /// Opens the channels to a service: one, or two if its parallel methods are needed.
    async fn open_all(
        &self,
        dial: &ConnectService,
        theirs: &Descriptor,
        table: &ServiceTable,
        link: LinkType,
        started: Instant,
    ) -> Result<(Arc<ClientChannel>, Option<Arc<ClientChannel>>), AgentError> {
        let is_wanted = |method| dial.wanted.methods.contains(method);
        let channel = self.open(dial, theirs, table, link, false, started).await?;
        let parallel = if table.parallel.iter().any(is_wanted) {
            Some(self.open(dial, theirs, table, link, true, started).await?)
        } else {
            None
        };
        Ok((channel, parallel))
    }

    /// Connects to a service of this agent, once it is served.
    async fn dial_self(
        self: &Rc<Self>,
        dial: &ConnectService,
        started: Instant,
    ) -> Result<ConnectedService, AgentError> {
        let geometry = self.settings.geometry;
        let check = |ours: &Descriptor| ours.check(geometry, &dial.wanted).cloned();
        let found = self.find(&dial.peer, started, dial.timeout, check).await?;
        let running = self.services.borrow().get(&dial.wanted.name).cloned();
        let (Found::Native(ours, table), Some(running)) = (found, running) else {
            return Err(AgentError::Refused {
                peer: dial.peer.clone(),
                mismatch: Mismatch::NoSuchService {
                    wanted: dial.wanted.name.clone(),
                    served: self.services.borrow().keys().cloned().collect(),
                },
            });
        };
        self.note_agreement(&dial.peer, &dial.wanted, &table);
        let parallel = running.front().deliveries.clone();
        let has_parallel = !table.parallel.is_empty();
        Ok(ConnectedService {
            link: ServiceConnection::Local(
                running.serial.deliveries,
                has_parallel.then_some(parallel),
            ),
            table,
            incarnation: Some(ours.incarnation),
        })
    }

    /// Opens a channel to a service, or to its parallel methods.
    async fn open(
        &self,
        dial: &ConnectService,
        theirs: &Descriptor,
        table: &ServiceTable,
        link: LinkType,
        parallel: bool,
        started: Instant,
    ) -> Result<Arc<ClientChannel>, AgentError> {
        let Settings {
            devices,
            geometry,
            retry,
            ..
        } = &self.settings;
        let memory = devices.on(link).unwrap_or(devices.first());
        let dialer = Dialer::new(memory, *geometry, *retry)?;
        let id = self.next.replace(self.next.get().wrapping_add(1));
        let open = Open {
            id,
            service: dial.wanted.name.clone(),
            parallel,
            wire_version: WIRE_VERSION,
            from: self.descriptor.borrow().incarnation,
            to: theirs.incarnation,
            table: Some(table.fingerprint()),
            link,
            endpoint: dialer.endpoint(),
        };
        let (tell, told) = oneshot::channel();
        {
            let mut dialing = self.dialing.borrow_mut();
            // Removes the opens that were given up.
            dialing.retain(|_, tell| !tell.is_closed());
            dialing.insert(id, tell);
        }
        let sent = self
            .control()
            .send_mail(&dial.peer, &open.to_mail(&self.alias))
            .await;
        let remaining = dial
            .timeout
            .saturating_sub(started.elapsed())
            .max(FIRST_LOOK);
        let answered = match sent {
            Ok(()) => timeout(remaining, told).await,
            Err(error) => {
                self.dialing.borrow_mut().remove(&id);
                return Err(error.into());
            }
        };
        self.dialing.borrow_mut().remove(&id);
        let endpoint = match answered {
            Err(_) => {
                return Err(AgentError::ConnectTimeout {
                    peer: dial.peer.clone(),
                    waited: started.elapsed(),
                });
            }
            Ok(Err(_)) => return Err(AgentError::ShutDown),
            Ok(Ok(Err(mismatch))) => {
                return Err(AgentError::Refused {
                    peer: dial.peer.clone(),
                    mismatch,
                });
            }
            Ok(Ok(Ok(endpoint))) => endpoint,
        };
        let channel = dialer.connect(&dial.peer, &endpoint, dial.wait_policy.clone())?;
        self.note_channel(Some(theirs.incarnation), &channel);
        Ok(channel)
    }

    fn note_channel(&self, life: Option<u64>, channel: &Arc<ClientChannel>) {
        let mut channels = self.channels.borrow_mut();
        channels.retain(|(_, channel)| channel.strong_count() > 0);
        channels.push((life, Arc::downgrade(channel)));
    }

    /// Waits until `peer` is registered and its descriptor passes `check`. A missing service may
    /// still be about to be served, so this waits for it, too; any other mismatch is final.
    async fn find<T>(
        self: &Rc<Self>,
        peer: &str,
        started: Instant,
        limit: Duration,
        check: impl Fn(&Descriptor) -> Result<T, Mismatch>,
    ) -> Result<Found<T>, AgentError> {
        let mut news = News::new(self, peer);
        loop {
            self.check_open()?;
            let missing = match self.look(peer).await? {
                PeerLookup::Unknown => AgentError::PeerUnknown {
                    peer: peer.to_owned(),
                    waited: started.elapsed(),
                    control: self.control().describe(),
                },
                PeerLookup::Silent => AgentError::NotNative {
                    peer: peer.to_owned(),
                    waited: started.elapsed(),
                },
                PeerLookup::Dlslime(record) => return Ok(Found::Dlslime(record)),
                PeerLookup::Found(descriptor) => match check(&descriptor) {
                    Ok(checked) => return Ok(Found::Native(descriptor, checked)),
                    Err(mismatch) => {
                        let is_final = !matches!(mismatch, Mismatch::NoSuchService { .. });
                        let refused = AgentError::Refused {
                            peer: peer.to_owned(),
                            mismatch,
                        };
                        if is_final {
                            return Err(refused);
                        }
                        refused
                    }
                },
            };
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(missing);
            }
            news.wait(left).await;
        }
    }

    async fn look(&self, peer: &str) -> Result<PeerLookup, AgentError> {
        let Some(known) = self.control().peer(peer).await? else {
            return Ok(PeerLookup::Unknown);
        };
        let Some(record) = self.control().lookup(peer, Descriptor::RECORD).await? else {
            return Ok(if known.is_native() {
                PeerLookup::Silent
            } else {
                PeerLookup::Dlslime(known)
            });
        };
        match serde_json::from_value(record) {
            Ok(descriptor) => Ok(PeerLookup::Found(descriptor)),
            Err(error) => {
                tracing::warn!(%peer, %error, "a peer's descriptor is malformed");
                Ok(PeerLookup::Silent)
            }
        }
    }

    /// Adds `peer` to the peers that this agent wants to be connected with.
    async fn declare(&self, peer: &str) -> Result<(), AgentError> {
        if !self.wanted.borrow_mut().insert(peer.to_owned()) {
            return Ok(());
        }
        let declared = self.declare_wanted().await;
        if declared.is_err() {
            self.wanted.borrow_mut().remove(peer);
        }
        declared
    }

    async fn declare_wanted(&self) -> Result<(), AgentError> {
        let peers: Vec<_> = self.wanted.borrow().iter().cloned().collect();
        Ok(self.control().set_topology(&peers).await?)
    }

    async fn read_mail(self: Rc<Self>) {
        let mut mailbox = self.control().mailbox();
        while let Some(event) = mailbox.next().await {
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
                    Ok(Some(Handshake::Link(peer, message))) => self.take_letter(&peer, message),
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

    async fn answer(self: Rc<Self>, peer: String, open: Open) {
        let answer = Answer {
            id: open.id,
            result: self.let_in(&peer, open).await,
        };
        if let Err(mismatch) = &answer.result {
            tracing::info!(%peer, %mismatch, "caller refused");
        }
        if let Err(error) = self
            .control()
            .send_mail(&peer, &answer.to_mail(&self.alias))
            .await
        {
            tracing::warn!(%peer, %error, "a caller could not be answered");
        }
    }

    async fn let_in(&self, peer: &str, open: Open) -> Result<Endpoint, Mismatch> {
        let found = self.descriptor.borrow().incarnation;
        check_life(open.to, found, open.wire_version)?;
        if open.endpoint.geometry != self.settings.geometry {
            return Err(Mismatch::Geometry {
                ours: self.settings.geometry,
                theirs: open.endpoint.geometry,
            });
        }
        let service = self.services.borrow().get(&open.service).cloned();
        let Some(service) = service else {
            let served = self.services.borrow().keys().cloned().collect();
            return Err(Mismatch::NoSuchService {
                wanted: open.service,
                served,
            });
        };
        if service.only.as_deref().is_some_and(|only| only != peer) {
            return Err(Mismatch::NotServed {
                service: open.service,
                peer: peer.to_owned(),
            });
        }
        if self.descriptor.borrow().down.contains(&open.service) {
            return Err(Mismatch::ServiceDown {
                service: open.service,
            });
        }
        self.check_table(peer, &open.service, open.table)?;
        let devices = &self.settings.devices;
        let Some(memory) = devices.on(open.link) else {
            return Err(Mismatch::Link {
                ours: devices.links(),
                theirs: vec![open.link],
                same_host: true,
            });
        };
        let (who, endpoint) = (peer.to_owned(), open.endpoint);
        let accept = move |mailbox: &mut Mailbox| mailbox.accept(&who, open.from, &endpoint);
        let part = if open.parallel {
            service.front()
        } else {
            &service.serial
        };
        match part.mailbox(memory, accept).await {
            Some(Ok(endpoint)) => Ok(endpoint),
            Some(Err(error)) => Err(Mismatch::Connect(error.to_string())),
            None => Err(Mismatch::Connect(format!(
                "service `{}` is down",
                open.service
            ))),
        }
    }

    fn take_answer(&self, answer: Answer) {
        match self.dialing.borrow_mut().remove(&answer.id) {
            Some(waiter) => drop(waiter.send(answer.result)),
            // FENCE-1: the answer is to an open that has timed out, or to an earlier incarnation of
            // this agent.
            None => tracing::debug!(id = answer.id, "answer to an unknown open skipped"),
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
            return tracing::debug!(%peer, incarnation, "an earlier life of a peer has left");
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
        for service in self.services.borrow().values() {
            service.dismiss(peer, None, &LossCause::Left);
        }
    }

    async fn beat(self: Rc<Self>) {
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
        join_all(services.values().map(|service| service.flush(LAST_ANSWERS))).await;
        let cleaned = self.control().clean_up().await;
        self.end_lines().await;
        for (_, channel) in self.channels.take() {
            if let Some(channel) = channel.upgrade() {
                channel.close(LossCause::ShutDown);
            }
        }
        self.dlslime.end();
        self.one_sided.borrow_mut().end();
        for service in services.into_values() {
            service.end();
        }
        self.dialing.take();
        Arbiter::current().stop();
        Ok(cleaned?)
    }

    fn check_open(&self) -> Result<(), AgentError> {
        if self.left.get() {
            Err(AgentError::ShutDown)
        } else {
            Ok(())
        }
    }
}

/// Checks that a caller means this incarnation (FENCE-1), and uses the same wire version.
fn check_life(meant: u64, found: u64, wire_version: u32) -> Result<(), Mismatch> {
    if meant != found {
        return Err(Mismatch::Incarnation { meant, found });
    }
    if wire_version != WIRE_VERSION {
        return Err(Mismatch::WireVersion {
            ours: WIRE_VERSION,
            theirs: wire_version,
        });
    }
    Ok(())
}

/// The result of looking up a peer.
enum PeerLookup {
    Unknown,
    /// The peer is native, but has not published its descriptor yet.
    Silent,
    Found(Descriptor),
    Dlslime(PeerRecord),
}

/// A peer that can be connected with.
enum Found<T> {
    /// A native peer that passed the check, with the outcome.
    Native(Descriptor, T),
    /// A DLSlime peer, about which little can be checked.
    Dlslime(PeerRecord),
}

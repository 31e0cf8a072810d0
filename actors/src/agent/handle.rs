//! The handle of an agent.

use std::collections::HashMap;
use std::fmt;
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter, Message};
use futures_util::StreamExt;
use slimerpc::channel::{
    Buffer, Geometries, Geometry, MemoryAccount, Rights, ServiceTable, WaitPolicy,
};
use slimerpc::fabric::RetryPolicy;
use tokio::sync::{Mutex, broadcast};

use crate::agent::builder::{Builder, Settings};
use crate::agent::launch::{Callers, Launch};
use crate::agent::serve::{Serve, ServeOnce};
use crate::agent::supervisor::{
    Connect as ConnectMessage, ConnectService, KeepUp, Leave, ListPeers, Supervisor,
};
use crate::client::connection::ProxySetup;
use crate::client::watch::Follow;
use crate::memory::buffer::{BufferError, Offered, OwnBuffer, RdmaBuffer};
use crate::memory::devices::Devices;
use crate::memory::remote_buffer::RemoteBuffer;
use crate::observe::Observed;
use crate::service::one_shot_server::OneShotServer;
use crate::service::serial::StateSource;
use crate::supervision::factory::{Factory, Start};
use crate::{
    AgentError, AgentEvent, Caller, Events, Figures, PeerStatus, Proxy, ServedBy, Service,
    Terminated, Watch,
};

/// Number of events that are kept for slow listeners.
const EVENTS: usize = 1024;

/// An agent: it finds peers, connects to them, serves and calls. A `PeerAgent` is a handle: it is
/// cheap to clone, and all clones stand for the same agent, which lives until
/// [`shutdown`](Self::shutdown) or until the last of them is dropped. Behind it a supervisor actor
/// runs on an arbiter of its own.
///
/// ```
/// use slimerpc_actors::{PeerAgent, service};
///
/// #[derive(Default)]
/// struct Calc;
///
/// #[service]
/// impl Calc {
///     #[method]
///     fn add(&mut self, a: i64, b: i64) -> i64 {
///         a + b
///     }
/// }
///
/// #[actix::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let worker = PeerAgent::builder().local().alias("doc:worker").start().await?;
///     worker.serve(Calc::default()).await?;
///
///     let driver = PeerAgent::builder().local().alias("doc:driver").start().await?;
///     let calc = driver.proxy::<Calc>("doc:worker").await?;
///     assert_eq!(calc.add(1, 2).await?, 3);
///
///     driver.shutdown().await?;
///     worker.shutdown().await?;
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct PeerAgent {
    inner: Arc<Inner>,
}

/// The services that are served one request at a time, by name, with the tables that they publish.
type OneShotServices = HashMap<&'static str, (ServiceTable, Arc<Mutex<OneShotServer>>)>;

struct Inner {
    alias: String,
    incarnation: u64,
    supervisor: Addr<Supervisor>,
    devices: Devices,
    geometry: Geometry,
    dlslime_geometry: Geometry,
    retry: RetryPolicy,
    wait_policy: WaitPolicy,
    connect_timeout: Duration,
    call_timeout: Option<Duration>,
    reconnect_wait: Duration,
    stream_patience: Duration,
    workers: NonZeroUsize,
    /// The services that are served one request at a time.
    once: Mutex<OneShotServices>,
    events: broadcast::Sender<AgentEvent>,
    /// Where calls are counted, if they are.
    observed: Option<Arc<Observed>>,
    metrics_address: Option<SocketAddr>,
    /// The memory that peers may use.
    offered: Arc<Offered>,
}

impl PeerAgent {
    /// Returns a builder with the settings of a new agent.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) async fn start(settings: Settings) -> Result<Self, AgentError> {
        let arbiter = crate::agent::arbiter::start().map_err(AgentError::Thread)?;
        let devices = settings.devices.clone();
        let (geometry, retry) = (settings.geometry, settings.retry);
        let dlslime_geometry = settings.dlslime_geometry;
        let (busy_poll, workers) = (settings.busy_poll, settings.workers);
        let stream_patience = settings.stream_patience;
        let reconnect_wait = settings.reconnect_wait;
        let (connect_timeout, call_timeout) = (settings.connect_timeout, settings.call_timeout);
        let events = broadcast::Sender::new(EVENTS);
        let observed = settings.observed.clone();
        let metrics_address = settings.metrics.address();
        let heard = events.clone();
        let (tell, told) = tokio::sync::oneshot::channel();
        arbiter.spawn_fn(move || {
            actix::spawn(async move {
                let started = Supervisor::start_here(settings, heard).await;
                if started.is_err() {
                    Arbiter::current().stop();
                }
                let runtime = tokio::runtime::Handle::current();
                let _ = tell.send(started.map(|started| (started, runtime)));
            });
        });
        let (started, runtime) = told.await.map_err(|_| AgentError::ShutDown)??;
        let wait_policy = WaitPolicy { busy_poll, runtime };
        Ok(Self {
            inner: Arc::new(Inner {
                alias: started.alias,
                incarnation: started.incarnation,
                supervisor: started.supervisor,
                devices,
                geometry,
                dlslime_geometry,
                retry,
                wait_policy,
                connect_timeout,
                call_timeout,
                reconnect_wait,
                stream_patience,
                workers,
                once: Mutex::default(),
                events,
                observed,
                metrics_address,
                offered: Arc::default(),
            }),
        })
    }

    /// The alias under which peers find this agent.
    pub fn alias(&self) -> &str {
        &self.inner.alias
    }

    /// Name of the preferred device.
    pub fn device(&self) -> &str {
        self.inner.devices.first().device().name()
    }

    /// Subscribes to the agent's events from now on: all that happens to it beside its calls.
    ///
    /// ```no_run
    /// # async fn example(agent: slimerpc_actors::PeerAgent) {
    /// let mut events = agent.events();
    /// while let Some(event) = events.next().await {
    ///     println!("{event:?}");
    /// }
    /// # }
    /// ```
    pub fn events(&self) -> Events {
        Events(self.inner.events.subscribe())
    }

    /// The figures of this agent's calls and services, and what happened beside them; `None` unless
    /// it counts: see [`Builder::metrics`].
    pub fn figures(&self) -> Option<Figures> {
        let observed = self.inner.observed.as_ref()?;
        Some(observed.figures(self.memory()))
    }

    /// Where this agent serves its metrics over HTTP, if it does: see
    /// [`Builder::metrics_address`]. If the port was 0, this has the one that the system chose.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.inner.metrics_address
    }

    /// Bytes that this agent has registered on all its devices, for payloads beyond a slot and for
    /// one-sided memory.
    pub fn memory(&self) -> MemoryAccount {
        self.inner.devices.account()
    }

    /// Number and size of the slots of this agent's rings, towards native peers: how many calls a
    /// proxy has in flight, and how large a message may be that travels in a slot.
    pub fn geometry(&self) -> Geometry {
        self.inner.geometry
    }

    /// Declares that this agent wants to be connected with `peer`, and waits until the peer is
    /// there.
    ///
    /// [`proxy`](Self::proxy) does this itself; call it to wait for a peer beforehand.
    pub fn connect_to(&self, peer: impl Into<String>) -> Connect {
        Connect {
            agent: self.clone(),
            peer: peer.into(),
            qp_num: 1,
            timeout: self.inner.connect_timeout,
        }
    }

    /// Serves `state` to every peer, on an arbiter of its own. Await the returned [`Serve`] to
    /// start; before that the service can be [named](Serve::named), [limited to one
    /// peer](Serve::peer), or [served as a trait](Serve::as_service).
    ///
    /// After a panic in a handler the instance goes on with its state;
    /// [`serve_with`](Self::serve_with) replaces it instead.
    #[doc(alias = "serve_as")]
    pub fn serve<A: Send + 'static>(&self, state: A) -> Serve<A, A> {
        Serve::new(
            self.clone(),
            Box::new(move || StateSource::Value(state)),
            false,
        )
    }

    /// Serves what `factory` builds on the instance's own arbiter, so the state need not be `Send`.
    /// After a panic in a handler the factory builds a new instance; [`restart`](Serve::restart)
    /// sets how often and how soon.
    #[doc(alias = "serve_as_with")]
    pub fn serve_with<A: 'static>(
        &self,
        mut factory: impl FnMut() -> A + Send + 'static,
    ) -> Serve<A, A> {
        let source = move || {
            StateSource::Factory(Factory {
                make: Box::new(move |_| Ok(factory())),
                hands_over: false,
            })
        };
        Serve::new(self.clone(), Box::new(source), true)
    }

    /// Serves what a factory builds that may fail, and that may take state over from the instance
    /// it replaces; otherwise like [`serve_with`](Self::serve_with).
    ///
    /// A failed start counts as a restart and is tried again. If the very first start fails,
    /// serving fails.
    ///
    /// ```
    /// use slimerpc_actors::{PeerAgent, Start, service};
    ///
    /// struct Cache {
    ///     entries: Vec<String>,
    /// }
    ///
    /// #[service]
    /// impl Cache {
    ///     #[method]
    ///     fn add(&mut self, entry: String) -> u64 {
    ///         if entry.is_empty() {
    ///             panic!("empty");
    ///         }
    ///         self.entries.push(entry);
    ///         self.entries.len() as u64
    ///     }
    /// }
    ///
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let worker = PeerAgent::builder().local().alias("from:worker").start().await?;
    /// let factory = |start: &mut Start<Cache>| -> Result<Cache, std::io::Error> {
    ///     let entries = start.take_previous().map(|cache| cache.entries);
    ///     Ok(Cache { entries: entries.unwrap_or_default() })
    /// };
    /// worker.serve_from(factory).await?;
    /// let cache = worker.proxy::<Cache>(worker.alias()).await?;
    /// assert_eq!(cache.add("one".into()).await?, 1);
    /// assert!(cache.add(String::new()).await.is_err());
    /// assert_eq!(cache.add("two".into()).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "serve_as_from")]
    pub fn serve_from<A: 'static, E: fmt::Display>(
        &self,
        mut factory: impl FnMut(&mut Start<A>) -> Result<A, E> + Send + 'static,
    ) -> Serve<A, A> {
        let source = move || {
            StateSource::Factory(Factory {
                make: Box::new(move |start| factory(start).map_err(|error| error.to_string())),
                hands_over: true,
            })
        };
        Serve::new(self.clone(), Box::new(source), true)
    }

    /// Handles one request for `service`, from any peer, on the task that awaits this and with
    /// state that it only borrows. For programs that have other work between requests.
    ///
    /// The first call offers the service to all peers until the agent leaves. Requests that arrive
    /// between two calls wait. Parallel methods run in turn with the serial ones.
    ///
    /// ```
    /// # use slimerpc_actors::{PeerAgent, service};
    /// # #[derive(Default)]
    /// # struct Calc { calls: u32 }
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         self.calls += 1;
    /// #         a + b
    /// #     }
    /// # }
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let worker = PeerAgent::builder().local().alias("once:worker").start().await?;
    /// # let driver = PeerAgent::builder().local().alias("once:driver").start().await?;
    /// # actix::spawn(async move {
    /// #     let calc = driver.proxy::<Calc>("once:worker").await.expect("it is served");
    /// #     assert_eq!(calc.add(1, 2).await, Ok(3));
    /// # });
    /// let mut calc = Calc::default();
    /// worker.serve_once(&mut calc).await?;
    /// assert_eq!(calc.calls, 1);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "serve_once_as")]
    pub fn serve_once<'a, A: 'static>(&self, service: &'a mut A) -> ServeOnce<'a, A, A> {
        ServeOnce::new(self.clone(), service)
    }

    /// Handles one request for the service `S`.
    pub(crate) async fn serve_one_request<S, A>(&self, service: &mut A) -> Result<(), AgentError>
    where
        S: ServedBy<A> + ?Sized,
        A: 'static,
    {
        let once = {
            let mut offered = self.inner.once.lock().await;
            let table = table::<S>(S::NAME);
            match offered.get(S::NAME) {
                Some((served, once)) if *served == table => once.clone(),
                // Callers use the method numbers and types of the service that was published first
                // (TYPE-1).
                Some(_) => {
                    return Err(AgentError::AlreadyServed {
                        service: S::NAME.to_owned(),
                    });
                }
                None => {
                    let launch = self.launching(S::NAME.to_owned(), Callers::All, None);
                    let once = Arc::new(Mutex::new(launch.serve_once::<S, A>().await?));
                    offered.insert(S::NAME, (table, once.clone()));
                    once
                }
            }
        };
        once.lock().await.serve::<S, A>(service).await
    }

    pub(crate) fn launching(
        &self,
        name: String,
        callers: Callers,
        workers: Option<NonZeroUsize>,
    ) -> Launch {
        let inner = &self.inner;
        Launch {
            name,
            callers,
            workers: workers.unwrap_or(inner.workers),
            incarnation: inner.incarnation,
            geometries: Geometries {
                native: inner.geometry,
                compatible: inner.dlslime_geometry,
            },
            retry: inner.retry,
            busy_poll: inner.wait_policy.busy_poll,
            stream_patience: inner.stream_patience,
            supervisor: inner.supervisor.clone(),
            observed: inner.observed.clone(),
        }
    }

    /// Connects to the service `S` of `peer` and returns a proxy for it. `peer` may be this agent
    /// itself, whose services it calls like those of any other agent of this host.
    ///
    /// The call waits up to the connect timeout for the peer to appear and to serve `S`.
    ///
    /// # Errors
    /// [`AgentError::PeerUnknown`], [`AgentError::ConnectTimeout`], or [`AgentError::Refused`],
    /// which names both sides' values, when the two agents or their versions of the service do not
    /// fit together.
    pub async fn proxy<S: Service + ?Sized>(&self, peer: &str) -> Result<Proxy<S>, AgentError> {
        self.proxy_named(peer, S::NAME).await
    }

    /// Connects to a service of `peer` that is [served under a name](Serve::named), and returns a
    /// proxy for it.
    ///
    /// # Errors
    /// The errors of [`proxy`](Self::proxy).
    pub async fn proxy_named<S: Service + ?Sized>(
        &self,
        peer: &str,
        name: &str,
    ) -> Result<Proxy<S>, AgentError> {
        self.proxy_within(peer, name, self.inner.connect_timeout)
            .await
    }

    /// Connects to a service of `peer` by name, within a time limit for finding and connecting the
    /// peer.
    pub(crate) async fn proxy_within<S: Service + ?Sized>(
        &self,
        peer: &str,
        name: &str,
        timeout: Duration,
    ) -> Result<Proxy<S>, AgentError> {
        let wanted = table::<S>(name);
        let connected = self
            .ask(ConnectService {
                peer: peer.to_owned(),
                wanted: wanted.clone(),
                wait_policy: self.inner.wait_policy.clone(),
                timeout,
                again: false,
            })
            .await?;
        let setup = ProxySetup {
            peer: peer.into(),
            wanted,
            methods: S::METHODS,
            wait_policy: self.inner.wait_policy.clone(),
            connect_timeout: self.inner.connect_timeout,
            is_local: peer == self.inner.alias,
            events: self.inner.events.clone(),
            observed: self.inner.observed.clone(),
            follow: self.inner.supervisor.clone().recipient(),
        };
        let caller = Caller::new(
            setup,
            connected,
            self.inner.call_timeout,
            self.inner.reconnect_wait,
        );
        if let Some(proxy) = caller.healing() {
            self.inner.supervisor.do_send(KeepUp(proxy));
        }
        Ok(Proxy::new(caller))
    }

    /// Follows a native peer: the stream reports that it is there, has stalled, is lost, and comes
    /// back. The two agents send each other heartbeats while anybody watches the peer or has a
    /// proxy for it that does not [rest](crate::Timeouts::idle_after).
    ///
    /// The call waits up to the connect timeout for the peer to register. The stream begins with
    /// the present status: that the peer is there, if it has not been lost; or how it was lost, if
    /// it was watched or called before and is not back.
    ///
    /// ```no_run
    /// # use futures_util::StreamExt;
    /// # use slimerpc_actors::{AgentError, PeerAgent, PeerEvent};
    /// # async fn example(agent: PeerAgent) -> Result<(), AgentError> {
    /// let mut events = agent.watch("worker:0").await?;
    /// while let Some(event) = events.next().await {
    ///     match event {
    ///         PeerEvent::Lost { cause } => println!("worker:0 is lost: {cause}"),
    ///         PeerEvent::Reconnected { incarnation } => {
    ///             println!("it is back as {incarnation:#x}");
    ///         }
    ///         other => println!("{other:?}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AgentError::PeerUnknown`]; [`AgentError::NotNative`] for a DLSlime peer, which sends no
    /// heartbeats; [`AgentError::WatchesItself`].
    pub async fn watch(&self, peer: &str) -> Result<Watch, AgentError> {
        let follow = Follow {
            peer: peer.to_owned(),
            timeout: self.inner.connect_timeout,
        };
        self.ask(follow).await
    }

    /// Sends an actor one message when `peer` is lost or leaves: at once if it is already lost and
    /// has not come back.
    ///
    /// ```no_run
    /// # use actix::{Actor, Addr, Context, Handler};
    /// # use slimerpc_actors::{AgentError, PeerAgent, Terminated};
    /// # struct Router;
    /// # impl Actor for Router {
    /// #     type Context = Context<Self>;
    /// # }
    /// # impl Handler<Terminated> for Router {
    /// #     type Result = ();
    /// #     fn handle(&mut self, _: Terminated, _: &mut Context<Self>) {}
    /// # }
    /// # async fn example(agent: PeerAgent, router: Addr<Router>) -> Result<(), AgentError> {
    /// agent.death_watch("worker:0", router.recipient()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The errors of [`watch`](Self::watch).
    pub async fn death_watch(
        &self,
        peer: &str,
        actor: actix::Recipient<Terminated>,
    ) -> Result<(), AgentError> {
        let mut events = self.watch(peer).await?;
        let peer = peer.to_owned();
        self.inner.wait_policy.runtime.spawn(async move {
            while let Some(event) = events.next().await {
                if event.is_end() {
                    return actor.do_send(Terminated { peer, event });
                }
            }
        });
        Ok(())
    }

    /// Registers `len` zeroed bytes that peers with the [handle](OwnBuffer::handle) may use as
    /// `rights` allow, until the buffer is dropped. All devices of this agent share the memory.
    ///
    /// # Errors
    /// [`BufferError::Memory`]: more than `max_payload`, or than what is left of `payload_memory`
    /// or the system's limits.
    pub fn allocate(&self, len: usize, rights: Rights) -> Result<OwnBuffer, BufferError> {
        let devices = self.inner.devices.all_apart().map_err(AgentError::from)?;
        let buffer = Buffer::new(&devices, len, rights)?;
        let Inner {
            alias, incarnation, ..
        } = &*self.inner;
        Ok(self.inner.offered.offer(alias, *incarnation, buffer))
    }

    /// Lets peers use `bytes` while `work` runs, and withdraws them when it ends or is dropped.
    ///
    /// The bytes are copied into registered memory, and back at the end if peers may write them.
    /// Work in an [allocated](Self::allocate) buffer to avoid the copies.
    ///
    /// ```no_run
    /// # use slimerpc_actors::{BufferError, PeerAgent, Proxy, RdmaBuffer, Rights};
    /// # use slimerpc_actors::{RpcError, service};
    /// # struct Worker;
    /// # #[service]
    /// # impl Worker {
    /// #     #[method]
    /// #     fn fill(&mut self, gradients: RdmaBuffer) {}
    /// # }
    /// # async fn example(
    /// #     agent: PeerAgent,
    /// #     worker: Proxy<Worker>,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut gradients = vec![0; 1 << 20];
    /// let filled = agent.lend(&mut gradients, Rights::Write, async |buffer| {
    ///     worker.fill(buffer).await
    /// });
    /// filled.await??;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The errors of [`allocate`](Self::allocate).
    pub async fn lend<T>(
        &self,
        bytes: &mut [u8],
        rights: Rights,
        work: impl AsyncFnOnce(RdmaBuffer) -> T,
    ) -> Result<T, BufferError> {
        let buffer = self.allocate(bytes.len(), rights)?;
        buffer.write(0, bytes)?;
        let done = work(buffer.handle()).await;
        if rights.include(Rights::Write) {
            buffer.read(0, bytes)?;
        }
        Ok(done)
    }

    /// Connects with the owner of `buffer` (unless it is this agent) and returns access to the
    /// memory.
    ///
    /// # Errors
    /// [`BufferError::OwnerGone`], [`BufferError::Revoked`], or an error if the two agents cannot
    /// be connected.
    pub async fn attach(&self, buffer: &RdmaBuffer) -> Result<RemoteBuffer, BufferError> {
        let inner = &*self.inner;
        if buffer.owner() != inner.alias {
            return RemoteBuffer::remote(
                buffer,
                inner.supervisor.clone().recipient(),
                inner.wait_policy.clone(),
                inner.connect_timeout,
                inner.observed.clone(),
            )
            .await;
        }
        if buffer.incarnation() != inner.incarnation {
            return Err(BufferError::OwnerGone {
                owner: inner.alias.clone(),
            });
        }
        Ok(RemoteBuffer::local(buffer, inner.offered.clone()))
    }

    /// The peers that this agent is connected with or connects with, in order of their aliases:
    /// over which kind of link, and why over this one.
    ///
    /// ```
    /// # use slimerpc_actors::{LinkType, PeerAgent, service};
    /// # #[derive(Default)]
    /// # struct Calc;
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         a + b
    /// #     }
    /// # }
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let worker = PeerAgent::builder().local().alias("peers:worker").start().await?;
    /// # worker.serve(Calc::default()).await?;
    /// # let driver = PeerAgent::builder().local().alias("peers:driver").start().await?;
    /// let calc = driver.proxy::<Calc>("peers:worker").await?;
    /// for peer in driver.peers().await? {
    ///     // peers:worker: Some(Shm), same host, user and network namespace
    ///     println!("{}: {:?}, {}", peer.alias, peer.link, peer.why);
    /// }
    /// # drop(calc);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AgentError::ShutDown`].
    pub async fn peers(&self) -> Result<Vec<PeerStatus>, AgentError> {
        let asked = self.inner.supervisor.send(ListPeers).await;
        asked.unwrap_or(Err(AgentError::ShutDown))
    }

    /// How long finding and connecting a peer may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.inner.connect_timeout
    }

    /// Leaves: ends the services and connections, removes the agent's entries from the control
    /// plane, and tells the peers. Repeated calls do nothing.
    ///
    /// # Errors
    /// The control plane could not be told. Everything else has ended nevertheless.
    pub async fn shutdown(&self) -> Result<(), AgentError> {
        match self.ask(Leave).await {
            Err(AgentError::ShutDown) => Ok(()),
            other => other,
        }
    }

    pub(crate) async fn ask<M, T>(&self, message: M) -> Result<T, AgentError>
    where
        M: Message<Result = Result<T, AgentError>> + Send + 'static,
        T: Send + 'static,
        Supervisor: actix::Handler<M>,
    {
        self.inner
            .supervisor
            .send(message)
            .await
            .unwrap_or(Err(AgentError::ShutDown))
    }
}

/// The table of a service as its callers declare it.
pub(crate) fn table<S: Service + ?Sized>(name: &str) -> ServiceTable {
    let methods = || S::METHODS.iter().map(|&name| name.to_owned());
    let those = |which: &[bool]| {
        let chosen = methods().zip(which).filter(|(_, is_chosen)| **is_chosen);
        chosen.map(|(name, _)| name).collect()
    };
    ServiceTable {
        name: name.to_owned(),
        codec: S::CODEC.name().to_owned(),
        methods: methods().collect(),
        parallel: those(S::PARALLEL),
        streams: those(S::STREAMS),
        signatures: S::signatures().to_vec(),
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The last handle is gone: nobody can wait for the end any more.
        self.supervisor.do_send(Leave);
    }
}

impl fmt::Debug for PeerAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerAgent")
            .field("alias", &self.alias())
            .finish_non_exhaustive()
    }
}

/// A connection in the making; see [`PeerAgent::connect_to`]. Await it to connect.
#[derive(Debug)]
#[must_use = "a connection is made when this is awaited"]
pub struct Connect {
    agent: PeerAgent,
    peer: String,
    qp_num: u32,
    timeout: Duration,
}

impl Connect {
    /// Sets the number of queue pairs, at least 1, over which messages to a DLSlime peer in Python
    /// are striped. Channels between native agents always use one.
    pub fn qp_num(mut self, queue_pairs: u32) -> Self {
        self.qp_num = queue_pairs;
        self
    }

    /// Sets how long to wait for the peer; by default the agent's connect timeout.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }
}

impl IntoFuture for Connect {
    type Output = Result<(), AgentError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self {
                agent,
                peer,
                qp_num,
                timeout,
            } = self;
            if !(1..=64).contains(&qp_num) {
                return Err(AgentError::Setting {
                    name: "qp_num".into(),
                    value: qp_num.to_string(),
                    allowed: "a connection has 1 to 64 queue pairs".to_owned(),
                });
            }
            let connect = ConnectMessage {
                peer,
                queue_pairs: qp_num as usize,
                timeout,
            };
            agent.ask(connect).await
        })
    }
}

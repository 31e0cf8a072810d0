//! Starts services.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use slimerpc::channel::{Geometries, ServiceInfo};
use slimerpc::fabric::RetryPolicy;
use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::agent::handle::table;
use crate::agent::settings::check_workers;
use crate::agent::supervisor::{Ended, Publish, Supervisor, Withdraw};
use crate::service::instance::{Address, Instance};
use crate::service::mailboxes::Mailboxes;
use crate::service::one_shot_server::OneShotServer;
use crate::service::panics;
use crate::service::parallel_dispatcher::ParallelDispatcher;
use crate::service::pool::Pool;
use crate::service::ring_context::RequestHandler;
use crate::service::running::RunningService;
use crate::service::serial::{Report, Seen, Serial, StateSource};
use crate::supervision::factory::NotMade;
use crate::supervision::instance_id::InstanceId;
use crate::supervision::lifecycle::Hooks;
use crate::supervision::supervised::ChildId;
use crate::{AgentError, Lifecycle, PeerAgent, Restart, ServedBy, Service};

/// How long a stopped service may take to answer the requests that it has.
const DRAIN: Duration = Duration::from_secs(10);

/// Carries the source of a service's state to its arbiter.
pub(crate) type Bring<A> = Box<dyn FnOnce() -> StateSource<A> + Send>;

/// Who may call a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Callers {
    All,
    /// Only this peer.
    Peer(String),
    /// Only the one peer that the agent has asked to be connected with.
    OnlyPeer,
}

/// A service about to be served. [`PeerAgent::serve`](crate::PeerAgent::serve) and its kin make it;
/// await it to start.
///
/// ```no_run
/// # use slimerpc_actors::{AgentError, PeerAgent, service};
/// # #[derive(Default)]
/// # struct Calc;
/// # #[service]
/// # impl Calc {
/// #     #[method]
/// #     fn add(&mut self, a: i64, b: i64) -> i64 {
/// #         a + b
/// #     }
/// # }
/// # async fn example(agent: PeerAgent) -> Result<(), AgentError> {
/// agent.serve(Calc::default()).await?; // to all peers, as `Calc`
/// agent.serve(Calc::default()).named("second").await?; // found with `proxy_named("worker:0", "second")`
/// agent.serve(Calc::default()).named("private").peer("driver:0").await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a service is served when this is awaited"]
pub struct Serve<S: ?Sized, A> {
    agent: PeerAgent,
    name: Option<String>,
    callers: Callers,
    workers: Option<usize>,
    source: Bring<A>,
    hooks: Hooks<A>,
    /// Without a policy an instance goes on with its state, whatever happens.
    restart: Option<Restart>,
    has_factory: bool,
    service: PhantomData<fn(&S)>,
}

impl<S: ?Sized, A> Serve<S, A> {
    pub(crate) fn new(agent: PeerAgent, source: Bring<A>, has_factory: bool) -> Self {
        Self {
            agent,
            name: None,
            callers: Callers::All,
            workers: None,
            source,
            hooks: Hooks::none(),
            restart: has_factory.then(Restart::default),
            has_factory,
            service: PhantomData,
        }
    }

    /// Serves the state as the service `T`: `dyn Trait` for a `#[service]` trait that it implements.
    ///
    /// ```no_run
    /// # use slimerpc_actors::{AgentError, PeerAgent, service};
    /// #[service]
    /// trait Calculator {
    ///     #[method]
    ///     fn add(&mut self, a: i64, b: i64) -> i64;
    /// }
    ///
    /// struct Exact;
    ///
    /// impl Calculator for Exact {
    ///     fn add(&mut self, a: i64, b: i64) -> i64 {
    ///         a + b
    ///     }
    /// }
    ///
    /// # async fn example(agent: PeerAgent) -> Result<(), AgentError> {
    /// agent.serve(Exact).as_service::<dyn Calculator>().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn as_service<T: ServedBy<A> + ?Sized>(self) -> Serve<T, A>
    where
        A: 'static,
    {
        let Self {
            agent,
            name,
            callers,
            workers,
            source,
            hooks,
            restart,
            has_factory,
            service: _,
        } = self;
        Serve {
            agent,
            name,
            callers,
            workers,
            source,
            hooks,
            restart,
            has_factory,
            service: PhantomData,
        }
    }

    /// Sets what follows when an instance ends by itself. By default an instance that a factory
    /// made is restarted ([`Restart::permanent`]), and one that was served by value goes on with
    /// its state, unless it is [`temporary`](Restart::temporary).
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use slimerpc_actors::{AgentError, PeerAgent, Restart, service};
    /// # #[derive(Default)]
    /// # struct Calc;
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         a + b
    /// #     }
    /// # }
    /// # async fn example(agent: PeerAgent) -> Result<(), AgentError> {
    /// let restart = Restart::permanent().limit(3, Duration::from_secs(60));
    /// agent.serve_with(Calc::default).restart(restart).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = Some(restart);
        self
    }

    /// Runs the [`Lifecycle`] hooks of the instances.
    pub fn hooks(mut self) -> Self
    where
        A: Lifecycle,
    {
        self.hooks = Hooks::of_lifecycle();
        self
    }

    /// Serves under this name instead of the service's own, so that one type can be served several
    /// times.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Accepts this peer only and refuses others. Several services can thus each serve a DLSlime
    /// peer of their own.
    pub fn peer(mut self, alias: impl Into<String>) -> Self {
        self.callers = Callers::Peer(alias.into());
        self
    }

    /// Sets how many parallel methods may run at once, instead of [the agent's
    /// setting](crate::Limits::workers).
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = Some(threads);
        self
    }

    /// Accepts only the one peer that this agent [has asked to be connected
    /// with](crate::PeerAgent::connect_to).
    pub fn only_peer(mut self) -> Self {
        self.callers = Callers::OnlyPeer;
        self
    }
}

impl<S, A> IntoFuture for Serve<S, A>
where
    S: ServedBy<A> + ?Sized,
    A: 'static,
{
    /// # Errors
    /// An error if a service of the name is served already, the factory failed, a setting makes no
    /// sense, there is not exactly one peer for [`only_peer`](Serve::only_peer), or the device or
    /// control plane refuses.
    type Output = Result<ServiceHandle, AgentError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self {
                agent,
                name,
                callers,
                workers,
                source,
                hooks,
                restart,
                has_factory,
                ..
            } = self;
            let name = name.unwrap_or_else(|| S::NAME.to_owned());
            if name.is_empty() {
                return Err(AgentError::Setting {
                    name: "the name of a service".into(),
                    value: "empty".to_owned(),
                    allowed: "peers ask for a service by its name".to_owned(),
                });
            }
            let workers = workers.map(check_workers).transpose()?;
            if let Some(restart) = &restart {
                check_restart(restart, has_factory)?;
            }
            let launch = agent.launching(name, callers, workers);
            launch.serve::<S, A>(source, hooks, restart).await
        })
    }
}

impl<S: ?Sized, A> std::fmt::Debug for Serve<S, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serve")
            .field("name", &self.name)
            .field("callers", &self.callers)
            .finish_non_exhaustive()
    }
}

/// One request about to be served. [`PeerAgent::serve_once`](crate::PeerAgent::serve_once) makes
/// it; await it to serve.
#[must_use = "a request is served when this is awaited"]
pub struct ServeOnce<'a, S: ?Sized, A> {
    agent: PeerAgent,
    state: &'a mut A,
    service: PhantomData<fn(&S)>,
}

impl<'a, S: ?Sized, A> ServeOnce<'a, S, A> {
    pub(crate) fn new(agent: PeerAgent, state: &'a mut A) -> Self {
        Self {
            agent,
            state,
            service: PhantomData,
        }
    }

    /// Serves the state as the service `T`: `dyn Trait` for a `#[service]` trait that it implements.
    pub fn as_service<T: ServedBy<A> + ?Sized>(self) -> ServeOnce<'a, T, A>
    where
        A: 'static,
    {
        ServeOnce::new(self.agent, self.state)
    }
}

impl<'a, S, A> IntoFuture for ServeOnce<'a, S, A>
where
    S: ServedBy<A> + ?Sized,
    A: 'static,
{
    /// # Errors
    /// An error if the service is being served otherwise, the device or control plane refuses, or
    /// the agent leaves.
    type Output = Result<(), AgentError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.agent.serve_one_request::<S, A>(self.state).await })
    }
}

impl<S: ?Sized, A> std::fmt::Debug for ServeOnce<'_, S, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServeOnce")
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

/// Refuses methods whose types the codec cannot carry.
fn check_types<S: Service + ?Sized>(name: &str) -> Result<(), AgentError> {
    let refused = S::METHODS.iter().zip(S::signatures());
    for (method, signature) in refused {
        if let Some(reason) = signature.obstacle() {
            return Err(AgentError::NotInCodec {
                service: name.to_owned(),
                method: (*method).to_owned(),
                codec: S::CODEC.name().to_owned(),
                reason: reason.to_owned(),
            });
        }
    }
    Ok(())
}

/// Refuses a policy that makes no sense, or that needs a factory where there is none.
fn check_restart(restart: &Restart, has_factory: bool) -> Result<(), AgentError> {
    restart.check()?;
    if has_factory || restart.is_temporary() {
        return Ok(());
    }
    Err(AgentError::Setting {
        name: "restart".into(),
        value: format!("{restart:?}"),
        allowed: "what is served by value has nothing to be made anew from: use `serve_with`, or `temporary`".to_owned(),
    })
}

/// A running service. Dropping the handle does not end the service.
#[derive(Clone)]
pub struct ServiceHandle {
    name: String,
    supervisor: Addr<Supervisor>,
}

impl ServiceHandle {
    /// Name of the service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ends the service. The agent no longer offers it; requests that have arrived are answered,
    /// later ones end with [`RpcError::ServiceDown`](crate::RpcError::ServiceDown), and then
    /// callers lose their connection.
    ///
    /// Waits up to 10 s for running handlers; see [`stop_within`](Self::stop_within).
    ///
    /// # Errors
    /// The errors of [`stop_within`](Self::stop_within).
    pub async fn stop(&self) -> Result<(), AgentError> {
        self.stop_within(DRAIN).await
    }

    /// Ends the service as [`stop`](Self::stop) does, with another limit for running handlers.
    /// After the limit, an async handler is dropped where it awaits.
    ///
    /// # Errors
    /// [`AgentError::StillRunning`] if a sync handler still runs after the limit: it cannot be
    /// ended, so its thread goes on until it returns. Or an error if the control plane could not be
    /// told. The service is no longer offered in either case.
    pub async fn stop_within(&self, limit: Duration) -> Result<(), AgentError> {
        let withdraw = Withdraw {
            service: self.name.clone(),
            limit,
        };
        self.supervisor
            .send(withdraw)
            .await
            .unwrap_or(Err(AgentError::ShutDown))
    }
}

impl std::fmt::Debug for ServiceHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceHandle")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A service about to be started, with what it needs of its agent.
pub(crate) struct Launch {
    pub(crate) name: String,
    pub(crate) callers: Callers,
    pub(crate) workers: NonZeroUsize,
    pub(crate) incarnation: u64,
    pub(crate) geometries: Geometries,
    pub(crate) retry: RetryPolicy,
    pub(crate) busy_poll: Duration,
    pub(crate) stream_patience: Duration,
    pub(crate) supervisor: Addr<Supervisor>,
}

/// An instance that has started, and what its parallel methods (if any) see of it.
struct StartedInstance<T> {
    address: Address,
    shared: Option<watch::Receiver<T>>,
}

impl Launch {
    /// Starts the instance on an arbiter of its own, and its front on another if there are parallel
    /// methods; then has the agent publish the service.
    async fn serve<S, A>(
        self,
        source: Bring<A>,
        hooks: Hooks<A>,
        restart: Option<Restart>,
    ) -> Result<ServiceHandle, AgentError>
    where
        S: ServedBy<A> + ?Sized,
        A: 'static,
    {
        panics::trace();
        check_types::<S>(&self.name)?;
        let setup = self.setup();
        let child = restart.is_some().then(ChildId::new);
        let supervisor = self.supervisor.clone();
        let report = move |child| -> Report {
            Box::new(move |number, cause| {
                supervisor.do_send(Ended {
                    child,
                    number,
                    cause,
                });
            })
        };
        let start = move || {
            let report = child.map(report);
            setup.instance(|| Serial::<S, A>::start(source(), hooks, report))
        };
        let started = on_new_arbiter(start).await?;
        let mut running = RunningService {
            only: None,
            child,
            serial: started.address,
            front: None,
        };
        if let Some(shared) = started.shared {
            let (setup, workers) = (self.setup(), self.workers);
            let serial = running.serial.deliveries.clone();
            let front = on_new_arbiter(move || {
                let pool = Pool::start(workers, shared).map_err(AgentError::Thread)?;
                Ok(setup.start(ParallelDispatcher::<S, A>::new(serial, Some(pool))))
            });
            match front.await {
                Ok(front) => running.front = Some(front),
                Err(error) => {
                    running.end();
                    return Err(error);
                }
            }
        }
        let advertise = (self.callers == Callers::All).then_some(S::NAME);
        self.publish::<S>(running, advertise, restart).await
    }

    /// Starts only a front, which passes all requests on.
    pub(crate) async fn serve_once<S, A>(self) -> Result<OneShotServer, AgentError>
    where
        S: ServedBy<A> + ?Sized,
        A: 'static,
    {
        check_types::<S>(&self.name)?;
        let (tell, told) = mpsc::unbounded_channel();
        let setup = self.setup();
        let front =
            on_new_arbiter(move || Ok(setup.start(ParallelDispatcher::<S, A>::new(tell, None))));
        let running = RunningService {
            only: None,
            child: None,
            serial: front.await?,
            front: None,
        };
        let once = OneShotServer::new(self.setup().id, told);
        // Discovery must not find it: between two requests it may not be served for long, which
        // only callers that know it can expect.
        self.publish::<S>(running, None, None).await?;
        Ok(once)
    }

    async fn publish<S: Service + ?Sized>(
        self,
        running: RunningService,
        advertise: Option<&'static str>,
        restart: Option<Restart>,
    ) -> Result<ServiceHandle, AgentError> {
        let publish = Publish {
            restart,
            table: table::<S>(&self.name),
            callers: self.callers,
            advertise,
            running: running.clone(),
        };
        let published = self.supervisor.send(publish).await;
        if let Err(error) = published.unwrap_or(Err(AgentError::ShutDown)) {
            running.end();
            return Err(error);
        }
        Ok(ServiceHandle {
            name: self.name,
            supervisor: self.supervisor,
        })
    }

    fn setup(&self) -> InstanceSetup {
        InstanceSetup {
            id: InstanceId::new(self.incarnation, &self.name),
            name: self.name.clone(),
            geometries: self.geometries,
            retry: self.retry,
            busy_poll: self.busy_poll,
            stream_patience: self.stream_patience,
        }
    }
}

/// What an instance starts with.
struct InstanceSetup {
    id: InstanceId,
    name: String,
    geometries: Geometries,
    retry: RetryPolicy,
    busy_poll: Duration,
    stream_patience: Duration,
}

impl InstanceSetup {
    /// Starts the instance that owns the state, on the current arbiter.
    fn instance<S, A>(
        self,
        start: impl FnOnce() -> Result<(Serial<S, A>, Seen<S::Shared>), NotMade>,
    ) -> Result<StartedInstance<Arc<S::Shared>>, AgentError>
    where
        S: ServedBy<A> + ?Sized,
        A: 'static,
    {
        let (serial, shared) = start().map_err(|not_made| not_made.of_first(&self.name))?;
        Ok(StartedInstance {
            address: self.start(serial),
            shared,
        })
    }

    /// Starts an instance on the current arbiter.
    fn start<H: RequestHandler>(self, handler: H) -> Address {
        let (tell, told) = mpsc::unbounded_channel();
        let service_info = ServiceInfo {
            name: self.name,
            stream_patience: self.stream_patience,
        };
        let mailboxes = Mailboxes::new(service_info, self.geometries, self.retry, told);
        Instance::start(handler, self.id, mailboxes, self.busy_poll, tell)
    }
}

/// Runs `work` on a new arbiter, which stays if that succeeds.
async fn on_new_arbiter<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    let arbiter = crate::agent::arbiter::start().map_err(AgentError::Thread)?;
    let (tell, told) = tokio::sync::oneshot::channel();
    arbiter.spawn_fn(move || {
        let _ = tell.send(work());
    });
    let done = told.await.unwrap_or(Err(AgentError::ShutDown));
    if done.is_err() {
        arbiter.stop();
    }
    done
}

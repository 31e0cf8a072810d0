//! Starting a service instance on its own arbiter.

use std::cell::RefCell;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter, Recipient};
use slimerpc::channel::{ConnectError, Geometry, Mailbox};
use slimerpc::fabric::{Device, RetryPolicy};
use tokio::time::timeout;

use crate::agent::table;
use crate::answer::panic_message;
use crate::instance::{Drain, Factory, Instance, Stop, WithMailboxes};
use crate::instance_id::InstanceId;
use crate::mailboxes::Mailboxes;
use crate::ring_context::{Ending, RingContext, Rings};
use crate::supervisor::{Publish, Supervisor, Withdraw};
use crate::{AgentError, PeerAgent, ServedBy};

/// How long a service that is stopped may take to answer what it has.
const DRAIN: Duration = Duration::from_secs(10);

/// Makes the state of a service, on its arbiter.
pub(crate) type Build<A> = Box<dyn FnOnce() -> (A, Option<Factory<A>>) + Send>;

/// Who may call a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Callers {
    All,
    /// This peer.
    Peer(String),
    /// The only peer that the agent has asked to be connected with.
    OnlyPeer,
}

/// A service about to be served; made by [`PeerAgent::serve`](crate::PeerAgent::serve) and its kin. Await it.
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
    build: Build<A>,
    service: PhantomData<fn(&S)>,
}

impl<S: ?Sized, A> Serve<S, A> {
    pub(crate) fn new(agent: PeerAgent, build: Build<A>) -> Self {
        Self {
            agent,
            name: None,
            callers: Callers::All,
            build,
            service: PhantomData,
        }
    }

    /// Serves under this name instead of the service's own, so that one type can be served several times.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Serves this peer alone; others are refused. With that, several services can each serve a DLSlime peer of its own.
    pub fn peer(mut self, alias: impl Into<String>) -> Self {
        self.callers = Callers::Peer(alias.into());
        self
    }

    /// Serves the one peer alone that this agent [has asked to be connected with](crate::PeerAgent::connect_to).
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
    /// A service of the name is served already, the factory panicked, there is not exactly one peer for
    /// [`only_peer`](Serve::only_peer), or the device or control plane refuses.
    type Output = Result<ServiceHandle, AgentError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self {
                agent,
                name,
                callers,
                build,
                ..
            } = self;
            let name = name.unwrap_or_else(|| S::NAME.to_owned());
            if name.is_empty() {
                return Err(AgentError::Setting {
                    name: "the name of a service",
                    value: "empty".to_owned(),
                    allowed: "peers ask for a service by its name".to_owned(),
                });
            }
            agent.launch::<S, A>(name, callers, build).await
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

/// What an instance needs of its agent.
pub(crate) struct Launch {
    pub(crate) name: String,
    pub(crate) callers: Callers,
    pub(crate) incarnation: u64,
    pub(crate) geometry: Geometry,
    pub(crate) retry: RetryPolicy,
    pub(crate) busy_poll: Duration,
}

/// The ways to reach an instance, without its types.
#[derive(Clone)]
pub(crate) struct Running {
    /// The only peer that may call it, if there is but one.
    pub(crate) only: Option<String>,
    pub(crate) mailboxes: Recipient<WithMailboxes>,
    drain: Recipient<Drain>,
    stop: Recipient<Stop>,
    pub(crate) arbiter: actix::ArbiterHandle,
}

impl Running {
    /// Does something with the mailbox on `device`, on the instance's arbiter. `None` if the instance has ended.
    pub(crate) async fn mailbox<T: Send + 'static>(
        &self,
        device: &Arc<dyn Device>,
        work: impl FnOnce(&mut Mailbox) -> Result<T, ConnectError> + Send + 'static,
    ) -> Option<Result<T, ConnectError>> {
        let device = device.clone();
        let (tell, told) = tokio::sync::oneshot::channel();
        let work = move |mailboxes: &mut Mailboxes| {
            let _ = tell.send(mailboxes.on(&device).and_then(work));
        };
        self.mailboxes
            .send(WithMailboxes(Box::new(work)))
            .await
            .ok()?;
        told.await.ok()
    }

    /// Closes the channels of a peer that has left.
    pub(crate) fn dismiss(&self, peer: &str) {
        let peer = peer.to_owned();
        let work = move |mailboxes: &mut Mailboxes| mailboxes.dismiss(&peer);
        self.mailboxes.do_send(WithMailboxes(Box::new(work)));
    }

    /// Has the instance answer what it has and take nothing more. False if that takes longer than `limit`.
    pub(crate) async fn drain(&self, limit: Duration) -> bool {
        timeout(limit, self.drain.send(Drain)).await.is_ok()
    }

    /// Ends the instance and its arbiter; not before a sync handler that runs has returned, but without waiting for it.
    pub(crate) fn end(self) {
        self.stop.do_send(Stop);
        self.arbiter.stop();
    }
}

/// A service that is being served. Dropping the handle does not end it.
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

    /// Ends the service: the agent no longer offers it, requests that have arrived are answered, those that come later
    /// end with [`RpcError::ServiceDown`](crate::RpcError::ServiceDown), and then callers lose their connection.
    ///
    /// Waits for running handlers up to 10 s; see [`stop_within`](Self::stop_within).
    ///
    /// # Errors
    /// As [`stop_within`](Self::stop_within).
    pub async fn stop(&self) -> Result<(), AgentError> {
        self.stop_within(DRAIN).await
    }

    /// The same, with another limit. When it has passed, an async handler is dropped where it awaits.
    ///
    /// # Errors
    /// [`AgentError::StillRunning`] if the limit has passed: a sync handler cannot be ended, so its thread goes on until
    /// it returns. Or the control plane could not be told. The service is no longer offered all the same.
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

/// Starts an instance on an arbiter of its own and has the agent publish it.
pub(crate) async fn launch<S, A>(
    launch: Launch,
    supervisor: &Addr<Supervisor>,
    build: Build<A>,
) -> Result<ServiceHandle, AgentError>
where
    S: ServedBy<A> + ?Sized,
    A: 'static,
{
    let arbiter = crate::arbiter::start().map_err(AgentError::Thread)?;
    let (tell, told) = tokio::sync::oneshot::channel();
    let (name, callers) = (launch.name.clone(), launch.callers.clone());
    arbiter.spawn_fn(move || {
        let _ = tell.send(start::<S, A>(launch, build));
    });
    let published = match told.await {
        Ok(Ok(running)) => {
            let publish = Publish {
                table: table::<S>(&name),
                callers,
                running,
            };
            supervisor
                .send(publish)
                .await
                .unwrap_or(Err(AgentError::ShutDown))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(AgentError::ShutDown),
    };
    match published {
        Ok(()) => Ok(ServiceHandle {
            name,
            supervisor: supervisor.clone(),
        }),
        Err(error) => {
            arbiter.stop();
            Err(error)
        }
    }
}

/// On the instance's arbiter.
fn start<S, A>(launch: Launch, build: Build<A>) -> Result<Running, AgentError>
where
    S: ServedBy<A> + ?Sized,
    A: 'static,
{
    let built = catch_unwind(AssertUnwindSafe(build));
    let (state, factory) = built.map_err(|panic| AgentError::FactoryPanicked {
        service: launch.name.clone(),
        message: panic_message(&*panic),
    })?;
    let mailboxes = Mailboxes::new(&launch.name, launch.geometry, launch.retry);
    let mailboxes = Rc::new(RefCell::new(mailboxes));
    let id = InstanceId::new(launch.incarnation, &launch.name);
    let ending = Rc::new(Ending::default());
    let rings = Rings::new(id, mailboxes.clone(), ending.clone(), launch.busy_poll);
    let instance = Instance::<S, A>::new(state, factory, mailboxes, ending);
    let address = RingContext::start(instance, rings);
    Ok(Running {
        only: None,
        mailboxes: address.clone().recipient(),
        drain: address.clone().recipient(),
        stop: address.recipient(),
        arbiter: Arbiter::current(),
    })
}

//! Starts services.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use actix::Addr;
use slimerpc::settings;

use crate::agent::launch::{Bring, Callers};
use crate::agent::supervisor::{Supervisor, Withdraw};
use crate::supervision::lifecycle::Hooks;
use crate::{AgentError, Lifecycle, PeerAgent, Restart, ServedBy};

/// How long a stopped service may take to answer the requests that it has.
const DRAIN: Duration = Duration::from_secs(10);

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
/// // Found with `proxy_named("worker:0", "second")`.
/// agent.serve(Calc::default()).named("second").await?;
/// agent.serve(Calc::default()).named("private").peer("driver:0").await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a service is served when this is awaited"]
pub struct Serve<S: ?Sized, A> {
    options: Options<A>,
    service: PhantomData<fn(&S)>,
}

/// How a service is served, whatever its methods are called.
struct Options<A> {
    agent: PeerAgent,
    name: Option<String>,
    callers: Callers,
    workers: Option<usize>,
    source: Bring<A>,
    hooks: Hooks<A>,
    /// Without a policy an instance goes on with its state, whatever happens.
    restart: Option<Restart>,
    has_factory: bool,
}

impl<S: ?Sized, A> Serve<S, A> {
    pub(crate) fn new(agent: PeerAgent, source: Bring<A>, has_factory: bool) -> Self {
        Self {
            options: Options {
                agent,
                name: None,
                callers: Callers::All,
                workers: None,
                source,
                hooks: Hooks::none(),
                restart: has_factory.then(Restart::default),
                has_factory,
            },
            service: PhantomData,
        }
    }

    /// Serves the state as the service `T`: `dyn Trait` for a `#[service]` trait that it
    /// implements.
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
        Serve {
            options: self.options,
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
        self.options.restart = Some(restart);
        self
    }

    /// Runs the [`Lifecycle`] hooks of the instances.
    pub fn hooks(mut self) -> Self
    where
        A: Lifecycle,
    {
        self.options.hooks = Hooks::of_lifecycle();
        self
    }

    /// Serves under this name instead of the service's own, so that one type can be served several
    /// times.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// Accepts this peer only and refuses others. Several services can thus each serve a DLSlime
    /// peer of their own.
    pub fn peer(mut self, alias: impl Into<String>) -> Self {
        self.options.callers = Callers::Peer(alias.into());
        self
    }

    /// Sets how many parallel methods may run at once, instead of [the agent's
    /// setting](crate::Limits::workers).
    pub fn workers(mut self, threads: usize) -> Self {
        self.options.workers = Some(threads);
        self
    }

    /// Accepts only the one peer that this agent [has asked to be connected
    /// with](crate::PeerAgent::connect_to).
    pub fn only_peer(mut self) -> Self {
        self.options.callers = Callers::OnlyPeer;
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
            let options = self.options;
            let name = options.name.unwrap_or_else(|| S::NAME.to_owned());
            if name.is_empty() {
                return Err(AgentError::Setting {
                    name: "the name of a service".into(),
                    value: "empty".to_owned(),
                    allowed: "peers ask for a service by its name".to_owned(),
                });
            }
            let workers = options.workers.map(settings::workers).transpose()?;
            if let Some(restart) = &options.restart {
                check_restart(restart, options.has_factory)?;
            }
            let launch = options.agent.launching(name, options.callers, workers);
            launch
                .serve::<S, A>(options.source, options.hooks, options.restart)
                .await
        })
    }
}

impl<S: ?Sized, A> std::fmt::Debug for Serve<S, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serve")
            .field("name", &self.options.name)
            .field("callers", &self.options.callers)
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

    /// Serves the state as the service `T`: `dyn Trait` for a `#[service]` trait that it
    /// implements.
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
    pub(crate) name: String,
    pub(crate) supervisor: Addr<Supervisor>,
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

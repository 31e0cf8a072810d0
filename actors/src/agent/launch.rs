//! Starts a service: its instance and its front, each on an arbiter of its own.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use slimerpc::channel::{CallFigures, Geometries, ServiceInfo};
use slimerpc::fabric::RetryPolicy;
use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::agent::arbiter::on_new_arbiter;
use crate::agent::handle::table;
use crate::agent::serve::ServiceHandle;
use crate::agent::supervisor::{Ended, Publish, Supervisor};
use crate::observe::Observed;
use crate::service::instance::{Address, Instance};
use crate::service::mailboxes::Mailboxes;
use crate::service::one_shot_server::OneShotServer;
use crate::service::panics;
use crate::service::parallel_dispatcher::ParallelDispatcher;
use crate::service::pool::Pool;
use crate::service::ring_context::RequestHandler;
use crate::service::running::RunningService;
use crate::service::serial::{Report, Seen, Serial, StateSource};
use crate::supervision::current_handler::InstanceId;
use crate::supervision::factory::NotMade;
use crate::supervision::lifecycle::Hooks;
use crate::supervision::supervised::ChildId;
use crate::{AgentError, Restart, ServedBy, Service};

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
    /// Where calls are counted, if they are.
    pub(crate) observed: Option<Arc<Observed>>,
}

/// An instance that has started, and what its parallel methods (if any) see of it.
struct StartedInstance<T> {
    address: Address,
    shared: Option<watch::Receiver<T>>,
}

impl Launch {
    /// Starts the instance on an arbiter of its own, and its front on another if there are parallel
    /// methods; then has the agent publish the service.
    pub(crate) async fn serve<S, A>(
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
        let setup = self.setup::<S>();
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
            type_name: S::NAME,
            serial: started.address,
            front: None,
        };
        if let Some(shared) = started.shared {
            let (setup, workers) = (self.setup::<S>(), self.workers);
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
        let id = InstanceId::new(self.incarnation, &self.name);
        let setup = self.setup::<S>();
        let front =
            on_new_arbiter(move || Ok(setup.start(ParallelDispatcher::<S, A>::new(tell, None))));
        let running = RunningService {
            only: None,
            child: None,
            type_name: S::NAME,
            serial: front.await?,
            front: None,
        };
        let once = OneShotServer::new(id, told);
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

    fn setup<S: Service + ?Sized>(&self) -> InstanceSetup {
        let observed = self.observed.as_ref();
        InstanceSetup {
            figures: observed.map(|observed| observed.serve(&self.name, S::METHODS)),
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
    figures: Option<Arc<CallFigures>>,
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
            figures: self.figures,
        };
        let mailboxes = Mailboxes::new(service_info, self.geometries, self.retry, told);
        Instance::start(handler, self.id, mailboxes, self.busy_poll, tell)
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

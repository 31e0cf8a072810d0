//! Starting a service instance on its own arbiter.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter, Recipient};
use slimerpc::channel::{Geometry, Mailbox};
use slimerpc::fabric::{Device, FabricError};

use crate::agent::table;
use crate::answer::panic_message;
use crate::instance::{Accept, Dismiss, Factory, Instance, Stop};
use crate::ring_context::{RingContext, Rings};
use crate::supervisor::{Publish, Supervisor, Withdraw};
use crate::{AgentError, ServedBy};

/// What an instance needs of its agent.
pub(crate) struct Launch {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) geometry: Geometry,
    pub(crate) busy_poll: Duration,
}

/// The ways to reach an instance, without its types.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) accept: Recipient<Accept>,
    pub(crate) dismiss: Recipient<Dismiss>,
    pub(crate) stop: Recipient<Stop>,
    pub(crate) arbiter: actix::ArbiterHandle,
}

impl Running {
    /// Ends the instance and its arbiter.
    pub(crate) async fn end(self) {
        let _ = self.stop.send(Stop).await;
        self.arbiter.stop();
    }
}

/// A service that is being served. Dropping the handle does not end it.
#[derive(Clone)]
pub struct ServiceHandle {
    name: &'static str,
    supervisor: Addr<Supervisor>,
}

impl ServiceHandle {
    /// Name of the service.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Ends the service: its callers lose their connection, and the agent no longer offers it.
    ///
    /// # Errors
    /// The control plane could not be told; the service has ended all the same.
    pub async fn stop(&self) -> Result<(), AgentError> {
        let withdraw = Withdraw {
            service: self.name.to_owned(),
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
    build: impl FnOnce() -> (A, Option<Factory<A>>) + Send + 'static,
) -> Result<ServiceHandle, AgentError>
where
    S: ServedBy<A> + ?Sized,
    A: 'static,
{
    let arbiter = crate::arbiter::start().map_err(AgentError::Thread)?;
    let (tell, told) = tokio::sync::oneshot::channel();
    arbiter.spawn_fn(move || {
        let _ = tell.send(start::<S, A>(launch, build));
    });
    let published = match told.await {
        Ok(Ok(running)) => {
            let publish = Publish {
                table: table::<S>(),
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
            name: S::NAME,
            supervisor: supervisor.clone(),
        }),
        Err(error) => {
            arbiter.stop();
            Err(error)
        }
    }
}

/// On the instance's arbiter.
fn start<S, A>(
    launch: Launch,
    build: impl FnOnce() -> (A, Option<Factory<A>>),
) -> Result<Running, AgentError>
where
    S: ServedBy<A> + ?Sized,
    A: 'static,
{
    let built = catch_unwind(AssertUnwindSafe(build));
    let (state, factory) = built.map_err(|panic| AgentError::FactoryPanicked {
        service: S::NAME.to_owned(),
        message: panic_message(&*panic),
    })?;
    let mailbox = Mailbox::new(launch.device, launch.geometry, S::NAME)?;
    let mailbox = Rc::new(RefCell::new(mailbox));
    let rings =
        Rings::new(mailbox.clone(), launch.busy_poll).map_err(|source| FabricError::Os {
            doing: "awaiting completions",
            source,
        })?;
    let address = RingContext::start(Instance::<S, A>::new(state, factory, mailbox), rings);
    Ok(Running {
        accept: address.clone().recipient(),
        dismiss: address.clone().recipient(),
        stop: address.recipient(),
        arbiter: Arbiter::current(),
    })
}
